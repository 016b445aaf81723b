"""The call tree of one profiled action: its samples in order of time, with the begins and ends of actions at their
places. The same form as in the aggregator's classic messages."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple


class Sample(NamedTuple):
    time: float  # seconds, on the clock of the begin
    wall: float  # seconds that it stands for
    stack: Tuple[str, ...]  # instructions, outermost first


class Event(NamedTuple):
    time: float
    message: Dict[str, Any]
    depth: int = 0  # frames on the stack, to the one that logged; 0: not known


class _Piece:
    """A frame over a stretch of time, or a message at a point of it."""

    def __init__(self, instruction: str, start: float) -> None:
        self.instruction = instruction
        self.start = self.end = start  # sampled seconds since the first sample
        self.time = self.self_time = 0.0
        self.message: Dict[str, Any] = {}
        self.children: List[_Piece] = []


class _Builder:
    def __init__(self, events: List[Event]) -> None:
        self.root = _Piece('', 0.0)
        self.total = 0.0
        self._events = sorted(events, key=lambda event: event.time)
        self._told = 0
        self._path: List[_Piece] = []  # of the last sample

    def _due(self, until: float) -> List[Event]:
        first = self._told
        while self._told < len(self._events) and self._events[self._told].time <= until:
            self._told += 1
        return self._events[first : self._told]

    def _tell(self, parent: _Piece, instruction: str, events: List[Event]) -> None:
        """Events that have no frame of their own to stand at: points of no duration."""
        for event in events:
            piece = _Piece(instruction, self.total)
            piece.message = event.message
            parent.children.append(piece)

    def add(self, sample: Sample) -> None:
        if not sample.stack:
            return
        common = 0
        for piece, instruction in zip(self._path, sample.stack):
            if piece.instruction != instruction:
                break
            common += 1
        due = self._due(sample.time)
        if due:  # what ran before a message and after it stay apart, in the frame that logged it and below
            common = min([common, len(sample.stack) - 1] + [event.depth - 1 for event in due if event.depth])
        parent = self._path[common - 1] if common else self.root
        if due:
            self._tell(parent, sample.stack[common], due[:-1])
        del self._path[common:]
        for depth in range(common, len(sample.stack)):
            piece = _Piece(sample.stack[depth], self.total)
            if depth == common and due:
                piece.message = due[-1].message
            parent.children.append(piece)
            self._path.append(piece)
            parent = piece
        self.total += sample.wall
        for piece in self._path:
            piece.time += sample.wall
            piece.end = self.total
        parent.self_time += sample.wall

    def finish(self) -> None:
        due = self._due(float('inf'))
        if self._path:
            self._tell(self.root, self._path[0].instruction, due)
        elif any('task_level' in event.message for event in due):  # the application has logged something
            self._tell(self.root, '(not sampled)', due)


def instant(seconds: float) -> str:
    """Seconds since 1970 as UTC."""
    from datetime import datetime, timezone

    return datetime.fromtimestamp(seconds, timezone.utc).strftime('%Y-%m-%dT%H:%M:%S.%fZ')


def children(samples: List[Sample], events: List[Event], start: float, duration: float) -> List[Dict[str, Any]]:
    """The call tree, scaled to the measured `duration`; `start` is when the action began, in seconds since 1970."""
    builder = _Builder(events)
    for sample in samples:
        builder.add(sample)
    builder.finish()
    scale = duration / builder.total if builder.total else 0.0

    def told(piece: _Piece) -> Dict[str, Any]:
        found: Dict[str, Any] = {
            'instruction': piece.instruction,
            'time': piece.time * scale,
            'self_time': piece.self_time * scale,
            'start_time': instant(start + piece.start * scale),
            'end_time': instant(start + piece.end * scale),
            'children': [told(child) for child in piece.children],
        }
        if piece.message:
            found['message'] = piece.message
        return found

    return [told(piece) for piece in builder.root.children]
