"""Actions: something with a name, a begin and an end, and which thread or asyncio task is inside which."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
import time
import weakref
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Callable, Dict, MutableMapping, Optional

from .._guard import failed

if TYPE_CHECKING:
    from .engine import Profile

_UUID = re.compile('[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}')

_current: ContextVar[Optional[Action]] = ContextVar('profilomatic.action', default=None)

# Where the sampler, which cannot look into other threads' contexts, finds the current action of each.
# Neither keeps an action alive: one that is dropped open ends.
_of_thread: MutableMapping[int, Action] = weakref.WeakValueDictionary()
_of_task: MutableMapping[Any, weakref.ref[Action]] = weakref.WeakKeyDictionary()
_loops: Dict[int, Any] = {}  # the loop that was seen to run in a thread


_collecting = 0  # the thread on which the garbage collector is at work; 0: none

#: Told of a profiled action right after its begin; or None.
noter: Optional[Callable[[Action], object]] = None


def watch_collector() -> None:
    """Up to CPython 3.11 a collection may start in the middle of ContextVar.set(), which does not survive that another
    variable is set meanwhile; so it has to be known when one goes on."""
    if sys.implementation.name == 'cpython' and sys.version_info < (3, 12) and _note_collection not in gc.callbacks:
        gc.callbacks.append(_note_collection)


def _note_collection(phase: str, info: Dict[str, int]) -> None:
    global _collecting
    _collecting = threading.get_ident() if phase == 'start' else 0


def make_uuid() -> str:
    """A random (version 4) UUID."""
    digits = '%032x' % (int.from_bytes(os.urandom(16), 'big') & ~(0xF << 76) & ~(0xC << 60) | 4 << 76 | 8 << 60)
    return '-'.join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class Action:
    """Something with a name, a begin and an end; a context manager. Ending twice, on any thread and in any order is
    harmless, and in the child of a fork nothing of the parent's ends."""

    __slots__ = (
        '_given',
        '_uuid',
        'began',
        'began_cpu',
        'name',
        'open',
        'parent',
        'pid',
        'profile',
        'said',
        'thread',
        'began_time',
        'is_root',
        'told_at',
        '__weakref__',
    )

    #: Set by the engine: what to do at a begin, an end, and for what is logged between them.
    on_begin: Callable[[Action, str], bool] = staticmethod(lambda action, hint: False)
    on_end: Callable[[Action, str, bool], None] = staticmethod(lambda action, name, error: None)

    on_tell: Callable[[Action, Dict[str, Any], int, int], None] = staticmethod(lambda action, said, flags, depth: None)

    def __init__(self, name: str, task_uuid: Optional[str] = None) -> None:
        if not isinstance(name, str):
            raise TypeError('name must be a str, not %.100s' % type(name).__name__)
        if task_uuid is not None and not isinstance(task_uuid, str):
            raise TypeError('task_uuid must be a str or None, not %.100s' % type(task_uuid).__name__)
        self.name = name
        self._given = task_uuid
        self._uuid: Optional[str] = None
        self.open = False
        self.parent: Optional[Action] = None
        self.profile: Optional[Profile] = None
        self.said: Optional[Dict[str, Any]] = None  # what the log says of its end
        self.pid = 0
        self.told_at = 0  # which of the profile's events is its begin

    @property
    def task_uuid(self) -> str:
        """The task's UUID; a nested action has its root's."""
        if self._uuid is None:
            self._uuid = make_uuid()
        return self._uuid

    @property
    def profiled(self) -> bool:
        """True if it was admitted for profiling."""
        return self.profile is not None

    def live(self) -> bool:
        return self.open and self.pid == os.getpid()

    def begin(self) -> Action:
        """Begin it, nested in the current action. Returns itself."""
        if not self.open:
            self.begin_as(self.name)
        return self

    def begin_as(self, hint: str) -> None:
        self.parent = current()
        self.profile = None
        self.is_root = self.parent is None
        if self.parent is not None:
            self._uuid = self.parent.task_uuid
        elif self._given is not None and _UUID.fullmatch(self._given):
            self._uuid = self._given
        else:
            self._uuid = None
        self.pid = os.getpid()
        self.thread = threading.get_ident()
        self.began_cpu = time.thread_time()
        self.began_time = time.time()
        self.began = time.perf_counter()
        self.open = self.on_begin(self, hint)
        if self.open:
            set_current(self)
            if self.profile is not None and noter is not None:
                try:
                    noter(self)
                except Exception as error:
                    failed('what is noted of an action', error)

    def end(self, error: bool = False, name: Optional[str] = None) -> None:
        """End it, on any thread. Twice is harmless. `name` is its type where that was not known at its begin."""
        self.end_as(self.name if name is None else name, error)

    def tell(self, text: str, flags: int = 0, depth: int = 0) -> None:
        """Put a JSON object that was logged into its call graph, if it is profiled. `flags`: 1 it tells of the begin, 2
        of the end, 4 it has fields of the action. `depth`: how many frames were on the stack, 0 if not known."""
        if self.profile is not None and self.live():
            self.on_tell(self, json.loads(text), flags, depth)

    def end_as(self, name: str, error: bool) -> None:
        live, self.open = self.live(), False
        while self.parent is not None and not self.parent.live():
            self.parent = self.parent.parent
        if live:
            self.on_end(self, name, error)
        # What was left open inside it ends to be current with it.
        at = _current.get()
        while at is not None and at is not self:
            at = at.parent
        if at is self:
            set_current(self.parent)

    def __enter__(self) -> Action:
        return self.begin()

    def __exit__(self, *exception: object) -> None:
        self.end(bool(exception) and exception[0] is not None)

    def __del__(self) -> None:
        if getattr(self, 'open', False):
            try:
                # The context is left alone: this may run in the middle of a change to it.
                self.open, live = False, self.live()
                if live:
                    self.on_end(self, self.name, False)
            except Exception:
                pass  # the interpreter is ending


