"""Delivery to callables: the aggregator hands this process the messages of its own actions, and they are called here.

Where Python threads run, a daemon thread named pom-deliver does it. In uWSGI without threads the interpreter stands
still between requests, and under gevent a thread is a greenlet; there the hook at the end of a profiled action
pumps what has arrived, for at most a millisecond.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional

from ._tell import tell
from .control import Connection

PUMP_SECONDS = 0.001
FLUSH_SECONDS = 2.0
_STOP_SECONDS = 2.0  # how long a thread that was told to stop is waited for before another one is started
_CONNECT_SECONDS = 0.3  # how long a flush waits for an aggregator that was never there
# Pause before the next attempt to connect, by the number of failed ones. An aggregator that is just being
# started should be found before it has drained the first action.
_RETRIES = ((100, 0.02), (200, 0.2), (sys.maxsize, 1.0))

Destination = Callable[[Dict[str, Any]], object]


def threads_run() -> bool:
    """Can a Python thread be relied on in this process?"""
    uwsgi = sys.modules.get('uwsgi')
    if uwsgi is not None and hasattr(uwsgi, 'opt'):
        return bool(getattr(uwsgi, 'has_threads', False)) and not getattr(uwsgi, 'loop', None)
    monkey = sys.modules.get('gevent.monkey')
    return monkey is None or not monkey.is_module_patched('threading')


class Delivery:
    """Serves the callables of one process. After a fork, `start_or_stop` in the child starts afresh."""

    def __init__(
        self,
        directory: Callable[[], str],
        destinations: Callable[[], List[Destination]],
        set_pump: Callable[[Optional[Callable[[], object]]], object],
        left_alone: Callable[[], bool] = lambda: False,
        spent: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self._directory = directory
        self._destinations = destinations
        self._set_pump = set_pump
        self._left_alone = left_alone  # have all threads of the application ended?
        self._spent = spent  # is told what CPU the thread used: it is part of the profiler's cost
        self._exit_pid = 0
        self._forget()
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A fresh process: the thread is not here, and the connection is the parent's."""
        inherited: Optional[Connection] = getattr(self, '_connection', None)
        if inherited is not None:
            inherited.close()
        self._connection: Optional[Connection] = None
        self._pid = 0
        self._thread: Optional[threading.Thread] = None
        self._wake = threading.Event()
        self._synced = threading.Event()
        self._syncs_wanted = 0
        self._syncs_seen = 0
        self._failures = 0
        self._next_try = 0.0
        self._pumping = False
        self.delivered = 0
        self.failed = 0
        self.broken: Dict[int, str] = {}  # id of a destination -> its last error

    def start_or_stop(self) -> None:
        """Begin to serve, or stop where no callable is left. Cheap to call again."""
        if self._pid != os.getpid():
            self._forget()
            self._pid = os.getpid()
            if self._exit_pid == 0:
                atexit.register(self._at_exit)
            self._exit_pid = self._pid
        if not self._destinations():
            self._set_pump(None)
            self._wake.set()
        elif not threads_run():
            self._set_pump(self.pump)
        else:
            self._start()

    def _start(self) -> None:
        thread = self._thread
        if thread is not None and self._wake.is_set() and thread is not threading.current_thread():
            # It was told to stop, and does so within half a second, unless a destination keeps it: then it stays.
            thread.join(_STOP_SECONDS)
        self._wake.clear()
        if thread is None or not thread.is_alive():
            self._thread = threading.Thread(target=self._serve, name='pom-deliver', daemon=True)
            self._thread.start()

    def status(self) -> Dict[str, Any]:
        return {
            'connected': self._connection is not None and self._pid == os.getpid(),
            'thread': self._thread is not None and self._thread.is_alive(),
            'delivered': self.delivered,
            'failed': self.failed,
            'last_errors': sorted(set(self.broken.values())),
        }

    # ---- receiving

    def _connect(self, timeout: float) -> bool:
        """Subscribe, if it is time to try. False while there is no aggregator."""
        if self._connection is not None:
            return True
        now = time.monotonic()
        if now < self._next_try:
            return False
        connection = None
        try:
            connection = Connection(self._directory(), timeout)
            connection.send({'verb': 'subscribe', 'pid': os.getpid()})
        except OSError:
            if connection is not None:
                connection.close()
            self._next_try = now + next(pause for most, pause in _RETRIES if self._failures < most)
            self._failures += 1
            return False
        self._failures = 0
        self._connection = connection
        return True

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._next_try = time.monotonic() + _RETRIES[0][1]

    def _handle(self, line: bytes) -> None:
        import json

        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            self.failed += 1
            tell('a message from the aggregator could not be read: %s' % error)
            return
        kind = message.get('kind')
        if kind == 'synced':
            self._syncs_seen += 1
            self._synced.set()
        elif kind == 'action':
            for destination in self._destinations():
                self._call(destination, message)

    def _call(self, destination: Destination, message: Dict[str, Any]) -> None:
        try:
            destination(message)
            self.delivered += 1
        except Exception as error:
            self.failed += 1
            if id(destination) not in self.broken:
                tell('destination %r failed: %r; told once, counted in status()' % (destination, error))
            self.broken[id(destination)] = repr(error)

    def _serve(self) -> None:
        """The thread's whole life."""
        try:
            with open('/proc/thread-self/comm', 'w') as comm:
                comm.write('pom-deliver')  # so that its CPU time can be told from the application's
        except OSError:
            pass
        pid, told = os.getpid(), 0.0
        while not self._wake.is_set() and self._pid == pid:
            used = time.thread_time()
            self._spent(used - told)
            told = used
            if self._left_alone():
                os._exit(0)  # as the C library ends a process with its last thread
            if not self._connect(0.5):
                self._wake.wait(max(0.005, self._next_try - time.monotonic()))
                continue
            connection = self._connection
            try:
                if connection is not None and connection.receive(0.5):
                    for line in connection.lines():
                        self._handle(line)
            except (OSError, ValueError):
                self._disconnect()
        self._disconnect()

    def pump(self) -> None:
        """Deliver what has arrived, for at most PUMP_SECONDS and the call in hand. Called on a request thread."""
        if self._pid != os.getpid() or self._pumping:
            return
        self._pumping = True
        try:
            self._pump_until(time.monotonic() + PUMP_SECONDS, 0.0)
        finally:
            self._pumping = False

    def _pump_until(self, deadline: float, wait: float) -> None:
        """Handle lines until the deadline, or until there is none for `wait` seconds."""
        if not self._connect(PUMP_SECONDS):
            return
        connection = self._connection
        assert connection is not None
        try:
            while True:
                for line in connection.lines():
                    self._handle(line)
                    if time.monotonic() >= deadline:
                        return
                if not connection.receive(wait):
                    return
        except (OSError, ValueError):
            self._disconnect()

    # ---- handing over everything

    def flush(self, timeout: float = FLUSH_SECONDS) -> bool:
        """Wait until every action that has ended was delivered; False if that took longer than `timeout` seconds."""
        if self._pid != os.getpid():
            return False
        deadline = time.monotonic() + timeout
        threaded = self._thread is not None and self._thread.is_alive()
        if not threaded:
            self._next_try = 0.0
            self._connect(_CONNECT_SECONDS)
        while threaded and self._connection is None and time.monotonic() < deadline - timeout + _CONNECT_SECONDS:
            time.sleep(0.01)
        connection = self._connection
        if connection is None:
            return False
        self._synced.clear()
        self._syncs_wanted = self._syncs_seen + 1
        try:
            connection.send({'verb': 'sync'})
        except OSError:
            return False
        while self._syncs_seen < self._syncs_wanted:
            left = deadline - time.monotonic()
            if left <= 0 or self._connection is not connection:
                return False
            if threaded:
                self._synced.wait(min(left, 0.1))
            else:
                self._pump_until(deadline, min(left, 0.1))
        return True

    def _at_exit(self) -> None:
        if self._exit_pid == os.getpid() and self._pid == self._exit_pid and self._destinations():
            try:
                self.flush()
            except Exception as error:
                tell('the last messages could not be delivered: %r' % error)
