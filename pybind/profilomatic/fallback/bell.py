"""Waking a thread from anywhere."""

from __future__ import annotations

import threading


class Bell:
    """One thread waits for it, any may ring. A ring that nobody waits for is kept for the next wait.

    Unlike that of a `threading.Event`, a ring takes no lock: a finalizer or a signal handler may ring in the middle of
    another ring on the same thread, which a lock would have it wait for, for ever.
    """

    def __init__(self) -> None:
        self._silence = threading.Lock()  # held until somebody rings
        self._silence.acquire()

    def ring(self) -> None:
        try:
            self._silence.release()
        except RuntimeError:
            pass  # it rings already

    def wait(self) -> None:
        self._silence.acquire()
