"""The forms a function can have, each wrapped into an action in its own way: plain, generator, async, async generator.

A wrapper is of the same form as what it wraps, adds one frame to a traceback, and hands on whatever is sent, thrown,
returned or raised.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable, Dict, Optional, TypeVar

from ._action import begin
from ._guard import failed
from ._switch import _runtime

_F = TypeVar('_F')
_Fields = Optional[Dict[str, Any]]


class _Call:
    """The action of one call."""

    __slots__ = ('_begin', '_handle')

    def __init__(self, name: str, task_uuid: Optional[str], fields: _Fields) -> None:
        self._begin = (name, task_uuid, fields)

    def __enter__(self) -> None:
        self._handle = begin(*self._begin)

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        try:
            self._handle.end(error=kind is not None)
        except Exception as error:
            failed('the end of an action', error)


class _Steps:
    """The action of one run of a generator. It is current during a step (``with steps:``) and at no other time, or who
    iterates over two generators in turn would be inside both. Actions that the generator has open at a ``yield`` leave
    and come back with it."""

    __slots__ = ('_begin', '_handle', '_inside', '_outside')

    def __init__(self, name: str, task_uuid: Optional[str], fields: _Fields) -> None:
        self._begin = (name, task_uuid, fields)
        self._handle: Any = None
        self._inside: Any = None

    def __enter__(self) -> None:
        try:
            if self._handle is None:
                self._outside = _runtime.current()
                self._handle = begin(*self._begin)
            else:
                self._outside = _runtime.set_current(self._inside)
        except Exception as error:
            failed('a step of a profiled generator', error)

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        try:
            self._inside = _runtime.set_current(self._outside)
            if kind is not None:
                self.end(not issubclass(kind, (StopIteration, StopAsyncIteration, GeneratorExit)))
        except Exception as error:
            failed('a step of a profiled generator', error)

    def end(self, error: bool = False) -> None:
        """End the action; twice is harmless."""
        try:
            if self._handle is not None:
                self._handle.end(error=error)
        except Exception as failure:
            failed('the end of an action', failure)


def _plain(function: Callable[..., Any], *how: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _Call(*how):
            return function(*args, **kwargs)

    return wrapped


def _async(function: Callable[..., Any], *how: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _Call(*how):
            return await function(*args, **kwargs)

    return wrapped


def _generator(function: Callable[..., Any], *how: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        generator = function(*args, **kwargs)
        steps = _Steps(*how)
        step, value = generator.send, None
        while True:
            try:
                with steps:
                    item = step(value)
            except StopIteration as stop:
                return stop.value
            finally:
                value = None  # an exception must not be kept alive by the frame that it names
            try:
                value = yield item
                step = generator.send
            except GeneratorExit:
                with steps:
                    generator.close()
                steps.end()
                raise
            except BaseException as error:
                step, value = generator.throw, error

    return wrapped


def _async_generator(function: Callable[..., Any], *how: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        generator = function(*args, **kwargs)
        steps = _Steps(*how)
        step, value = generator.asend, None
        while True:
            try:
                with steps:
                    item = await step(value)
            except StopAsyncIteration:
                return
            finally:
                value = None  # as above
            try:
                value = yield item
                step = generator.asend
            except GeneratorExit:
                with steps:
                    await generator.aclose()
                steps.end()
                raise
            except BaseException as error:
                step, value = generator.athrow, error

    return wrapped


def decorate(function: _F, name: Optional[str], task_uuid: Optional[str] = None, fields: _Fields = None) -> _F:
    """`function`, wrapped so that each call is an action; `name` None takes its own. TypeError if it is none."""
    inner: Any = function
    if isinstance(inner, (classmethod, staticmethod)):
        return type(inner)(decorate(inner.__func__, name, task_uuid, fields))  # type: ignore[return-value]
    if not callable(inner):
        raise TypeError('only a function can be profiled, not %r' % (function,))
    called = inner
    while isinstance(called, functools.partial):
        called = called.func
    if name is None:
        name = '%s.%s' % (called.__module__, getattr(called, '__qualname__', type(called).__qualname__))
    if not (inspect.isroutine(called) or isinstance(called, type)):
        called = type(called).__call__  # an object that can be called has the form of its __call__
    if inspect.iscoroutinefunction(called):
        return _async(inner, name, task_uuid, fields)  # type: ignore[return-value]
    if inspect.isasyncgenfunction(called):
        return _async_generator(inner, name, task_uuid, fields)  # type: ignore[return-value]
    if inspect.isgeneratorfunction(called):
        return _generator(inner, name, task_uuid, fields)  # type: ignore[return-value]
    return _plain(inner, name, task_uuid, fields)  # type: ignore[return-value]
