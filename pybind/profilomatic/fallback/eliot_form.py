"""Messages as tasks of Eliot's: the same lines as the aggregator's, but without the states of samples, which are not
known here."""

from __future__ import annotations

import collections
from typing import Any, Dict, List, Tuple

from .tree import Event, Sample

_TOP_MOST = 5
_COLUMNS = ['wall', 'samples']


def _stacks(samples: List[Sample], scale: float) -> Dict[str, Any]:
    """What was sampled, by stack; `scale` turns sampled seconds into seconds of what is told."""
    walls: Dict[Tuple[str, ...], float] = collections.defaultdict(float)
    counts: Dict[Tuple[str, ...], int] = collections.defaultdict(int)
    for sample in samples:
        walls[sample.stack] += sample.wall
        counts[sample.stack] += 1
    frames: Dict[str, int] = {}  # in the order in which they are met
    stacks = [[frames.setdefault(frame, len(frames)) for frame in stack] for stack in walls]
    return {
        'unit': 'nanoseconds',
        'columns': _COLUMNS,
        'frames': list(frames),
        'stacks': stacks,
        'values': [[round(wall * scale * 1e9), counts[stack]] for stack, wall in walls.items()],
    }


def _top(samples: List[Sample]) -> List[str]:
    """The instructions with the most time of their own."""
    own: Dict[str, float] = collections.defaultdict(float)
    for sample in samples:
        if sample.stack:
            own[sample.stack[-1]] += sample.wall
    total = sum(own.values())
    most = sorted(own.items(), key=lambda item: -item[1])[:_TOP_MOST]
    return ['%s %.1f%%' % (instruction, 100 * wall / total) for instruction, wall in most]


class _Task:
    """A task's lines, one level after the other. Its uuid is made of the message's id: version 8."""

    def __init__(self, id: str) -> None:
        digits = id.replace('-', '')
        self._uuid = '-'.join((digits[:8], digits[8:12], '8' + digits[13:16], digits[16:20], digits[20:]))
        self.lines: List[Dict[str, Any]] = []

    def say(self, time: float, **fields: Any) -> None:
        """`time`: seconds since 1970."""
        level = [len(self.lines) + 1]
        self.lines.append({'task_uuid': self._uuid, 'task_level': level, 'timestamp': time, **fields})


def profile(message: Dict[str, Any], samples: List[Sample], end_time: float) -> List[Dict[str, Any]]:
    """The lines of the task that tells what the merged profile `message` does. `end_time` of the window is in seconds
    since 1970."""
    told = _Task(message['id'])
    told.say(
        end_time,
        action_type='profilomatic:profile',
        action_status='started',
        schema='profilomatic/1',
        kind='profile',
        id=message['id'],
        source=message['source'],
        profiled_action_type=message['action_type'],
    )
    told.say(end_time, message_type='profilomatic:stacks', **_stacks(samples, 1.0))
    told.say(
        end_time,
        action_type='profilomatic:profile',
        action_status='succeeded',
        count=message['count'],
        errors=message['errors'],
        profiled=message['profiled'],
        wall=message['time'],
        latency=message['latency'],
        top=_top(samples),
    )
    return told.lines


def action(
    message: Dict[str, Any], samples: List[Sample], events: List[Event], began: float, began_time: float
) -> List[Dict[str, Any]]:
    """The lines of the task that tells what the classic `message` does. `began` is on the clock of samples and events,
    `began_time` the same in seconds since 1970. The first event is the action's own begin, the last its end."""
    task = _Task(message['id'])

    def say(time: float, **fields: Any) -> None:
        task.say(began_time + time - began, **fields)

    def say_stacks(those: List[Sample]) -> None:
        if those:
            say(those[-1].time, message_type='profilomatic:stacks', **_stacks(those, scale))

    sampled = sum(sample.wall for sample in samples)
    scale = message['time'] / sampled if sampled else 0.0
    say(
        began,
        action_type='profilomatic:action',
        action_status='started',
        schema='profilomatic/1',
        kind='action',
        id=message['id'],
        source=message['source'],
        profiled_action_type=message['action_type'],
        profiled_task_uuid=message['task_uuid'],
        profiled_task_level=message.get('task_level', []),
        pid=message['pid'],
        thread_id=message['thread'],
        weight=message['weight'],
        period_ns=round(message['interval'] * 1e9),
        code_granularity=message['code_granularity'],
        **{key: message[key] for key in ('trace_id', 'span_id') if key in message},
    )
    told = events[1:] if 'task_level' in events[-1].message else events[1:-1]  # its end, if the log tells of it
    at = 0
    for event in sorted(told, key=lambda event: event.time):
        before = at
        while at < len(samples) and samples[at].time < event.time:
            at += 1
        say_stacks(samples[before:at])
        say(event.time, message_type='profilomatic:logged', logged=event.message)
    say_stacks(samples[at:])
    say(
        began + message['time'],
        action_type='profilomatic:action',
        action_status='succeeded',
        profiled_action_status=message['action_status'],
        wall=message['time'],
        cpu=message['cpu_time'],
        samples=len(samples),
        top=_top(samples),
        **({'profiled_exception': message['exception']} if 'exception' in message else {}),
    )
    return task.lines
