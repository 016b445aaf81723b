"""What profiling may cost, as pure functions of what was measured: how far apart samples stand, and which actions are
profiled. One process decides for itself alone."""

from __future__ import annotations

from typing import NamedTuple

STRETCH_MOST = 10.0  # how many times the finest interval a sample may stand for
FLOOR_CORES = 0.05  # an idle process counts as one that uses this share of a core
CYCLE_SECONDS = 1.0
PAUSE_MOST_SECONDS = 60.0


class Limits(NamedTuple):
    """What holds until the next step."""

    stretch: float = 1.0  # of the sampling interval
    pause_seconds: float = 0.0  # how long nothing is to be profiled


def step(limits: Limits, ours: float, process: float, seconds: float, most: float) -> Limits:
    """The limits after `seconds`, in which the process used `process` seconds of CPU, `ours` of them for profiling.

    Above `most` the interval is stretched, and where it cannot be stretched further there is a pause that lasts until
    the excess is made up for; below, the interval comes back by a fifth a step.
    """
    if seconds <= 0:
        return Limits(limits.stretch)
    ratio = ours / max(process - ours, FLOOR_CORES * seconds)
    if ratio > most:
        pause = 0.0
        if limits.stretch >= STRETCH_MOST:
            pause = min(PAUSE_MOST_SECONDS, seconds * (ratio / most - 1))
        return Limits(min(STRETCH_MOST, limits.stretch * min(2.0, ratio / most)), pause)
    if ratio < 0.7 * most:
        return Limits(max(1.0, limits.stretch * 0.8))
    return Limits(limits.stretch)


def probability(demand: int, cap: int) -> float:
    """With which an action is profiled, if `demand` came in the last cycle and `cap` (0: any number) may be."""
    return 1.0 if cap == 0 or demand <= cap else cap / demand
