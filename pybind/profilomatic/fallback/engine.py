"""What profiles this process: admission, the sampler's thread, exact counts, and messages of what was profiled."""

from __future__ import annotations

import atexit
import os
import random
import threading
import time
from typing import Any, Dict, List, Optional

from .._guard import failed
from . import budget, eliot_form
from .actions import Action, forget, inside, make_uuid, watch_collector
from .bell import Bell
from .outlet import Outlet
from .outside import WINDOW_SECONDS, Outside
from .stacks import Stacks, unreadable
from .tree import Event, Sample, children, instant

SAMPLES_MOST = 20_000  # of one profiled action, and as many events; later ones are dropped and counted
BEGIN, END, FIELDS = 1, 2, 4  # what a message tells of: see shm/record.h
_HOOK_SECONDS = 3e-6  # what a begin and an end of an action that is not profiled are taken to cost


class Profile:
    """What is gathered of one profiled root action and those inside it."""

    __slots__ = ('samples', 'events', 'weight', 'interval', 'granularity')

    def __init__(self, weight: float, interval: float, granularity: str) -> None:
        self.samples: List[Sample] = []
        self.events: List[Event] = []
        self.weight = weight
        self.interval = interval
        self.granularity = granularity


class Engine:
    def __init__(self) -> None:
        self.enabled = False
        self.source = ''
        self.max_overhead = 0.02
        self.interval = 0.01
        self.granularity = 'line'
        self.cap = 10
        self.types_most = 1000  # action types that are counted apart; the rest are '(other)'
        self.outlet = Outlet()
        self.stacks = Stacks()
        self.unreadable = unreadable()
        self.whole = False  # time outside any action is sampled as well
        self._exits = False
        self._fresh()
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(after_in_child=self._after_fork)

    def _fresh(self) -> None:
        self.totals: Dict[str, List[float]] = {}  # by action type: ended, failed, seconds
        self.denied = {'cap': 0, 'lottery': 0, 'paused': 0}
        self.admitted = 0
        self.samples = 0
        self.dropped = 0
        self.limits = budget.Limits()
        self._open = 0  # profiled roots
        self.outside = Outside()
        self._thread: Optional[threading.Thread] = None
        self.parked = False  # the sampler's thread waits for an action to be profiled
        self._armed = Bell()
        # Of what begins and ends count together. A finalizer may do so as well, in the middle of it.
        self._lock = threading.RLock()
        now = time.perf_counter()
        self._cycle_began = now
        self._demand = self._last_demand = self._used = 0
        self._paused_until = 0.0
        self._sampler_cpu = self._hook_cpu = 0.0
        self._measured = (now, 0.0, time.process_time())

    def _after_fork(self) -> None:
        forget()
        self._fresh()
        self.outlet.forget()

    # ---- what the hooks call

    def begin(self, action: Action, hint: str) -> bool:
        """Whether the action is counted at all. Sets its profile if it is admitted, or its root was."""
        if not self.enabled:
            return False
        if action.parent is not None:
            action.profile = action.parent.profile
        else:
            self._admit(action)
        if action.profile is not None:
            action.told_at = len(action.profile.events)
            action.profile.events.append(Event(action.began, self._told(action, hint, 'started')))
        return True

    def tell(self, action: Action, said: Dict[str, Any], flags: int, depth: int) -> None:
        """What was logged inside an action. What the log says of a begin or an end takes the place of our own words,
        and fields go with what is said of the begin."""
        events = action.profile.events if action.profile is not None else []
        if flags & FIELDS:
            begun = events[action.told_at]
            events[action.told_at] = begun._replace(message={**said, **begun.message})
        elif flags & END:
            action.said = said
        elif flags & BEGIN:
            begun = events[action.told_at]
            events[action.told_at] = begun._replace(message={**begun.message, **said}, depth=depth)
        elif len(events) < SAMPLES_MOST:
            events.append(Event(time.perf_counter(), said, depth))
        else:
            self.dropped += 1

    def end(self, action: Action, name: str, error: bool) -> None:
        now = time.perf_counter()
        status = 'failed' if error else 'succeeded'
        with self._lock:
            counted = self.totals.get(name)
            if counted is None:
                name_counted = name if len(self.totals) < self.types_most else '(other)'
                counted = self.totals.setdefault(name_counted, [0, 0, 0.0])
            counted[0] += 1
            counted[1] += error
            counted[2] += now - action.began
            self._hook_cpu += _HOOK_SECONDS
        if action.profile is None:
            return
        if not action.is_root:
            action.profile.events.append(Event(now, self._told(action, name, status)))
            return
        action.profile.events[0].message['action_type'] = name
        action.profile.events.append(Event(now, self._told(action, name, status)))
        with self._lock:
            self._open = max(0, self._open - 1)
        message = self._message(action, action.profile, name, status, now - action.began)
        self._hook_cpu += time.perf_counter() - now
        profile = action.profile
        self.outlet.put(
            message,
            lambda: eliot_form.action(message, profile.samples, profile.events, action.began, action.began_time),
        )

    # ---- admission

    def _admit(self, action: Action) -> None:
        now = action.began
        with self._lock:
            if now - self._cycle_began >= budget.CYCLE_SECONDS:
                self._begin_cycle(now)
            self._demand += 1
            if now < self._paused_until:
                self.denied['paused'] += 1
                return
            chance = budget.probability(self._last_demand, self.cap)
            if random.random() >= chance:
                self.denied['lottery'] += 1
                return
            if self.cap and self._used >= self.cap:
                self.denied['cap'] += 1
                return
            self._used += 1
            self.admitted += 1
            self._open += 1
        action.profile = Profile(1 / chance, self.interval * self.limits.stretch, self.granularity)
        if self.unreadable is None:
            self._arm()

    def _begin_cycle(self, now: float) -> None:
        # What came in the cycle before says what comes in this one only if that was just now.
        recent = now - self._cycle_began < 2 * budget.CYCLE_SECONDS
        self._last_demand = self._demand if recent else 0
        self._demand = self._used = 0
        self._cycle_began = now
        ours = self._sampler_cpu + self._hook_cpu + self.outlet.cpu_seconds
        process = time.process_time()
        then, ours_then, process_then = self._measured
        self._measured = (now, ours, process)
        self.limits = budget.step(self.limits, ours - ours_then, process - process_then, now - then, self.max_overhead)
        self._paused_until = now + self.limits.pause_seconds

    # ---- sampling

    def _arm(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self.stacks.note_roots()
            self._thread = threading.Thread(target=self._sample_for_ever, name='pom-sampler', daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # there is no thread to be had: actions are counted and timed all the same
                failed("the start of the sampler's thread", error)
        self._armed.ring()

    def _sample_for_ever(self) -> None:
        thread = self._thread
        left = 0.0  # of the interval in hand, after its tick
        while self._thread is thread:
            while not self._open and not (self.whole and self.enabled):
                self.parked = True
                self._armed.wait()
            self.parked = False
            interval = self.interval * self.limits.stretch
            offset = random.random() * interval  # one tick in each interval, at any moment of it
            time.sleep(left + offset)
            left = interval - offset
            before = time.thread_time()
            self.tick(interval)
            if self.whole:
                self._step_outside(time.perf_counter())
            self._sampler_cpu += time.thread_time() - before

    def _step_outside(self, now: float) -> None:
        """Where nothing begins nobody else looks at what profiling costs; and windows end."""
        with self._lock:
            if now - self._cycle_began >= budget.CYCLE_SECONDS:
                self._begin_cycle(now)
        if self.outside.began and now - self.outside.began >= WINDOW_SECONDS:
            self.tell_outside()

    def tell_outside(self) -> None:
        """End the window of what was sampled outside any action, and tell of it."""
        now_time = time.time()
        with self._lock:
            if not self.outside.began:
                return
            message, stacks = self.outside.take(time.perf_counter(), now_time, make_uuid(), self.source)
        self.outlet.put(message, lambda: eliot_form.profile(message, stacks, now_time))

    def attach(self) -> None:
        """With scope 'process' sampling begins without an action."""
        if self.whole and self.enabled and self.unreadable is None:
            self._arm()

    def tick(self, interval: float) -> None:
        """One look at all threads that are inside profiled actions, or with scope 'process' outside any.

        Each stands for `interval` seconds.
        """
        import sys

        now = time.perf_counter()
        outside = self.whole and self.enabled and now >= self._paused_until
        own = [None if thread is None else thread.ident for thread in (self._thread, self.outlet.thread)]
        frames = sys._current_frames()
        try:
            for thread, frame in frames.items():
                action = inside(thread)
                if action is not None and not action.live():
                    action = None
                if action is None and outside and thread not in own:
                    stack = self.stacks.instructions(frame, self.granularity)
                    with self._lock:
                        self.outside.add(now, stack, interval)
                    self.samples += 1
                profile = action.profile if action is not None else None
                if profile is None:
                    continue
                if len(profile.samples) >= SAMPLES_MOST:
                    self.dropped += 1
                    continue
                stack = self.stacks.instructions(frame, profile.granularity)
                profile.samples.append(Sample(now, interval, stack))
                self.samples += 1
        finally:
            frame = None  # type: ignore[assignment]
            frames.clear()  # or what those frames hold would live on until the next tick

    # ---- messages

    def _told(self, action: Action, name: str, status: str) -> Dict[str, Any]:
        said, action.said = action.said, None
        return said or {'action_type': name, 'action_status': status, 'task_uuid': action.task_uuid}

    def _message(self, action: Action, profile: Profile, name: str, status: str, seconds: float) -> Dict[str, Any]:
        same_thread = threading.get_ident() == action.thread
        said: Dict[str, Any] = {}  # what the application's log says of the action as a whole
        if 'exception' in profile.events[-1].message:
            said['exception'] = profile.events[-1].message['exception']
        if len(profile.events[0].message.get('task_level', ())) > 1:
            said['task_level'] = profile.events[0].message['task_level'][:-1]
        for key in ('trace_id', 'span_id'):
            if isinstance(profile.events[0].message.get(key), str):
                said[key] = profile.events[0].message[key]
        return {
            'kind': 'action',
            'id': make_uuid(),
            'source': self.source,
            'task_uuid': action.task_uuid,
            'thread': action.thread,
            'start_time': instant(action.began_time),
            'end_time': instant(action.began_time + seconds),
            'time': seconds,
            'self_time': 0.0 if profile.samples else seconds,
            'action_type': name,
            'action_status': status,
            'pid': action.pid,
            'weight': profile.weight,
            'interval': profile.interval,
            'code_granularity': profile.granularity,
            'cpu_time': max(0.0, time.thread_time() - action.began_cpu) if same_thread else 0.0,
            **said,
            'children': children(profile.samples, profile.events, action.began_time, seconds),
        }

    # ---- facts, and the end

    def status(self) -> Dict[str, Any]:
        sampled = self._sampler_cpu
        return {
            'attached': self.enabled,
            'enabled': self.enabled,
            'reason': self.unreadable and 'no stacks are read: ' + self.unreadable,
            'actions': {
                name: {'count': int(count), 'errors': int(errors), 'seconds': seconds}
                for name, (count, errors, seconds) in sorted(self.totals.items())
            },
            'admitted': self.admitted,
            'denied': dict(self.denied),
            'samples': self.samples,
            'outside': self.outside.seconds,
            'dropped': self.dropped,
            'interval': self.interval * self.limits.stretch,
            'sampler_cpu': sampled,
            'hook_cpu': self._hook_cpu,
            'delivery': self.outlet.status(),
        }

    def enable(self) -> None:
        self.enabled = True
        Action.on_begin = staticmethod(self.begin)
        Action.on_end = staticmethod(self.end)
        Action.on_tell = staticmethod(self.tell)
        if not self._exits:
            self._exits = True
            watch_collector()
            atexit.register(self.flush)

    def flush(self) -> bool:
        """Have everything told of so far handed over; at most 2 s."""
        self.tell_outside()
        return self.outlet.flush()