def current() -> Optional[Action]:
    """The innermost open action that this context is in, or None."""
    action = _current.get()
    while action is not None and not action.live():
        action = action.parent
    return action


def set_current(action: Optional[Action]) -> Optional[Action]:
    """Make an action (or None) this context's current one; returns the former one, to be put back. What a finalizer
    does leaves the context as it is."""
    if action is not None and not isinstance(action, Action):
        raise TypeError('set_current takes an Action or None, not %.100s' % type(action).__name__)
    former = _current.get()
    if _collecting == threading.get_ident():
        return former
    _current.set(action)
    task = _running_task()
    if task is not None:
        _put(_of_task, task, None if action is None else weakref.ref(action))
    else:
        _put(_of_thread, threading.get_ident(), action)
    return former


def carry(function: Any) -> Any:
    """The function, to be called on any thread as a part of the action that is current now."""
    action = current()
    if action is None or not callable(function):
        return function

    def carried(*args: Any, **kwargs: Any) -> Any:
        former = set_current(action)
        try:
            return function(*args, **kwargs)
        finally:
            set_current(former)

    return carried


def carried_context() -> Optional[Context]:
    """A context that has the current action and nothing else in it; None outside any."""
    action = current()
    if action is None:
        return None
    context = Context()
    context.run(_current.set, action)
    return context


def _put(where: MutableMapping[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        where.pop(key, None)
    else:
        where[key] = value


def _running_task() -> Any:
    asyncio: Any = sys.modules.get('asyncio')
    running = getattr(asyncio, '_get_running_loop', None)  # not while it is being imported
    loop = running() if running is not None else None
    if loop is None:
        return None
    _loops[threading.get_ident()] = loop
    return asyncio.current_task(loop)


def inside(thread: int) -> Optional[Action]:
    """The action that a thread is in at this moment, as another thread sees it."""
    loop = _loops.get(thread)
    if loop is not None and loop.is_running():
        task = sys.modules['asyncio'].current_task(loop)
        if task is not None:
            reference = _of_task.get(task)
            return None if reference is None else reference()
    return _of_thread.get(thread)


def forget() -> None:
    """After a fork: whoever was inside an action was so in the parent."""
    _of_thread.clear()
    _of_task.clear()
    _loops.clear()
