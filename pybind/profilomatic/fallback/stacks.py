"""Reading the stacks of other threads, where that can be done without harm.

``sys._current_frames()`` is the only way that Python itself offers. It gives frames of threads that go on running, so
it is safe where the interpreter keeps them still while we look: PyPy, and CPython with a GIL. CPython 3.11 is left out,
since it has been seen to crash and to deadlock there, and so are builds without a GIL, where reading such a frame is a
known use after free. There actions are counted and timed, and their messages have no call graph.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType
from typing import Dict, Optional, Tuple

DEPTH_MOST = 200  # frames that are told of a stack: json nests two levels for each, of the interpreter's thousand
_CACHE_MOST = 16384


def unreadable() -> Optional[str]:
    """Why stacks cannot be read in this interpreter; None where they can."""
    if not hasattr(sys, '_current_frames'):
        return 'it does not tell the frames of its threads'
    if sys.implementation.name != 'cpython':
        return None
    if not getattr(sys, '_is_gil_enabled', lambda: True)() or 't' in getattr(sys, 'abiflags', ''):
        return 'without a GIL, reading the frames of running threads may crash'
    if sys.version_info[:2] == (3, 11):
        return 'in CPython 3.11, reading the frames of running threads may crash'
    return None


class Stacks:
    """Turns frames into instructions, ``file:method:line``, as the native sampler writes them."""

    def __init__(self) -> None:
        self._roots: Tuple[str, ...] = ()
        self._known: Dict[Tuple[CodeType, int], str] = {}

    def note_roots(self) -> None:
        """The folders that modules are imported from now, so that files can be told relative to them."""
        folders = {os.path.abspath(folder or os.curdir).rstrip('/') + '/' for folder in sys.path}
        self._roots = tuple(sorted(folders, key=len, reverse=True))

    def instructions(self, frame: Optional[FrameType], granularity: str) -> Tuple[str, ...]:
        """The instructions from the thread's first frame to `frame`; of very deep stacks the outer ones only."""
        found = []
        while frame is not None:
            # Between two instructions a frame may have no line.
            found.append(self._instruction(frame.f_code, frame.f_lineno or 0, granularity))
            frame = frame.f_back
        found.reverse()
        return tuple(found[:DEPTH_MOST])

    def _instruction(self, code: CodeType, line: int, granularity: str) -> str:
        key = (code, line if granularity == 'line' else -1 if granularity == 'method' else -2)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _CACHE_MOST:
                self._known.clear()  # code that is made anew all the time must not be kept for ever
            known = self._relative(code.co_filename)
            if granularity != 'file':
                known += ':' + getattr(code, 'co_qualname', code.co_name)
            if granularity == 'line':
                known += ':%d' % line
            self._known[key] = known
        return known

    def _relative(self, path: str) -> str:
        for root in self._roots:
            if path.startswith(root):
                return path[len(root) :]
        return path
