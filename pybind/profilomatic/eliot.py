"""Eliot: every Eliot action becomes an action here, of the same type and task UUID.

    import profilomatic.eliot
    profilomatic.eliot.patch()

Eliot calls its destinations on the thread that logs, so one destination sees each action start and end. It
never raises into Eliot, changes no message, and leaves the messages that Eliot keeps until the application adds
its first destination to the application. Actions that start and finish on one thread are supported.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

from eliot import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
    Logger,
    add_destinations,
    remove_destination,
)

from ._switch import _runtime
from ._tell import tell

OPEN_ACTIONS = 4096  # actions remembered at once; the oldest is ended when more are open

_Key = Tuple[Any, ...]


class _Destination:
    """What Eliot calls for each message."""

    def __init__(self) -> None:
        self._open: Dict[_Key, Any] = {}

    def __call__(self, message: Dict[str, Any]) -> None:
        try:
            status = message.get('action_status')
            if status is None:
                return
            key = (message['task_uuid'],) + tuple(message['task_level'][:-1])
            if status == 'started':
                self._begin(key, message)
            else:
                action = self._open.pop(key, None)
                if action is not None:
                    action.end(error=status == 'failed')
        except Exception as error:
            tell('an Eliot message could not be followed: %r' % error)

    def _begin(self, key: _Key, message: Dict[str, Any]) -> None:
        kind = message.get('action_type') or message.get('event') or '(unnamed)'
        action = _runtime.Action(str(kind), str(message['task_uuid']))
        action.begin()
        self._open[key] = action
        while len(self._open) > OPEN_ACTIONS:
            oldest = self._open.pop(next(iter(self._open)), None)
            if oldest is not None:
                oldest.end()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].end()


class _StartUpMessages(List[Dict[str, Any]]):
    """Eliot's messages from before the first destination.

    Eliot gives them to the destinations that are added first, and forgets every other. So this list stands in
    the place of Eliot's own, and when Eliot has gone through it, `handed_over` is called: the moment to join
    without having taken any.
    """

    def __init__(self, messages: List[Dict[str, Any]], handed_over: Callable[[], None]) -> None:
        super().__init__(messages)
        self._handed_over = handed_over

    def __bool__(self) -> bool:
        return True  # Eliot passes over an empty list

    def __iter__(self) -> Any:
        for index in range(len(self)):
            yield self[index]
        self._handed_over()


_destination: Optional[_Destination] = None


def patch() -> None:
    """Follow Eliot's actions from now on. Calling it again does nothing."""
    global _destination
    if _destination is not None:
        return
    if _runtime is None:
        from ._switch import missing

        tell("cannot follow Eliot's actions: %s" % missing)
        return
    _destination = _Destination()
    buffer = _start_up_buffer()
    if buffer is None:
        add_destinations(_destination)
        return
    destination = _destination

    def join() -> None:
        if _destination is destination and destination not in _eliot_destinations():
            add_destinations(destination)

    buffer.messages = _StartUpMessages(buffer.messages, join)
    _eliot_destinations().append(destination)


def unpatch() -> None:
    """Follow them no longer; actions that are open end now. Calling it again does nothing."""
    global _destination
    destination, _destination = _destination, None
    if destination is None:
        return
    buffer = _start_up_buffer()
    if buffer is not None and isinstance(buffer.messages, _StartUpMessages):
        buffer.messages = [buffer.messages[index] for index in range(len(buffer.messages))]
    try:
        remove_destination(destination)
    except ValueError:
        pass  # removed by somebody else
    destination.close()


def _eliot_destinations() -> List[Any]:
    return Logger._destinations._destinations  # type: ignore[no-any-return]


def _start_up_buffer() -> Any:
    """Eliot's start-up buffer while it is in use; None once the application has added a destination."""
    try:
        first = Logger._destinations._destinations[0]
        if not Logger._destinations._any_added and isinstance(first.messages, list):
            return first
    except (AttributeError, IndexError):
        pass
    return None
