"""Functions that call themselves, near and beyond the edges of what is gathered."""

import sys

from . import harness
from .harness import KHZ_1, KHZ_10, TRUNCATED, burn, marks, oracle, sample


def run_recursions():
    def odd(n):
        return odd(n - 1) if n else burn(1)

    def even(n):
        return even(n - 1) if n else burn(1)

    odd(20)
    even(20)


RECURSIONS = [('run_recursions', *[name] * 21, 'burn') for name in ('odd', 'even')]


@oracle
def recursions():
    """Two recursions in turn, with frames of one size and from one pool: hardly a stack of both."""
    for interval_us, reads in ((KHZ_10, 8000), (KHZ_1, 500)):
        got = sample(run_recursions, reads, interval_us)
        got.is_possible(RECURSIONS, 0.03)
        got.is_complete(0.05)


def dive(n):
    return burn(50) if n == 0 else dive(n - 1)


def dives(depth, most_reads):
    """Always one unbroken run of calls."""
    for interval_us, reads in ((KHZ_10, most_reads), (KHZ_1, 500)):

        def run():
            dive(depth)

        got = sample(run, reads, interval_us)
        got.is_possible([('run', *['dive'] * (depth + 1), 'burn')], 0.005)
        # Before 3.11 hundreds of objects are gathered, which takes longer than a whole dive: see `depths`.
        if sys.version_info >= (3, 11):
            got.is_complete(0.02)
    assert max(stack.path.count('dive') for stack in got.stacks if stack.path) <= depth + 1


@oracle
def recursion_300():
    """Three hundred deep, over several chunks of the data stack."""
    dives(300, 4000)


@oracle
def recursion_1000():
    """As deep as CPython lets code go by default."""
    sys.setrecursionlimit(2000)
    dives(1000, 2500)


@oracle
def depths():
    """Some work at every depth, down and up, over the end of a chunk: each is seen as often as work is done there."""
    mark = harness.mark

    def level(n):
        mark[0] = marks() | n
        burn(300)
        mark[0] = marks()
        if n < 200:
            level(n + 1)
            mark[0] = marks() | n
            burn(300)
            mark[0] = marks()

    def kind_of(stack):
        if stack.path is None:
            return None
        return stack.path.count('level') if stack.path[-1:] == ('burn',) else 0

    def run():
        level(1)

    for interval_us, reads in ((KHZ_10, 8000), (KHZ_1, 600)):
        got = sample(run, reads, interval_us)
        # A burn() that returned from one level may be found on that of the level below: their frames are of one size.
        got.is_possible([('run', *['level'] * n, 'burn') for n in range(1, 201)], 0.03)
        got.is_true(kind_of, ())
        got.is_complete(0.01)
    assert len({stack.kind for stack in got.stacks}) > 100


@oracle
def too_deep():
    """Deeper than is kept: the leaf side is kept and says so."""
    sys.setrecursionlimit(20000)
    mark = harness.mark

    def dive_deep(n):
        if n:
            return dive_deep(n - 1)
        mark[0] = marks() | 1
        burn(20000)
        mark[0] = marks()

    def run():
        dive_deep(6000)

    got = sample(run, 2000)
    assert any(stack.flags & TRUNCATED and len(stack.frames) == 1024 for stack in got.stacks), got.told
    for stack in got.stacks:
        names = [name.rsplit('.', 1)[-1] for _, name, _ in stack.frames]
        if stack.flags & TRUNCATED:
            first = names.index('dive_deep')
            assert names[:first] in ([], ['burn']) and len(names) <= 1024, names[:5]
            # Where it is just deep enough to be cut, a part of what is below may be kept.
            assert len(set(names[first:-10])) == 1, names[-10:]
    # On its way it is faster than its chunks (before 3.11, its frames) can be listed; but not where it stays.
    stays = got.silent[1] + sum(stack.count for stack in got.stacks if stack.kind == 1)
    kept = got.count(lambda stack: stack.kind == 1 and stack.flags & TRUNCATED and stack.frames[0][1] == 'burn')
    assert stays and kept >= stays * 0.5, (kept, stays, got.told)


@oracle
def chunk_churn():
    """Calls that go back and forth over the end of a chunk, which is mapped and unmapped each time."""

    def shallow(n):
        return burn(1) if n == 0 else shallow(n - 1)

    def run():
        for depth in range(60, 200, 3):
            shallow(depth)

    got = sample(run, 8000)
    got.is_possible([('run', *['shallow'] * n, 'burn') for n in range(61, 199, 3)], 0.005)
    got.is_complete(0.05)
