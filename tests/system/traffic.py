"""Requests for as long as a test wants them: what was answered, by which processes, and what failed."""

import http.client
import threading
import time
from collections import Counter


class Traffic:
    """`threads` clients, one request at a time each, on a connection of its own, round the given paths."""

    def __init__(self, port, paths, threads=3):
        self.port = port
        self.clients = threads
        self.answered = Counter()  # by path
        self.by_pid = Counter()
        self.last_answer = {}  # pid -> when, of this clock: time.monotonic()
        self.failed = Counter()  # by what went wrong
        self._paths = paths
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._drive, args=(i,)) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def ask(self, path, timeout=30):
        """One request more, by the caller. True if it was answered."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        try:
            connection.request('GET', path)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self.failed[type(error).__name__] += 1
            return False
        finally:
            connection.close()
        pid = int(response.headers.get('X-Pid', 0))
        with self._lock:
            if pid == 0:  # the server's own page, of an error
                self.failed[f'status {response.status}'] += 1
                return False
            self.answered[path] += 1
            self.by_pid[pid] += 1
            self.last_answer[pid] = time.monotonic()
        return True

    def _drive(self, n):
        while not self._over.is_set():
            path = self._paths[n % len(self._paths)]
            n += 1
            if not self.ask(path):
                time.sleep(0.05)

    def recent_pids(self, seconds=2.0):
        """Who answered within the last moments."""
        with self._lock:
            return {pid for pid, at in self.last_answer.items() if time.monotonic() - at < seconds}

    def add(self, other):
        """Count what another one, which has stopped, counted."""
        self.answered += other.answered
        self.by_pid += other.by_pid
        self.failed += other.failed
        self.last_answer.update(other.last_answer)

    def stop(self):
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def failures(self):
        return sum(self.failed.values())
