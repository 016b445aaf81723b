"""Generators and coroutines, whose frames lie apart and come and go with them."""

import asyncio
import contextvars
import types
import weakref

from . import harness
from .harness import KHZ_1, KHZ_10, REALISTIC, TORN, burn, marks, oracle, sample


def make_turn(rounds, marked):
    """Generators in generators, two kinds in turn."""
    mark = harness.mark if marked else [0]

    def leaf_a():
        for _ in range(3):
            mark[0] = marks() | 1
            yield burn(rounds)

    def middle_a():
        yield from leaf_a()

    def leaf_b():
        mark[0] = marks() | 2
        yield burn(rounds)
        mark[0] = marks() | 2
        yield burn(rounds)

    def middle_b():
        for value in leaf_b():
            mark[0] = marks()
            yield value + 1

    def turn():
        for _ in middle_a():
            mark[0] = marks()
        for _ in middle_b():
            pass

    return turn


PATHS = [('turn', 'middle_a', 'leaf_a', 'burn'), ('turn', 'middle_b', 'leaf_b', 'burn')]


def kind_of(stack):
    if stack.path is None:
        return None
    return {'leaf_a': 1, 'leaf_b': 2}.get(stack.path[2], None) if len(stack.path) > 3 else 0


@oracle
def generators():
    """Generators in generators, two kinds in turn as fast as they can: hardly one under another's callers."""
    turn = make_turn(5, marked=False)
    for interval_us, reads in ((KHZ_10, 8000), (KHZ_1, 500)):
        got = sample(turn, reads, interval_us)
        # A generator that is made where another died a moment ago cannot be told from it.
        got.is_possible(PATHS, 0.03)
        got.is_complete(0.1)
    got.sees('leaf_a', 'leaf_b')


@oracle
def realistic_generators():
    """With some work in each, each only under its own callers, each sample of its moment, and shares are right."""
    turn = make_turn(600, marked=True)
    for interval_us, reads in ((KHZ_10, 6000), (KHZ_1, 600)):
        got = sample(turn, reads, interval_us)
        got.is_possible(PATHS, REALISTIC)
        got.is_true(kind_of, (1, 2))
        got.is_complete(0.01)


@oracle
def tasks():
    """Tasks of asyncio that take turns: each coroutine under its own awaiter, and shares are right."""
    mark = harness.mark

    async def inner(kind, rounds):
        for _ in range(4):
            mark[0] = marks() | kind
            burn(rounds)
            mark[0] = marks()
            await asyncio.sleep(0)

    async def ping():
        await inner(1, 600)

    async def pong():
        await inner(2, 1000)

    async def both():
        await asyncio.gather(ping(), pong(), ping())

    def task_of(stack):
        if stack.path is None:
            return None
        if 'burn' not in stack.path:
            return 0
        return {('_run', 'ping', 'inner', 'burn'): 1, ('_run', 'pong', 'inner', 'burn'): 2}.get(stack.path[-4:])

    def impossible(stack):
        if stack.flags & TORN:
            return False
        if stack.path is None:
            return True
        for at, name in enumerate(stack.path):
            if name == 'inner' and (stack.path[at - 1] not in ('ping', 'pong') or stack.path[at - 2] != '_run'):
                return True
        return False

    loop = asyncio.new_event_loop()

    def run():
        loop.run_until_complete(both())

    for interval_us, reads in ((KHZ_10, 6000), (KHZ_1, 600)):
        got = sample(run, reads, interval_us)
        got.is_rare(impossible, REALISTIC)
        got.is_true(task_of, (1, 2))
        got.is_complete(0.01)
    loop.close()


@oracle
def contexts():
    """A variable is found in contexts of any size, and with random words in what is copied nothing crashes."""
    variables = [contextvars.ContextVar(f'variable {n}') for n in range(500)]
    for size in (0, 1, 2, 15, 16, 17, 33, 120, 500):

        def inside(size=size):
            for variable in variables[:size]:
                variable.set(object())
            for at, variable in enumerate(variables):
                assert harness.probe.context(variable, 1, 0) == ((1, 0, 0, 0) if at < size else (0, 0, 1, 0)), (
                    size,
                    at,
                )
            for much in (30, 300, 1000):
                assert sum(harness.probe.context(variables[0], 2000, much)) == 2000

        contextvars.Context().run(inside)


class Wrapped:
    def __init__(self, awaited):
        self.awaited = awaited

    def __await__(self):
        return self.awaited.__await__()


class ByHand:
    def __init__(self, awaited):
        self.awaited = awaited

    def __await__(self):
        yield from self.awaited.__await__()


@types.coroutine
def turn():
    yield


async def waits(depth):
    if depth == 0:
        await turn()
    elif depth % 3 == 0:
        await Wrapped(waits(depth - 1))
    elif depth % 3 == 1:
        await ByHand(waits(depth - 1))
    else:
        many = [None] * 40  # so that what is awaited lies far from the frame's head
        await waits(depth - 1 + len(many) - 40)


@oracle
def suspended():
    """Of a coroutine that waits every coroutine down to the innermost is read, at its line, and of one that runs or has
    ended none is."""
    for depth in (0, 1, 2, 3, 10, 30):
        coroutine = waits(depth)
        reference = weakref.ref(coroutine)
        assert harness.probe.suspended(reference, 1, 0) == [], 'it has not begun'
        coroutine.send(None)
        got = harness.probe.suspended(reference, 3, 0)
        names = [name.rsplit('.', 1)[-1] for name, _ in got]
        assert names[0] == 'turn' and names[-1] == 'waits', (depth, got)
        assert names.count('waits') == depth + 1, (depth, got)
        assert names.count('__await__') == sum(n % 3 == 1 for n in range(1, depth + 1)), (depth, got)
        assert got[-1][1] == coroutine.cr_frame.f_lineno, (depth, got)
        for much in (30, 300, 1000):
            harness.probe.suspended(reference, 2000, much)
        assert harness.probe.suspended(reference, 1, 0) == got
        coroutine.close()
        assert harness.probe.suspended(reference, 1, 0) == []
        del coroutine
        assert harness.probe.suspended(reference, 1, 0) == [], 'it has gone'

    async def looks():
        return harness.probe.suspended(reference, 1, 0)

    running = looks()
    reference = weakref.ref(running)
    try:
        running.send(None)
    except StopIteration as ended:
        assert ended.value == [], 'it runs'
