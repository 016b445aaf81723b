"""Time outside any action, with scope 'process': sampled stacks by window, told as merged profiles are."""

from __future__ import annotations

import collections
from typing import Any, Dict, List, Tuple

from .tree import Sample, instant

ACTION_TYPE = '(outside any action)'
WINDOW_SECONDS = 10.0
STACKS_MOST = 10_000  # distinct ones of a window; the rest are '(other)'
_OTHER = ('(other)',)


def _children(walls: Dict[Tuple[str, ...], float]) -> List[Dict[str, Any]]:
    root: Dict[str, Any] = {'children': []}
    known: Dict[Tuple[str, ...], Dict[str, Any]] = {(): root}
    for stack, wall in walls.items():
        for depth in range(1, len(stack) + 1):
            node = known.get(stack[:depth])
            if node is None:
                node = {'instruction': stack[depth - 1], 'time': 0.0, 'self_time': 0.0, 'children': []}
                known[stack[:depth]] = node
                known[stack[: depth - 1]]['children'].append(node)
            node['time'] += wall
        if stack:
            known[stack]['self_time'] += wall
    found: List[Dict[str, Any]] = root['children']
    return found


class Outside:
    """One window after the other. For one thread at a time."""

    def __init__(self) -> None:
        self.seconds = 0.0  # of all windows
        self.began = 0.0  # on the clock of samples; 0: nothing was sampled in this window yet
        self._walls: Dict[Tuple[str, ...], float] = collections.defaultdict(float)
        self._counts: Dict[Tuple[str, ...], int] = collections.defaultdict(int)

    def add(self, now: float, stack: Tuple[str, ...], wall: float) -> None:
        if not self.began:
            self.began = now
        if stack not in self._walls and len(self._walls) >= STACKS_MOST:
            stack = _OTHER
        self._walls[stack] += wall
        self._counts[stack] += 1
        self.seconds += wall

    def take(self, now: float, now_time: float, id: str, source: str) -> Tuple[Dict[str, Any], List[Sample]]:
        """End the window: its message in the classic form, and its stacks. `now_time`: `now` in seconds since 1970."""
        walls, counts, began = self._walls, self._counts, self.began
        self._walls, self._counts, self.began = collections.defaultdict(float), collections.defaultdict(int), 0.0
        stacks = [Sample(now, walls[stack] / count, stack) for stack, count in counts.items() for _ in range(count)]
        message = {
            'kind': 'profile',
            'id': id.replace('-', ''),
            'source': source,
            'action_type': ACTION_TYPE,
            'window_start': instant(now_time + began - now),
            'window_end': instant(now_time),
            'time': sum(walls.values()),
            'self_time': 0.0,
            'count': 0,
            'errors': 0,
            'profiled': 0,
            'latency': dict.fromkeys(('mean', 'p50', 'p90', 'p99', 'max'), 0.0),
            'children': _children(walls),
        }
        return message, stacks
