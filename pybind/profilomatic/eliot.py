"""Eliot: every Eliot action becomes an action here, of the same type and task UUID.

    import profilomatic.eliot
    profilomatic.eliot.patch()

Eliot calls its destinations on the thread that logs, so one destination sees each action start and end. It
never raises into Eliot, changes no message, and leaves the messages that Eliot keeps until the application adds
its first destination to the application. Actions that start and finish on one thread are supported.

Where an action is profiled, what Eliot says of its start and its end goes into its call graph, and with
``configure(store_all_logs=True)`` every message logged inside it. A task that is continued in another process has the
same task UUID there, and a level below the one that was handed on.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, List, Optional, Tuple

from eliot import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
    Logger,
    add_destinations,
    remove_destination,
)

from ._guard import failed
from ._logged import text_of
from ._switch import _runtime, switch

OPEN_ACTIONS = 4096  # actions remembered at once; the oldest is ended when more are open

_BEGIN, _END = 1, 2  # what a message tells of: see shm/record.h

_Key = Tuple[Any, ...]


class _Destination:
    """What Eliot calls for each message."""

    def __init__(self) -> None:
        self._open: Dict[Optional[_Key], Any] = {}

    def __call__(self, message: Dict[str, Any]) -> None:
        try:
            status = message.get('action_status')
            if status is None:
                self._logged(message)
                return
            key = (message['task_uuid'], *message['task_level'][:-1])
            if status == 'started':
                self._begin(key, message)
                return
            action = self._open.pop(key, None)
            if action is not None:
                if action.profiled:
                    _put(action, message, _END)
                action.end(status == 'failed')
        except Exception as error:
            failed("following Eliot's messages", error)

    def _begin(self, key: _Key, message: Dict[str, Any]) -> None:
        kind = message.get('action_type') or message.get('event') or '(unnamed)'
        action = _runtime.Action(kind if type(kind) is str else str(kind), key[0])
        action.begin()
        self._open[key] = action
        if action.profiled:
            _put(action, message, _BEGIN)
        if len(self._open) > OPEN_ACTIONS:
            oldest = self._open.pop(next(iter(self._open)), None)
            if oldest is not None:
                oldest.end()

    def _logged(self, message: Dict[str, Any]) -> None:
        """Anything else that is logged, in an action of Eliot's or in one that Eliot does not know of (a request)."""
        level = message.get('task_level')
        key = (message.get('task_uuid'), *level[:-1]) if isinstance(level, (list, tuple)) else None
        action = self._open.get(key) or _runtime.current()
        if action is not None and action.profiled and switch.settings['store_all_logs']:
            _put(action, message, 0)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].end()


def _put(action: Any, message: Dict[str, Any], flags: int) -> None:
    """A message into the call graph of a profiled action."""
    action.tell(text_of(message, _runtime.longest_text()), flags, _frames())


def _frames() -> int:
    """How many frames are on the stack, from its root to the one that called Eliot."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get('__name__', '').partition('.')[0] in ('eliot', __package__):
        frame = frame.f_back
    count = 0
    while frame is not None:
        count += 1
        frame = frame.f_back
    return count


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
