"""Actions of one's own: any piece of code that should be counted and profiled under a name."""

from __future__ import annotations

import functools
from typing import Any, Callable, List, Optional, TypeVar

from ._switch import _runtime

_F = TypeVar('_F', bound=Callable[..., Any])


class _Nothing:
    """Stands for a native action where there is no extension."""

    task_uuid: Optional[str] = None
    profiled = False

    def begin(self) -> None:
        pass

    def end(self, error: bool = False) -> None:
        pass


class Action:
    """A context manager and decorator; get one from `action`. Each entry is an action of its own."""

    __slots__ = ('name', 'fields', '_task_uuid', '_open', '_last')

    def __init__(self, name: str, task_uuid: Optional[str] = None, **fields: Any) -> None:
        if not isinstance(name, str):
            raise TypeError('the name of an action must be a string, not %r' % (name,))
        self.name = name
        self.fields = fields
        self._task_uuid = task_uuid
        self._open: List[Any] = []
        self._last: Any = _Nothing()

    @property
    def task_uuid(self) -> Optional[str]:
        """The task UUID of the innermost open entry, else of the one that ended last; None before the first."""
        return (self._open[-1] if self._open else self._last).task_uuid  # type: ignore[no-any-return]

    @property
    def profiled(self) -> bool:
        """Whether that entry was admitted for profiling."""
        return bool((self._open[-1] if self._open else self._last).profiled)

    def __enter__(self) -> Action:
        handle = _Nothing() if _runtime is None else _runtime.Action(self.name, self._task_uuid)
        handle.begin()
        self._open.append(handle)
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        self._last = self._open.pop()
        self._last.end(error=kind is not None)

    def __call__(self, function: _F) -> _F:
        """Every call of `function`, or every run of the coroutine it returns, becomes an action."""
        import inspect

        wrapped: Any
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with Action(self.name, self._task_uuid, **self.fields):
                    return await function(*args, **kwargs)

        else:

            @functools.wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with Action(self.name, self._task_uuid, **self.fields):
                    return function(*args, **kwargs)

        return wrapped  # type: ignore[no-any-return]


def action(name: str, task_uuid: Optional[str] = None, **fields: Any) -> Action:
    """``with profilomatic.action('report:build', customer=7): ...`` — or as a decorator.

    An action inside another follows its decision whether to be profiled. `task_uuid` joins it to a log; by
    default it is the enclosing action's, or a new one. `fields` are kept on the object.
    """
    return Action(name, task_uuid, **fields)
