"""Actions of one's own: any piece of code that should be counted and profiled under a name."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, TypeVar, Union, overload

from ._guard import failed
from ._switch import _runtime

_F = TypeVar('_F', bound=Callable[..., Any])


class Nothing:
    """Stands for an action where none could be begun."""

    task_uuid: Optional[str] = None
    profiled = False

    def begin(self) -> None:
        pass

    def end(self, error: bool = False) -> None:
        pass


def begin(name: str, task_uuid: Optional[str], fields: Optional[Dict[str, Any]] = None) -> Any:
    """A begun action of the runtime. Never raises for reasons of its own."""
    try:
        handle = _runtime.Action(name, task_uuid)
        handle.begin()
        if fields and handle.profiled:
            _tell_fields(handle, fields)
        return handle
    except Exception as error:
        failed('the begin of an action', error)
        return Nothing()


def _tell_fields(handle: Any, fields: Dict[str, Any]) -> None:
    from ._logged import text_of
    from ._trace import FIELDS

    handle.tell(text_of(fields, _runtime.longest_text()), FIELDS)


class Action:
    """A context manager and decorator; get one from `action`. Each entry is an action of its own."""

    __slots__ = ('name', 'fields', '_task_uuid', '_open', '_last')

    def __init__(self, name: str, task_uuid: Optional[str] = None, **fields: Any) -> None:
        if not isinstance(name, str):
            raise TypeError('the name of an action must be a string, not %r' % (name,))
        if task_uuid is not None and not isinstance(task_uuid, str):
            raise TypeError('a task UUID must be a string or None, not %r' % (task_uuid,))
        self.name = name
        self.fields = fields
        self._task_uuid = task_uuid
        self._open: List[Any] = []
        self._last: Any = Nothing()

    @property
    def task_uuid(self) -> Optional[str]:
        """The task UUID of the innermost open entry, else of the one that ended last; None before the first."""
        return (self._open[-1] if self._open else self._last).task_uuid  # type: ignore[no-any-return]

    @property
    def profiled(self) -> bool:
        """Whether that entry was admitted for profiling."""
        return bool((self._open[-1] if self._open else self._last).profiled)

    def __enter__(self) -> Action:
        self._open.append(begin(self.name, self._task_uuid, self.fields))
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        try:
            self._last = self._take()
            self._last.end(error=kind is not None)
        except Exception as error:
            failed('the end of an action', error)

    def _take(self) -> Any:
        """The entry that ends now. Several threads or tasks may have entered one object: it is the current one's."""
        if len(self._open) > 1:
            current = _runtime.current()
            for handle in reversed(self._open):
                if handle is current:
                    self._open.remove(handle)
                    return handle
        return self._open.pop()

    def __call__(self, function: _F) -> _F:
        """Every call of `function` becomes an action; see `profiled`."""
        from . import _forms

        return _forms.decorate(function, self.name, self._task_uuid, self.fields)


def action(name: str, task_uuid: Optional[str] = None, **fields: Any) -> Action:
    """``with profilomatic.action('report:build', customer=7): ...`` — or as a decorator, as `profiled` is.

    An action inside another follows its decision whether to be profiled. `task_uuid` joins it to a log; by
    default it is the enclosing action's, or a new one. `fields` go with its begin
    into the messages about it, as far as JSON can tell them.
    """
    return Action(name, task_uuid, **fields)


@overload
def profiled(name: _F) -> _F: ...
@overload
def profiled(name: Optional[str] = None) -> Callable[[_F], _F]: ...
def profiled(name: Union[str, Callable[..., Any], None] = None) -> Any:
    """``@profilomatic.profiled('report:build')``: every call of the function becomes an action of that name.

    Without a name it is the function's own, with its module. The function may be a plain one, a generator, an
    async one or an async generator (also as static or class method), and what it is, it stays: its name, signature
    and attributes are kept. The action of a coroutine lasts while it is awaited; that of a generator from its first
    step to its end, and between the steps whoever iterates is not inside it.
    """
    from . import _forms

    if name is not None and not isinstance(name, str):
        if not (callable(name) or isinstance(name, (classmethod, staticmethod))):
            raise TypeError('the name of an action must be a string, not %r' % (name,))
        return _forms.decorate(name, None)
    return lambda function: _forms.decorate(function, name)
