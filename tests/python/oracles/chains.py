"""Chains of calls that take turns: a stack that mixes two of them, or skips a level, is of no moment there was."""

import collections
import sys

from . import harness
from .chance import distance
from .harness import KHZ_1, KHZ_10, REALISTIC, burn, marks, oracle, renamed, sample

PREFIXES = ('ash', 'birch', 'cedar', 'elm')  # with `vary`, no two of them have frames of one size at one level


def make_chain(prefix, levels, rounds, vary):
    """prefix_0 calls prefix_1 … calls burn(rounds); with `vary`, frames of different sizes. Returns prefix_0."""
    space = {'burn': burn}
    for level in reversed(range(levels)):
        width = (sum(map(ord, prefix)) * 7 + level * 13) % 40 if vary else 0
        fill = ''.join(f'    v{i} = {i}\n' for i in range(width))
        call = f'burn({rounds})' if level == levels - 1 else f'{prefix}_{level + 1}()'
        exec(compile(f'def {prefix}_{level}():\n{fill}    return {call}\n', prefix, 'exec'), space)
    return space[f'{prefix}_0']


class Chains:
    """A program of all chains in turn; `rounds`: of work in the leaf of each."""

    def __init__(self, levels, rounds, vary):
        kinds = list(enumerate((make_chain(p, levels, r, vary) for p, r in zip(PREFIXES, rounds)), 1))
        mark = harness.mark

        def run_marked():
            for kind, chain in kinds:
                mark[0] = marks() | kind
                chain()
                mark[0] = marks()

        def run():
            for _, chain in kinds:
                chain()

        run.__code__ = renamed(run.__code__, 'run')
        self.run, self.run_marked = run, run_marked
        self.paths = [('run', *(f'{p}_{n}' for n in range(levels)), 'burn') for p in PREFIXES]
        self.marked_paths = [('run_marked', *path[1:]) for path in self.paths]

    @staticmethod
    def kind_of(stack):
        if stack.path is None:
            return None
        return PREFIXES.index(stack.path[1].rsplit('_', 1)[0]) + 1 if len(stack.path) > 1 else 0


def leaf_rounds(rounds):
    return [rounds] * len(PREFIXES)


def told_apart(chains, reads):
    """Next to nothing impossible or cut short, in so many reads at 10 kHz and in some at 1 kHz: what those gave."""
    for interval_us, n in ((KHZ_10, reads), (KHZ_1, 500)):
        got = sample(chains.run, n, interval_us)
        got.is_possible(chains.paths, 0.005)
        got.is_complete(0.01)
    return got


@oracle
def flat_alternating():
    """Four functions called in turn, as fast as they can be, are told apart."""
    got = told_apart(Chains(1, leaf_rounds(20), True), 5000)
    got.sees(*(prefix + '_0' for prefix in PREFIXES))


@oracle
def nested_alternating():
    """Twelve levels deep, calls alternating between four chains as fast as they can: next to nothing impossible."""
    told_apart(Chains(12, leaf_rounds(1), True), 8000)


@oracle
def same_sizes():
    """The same with frames of one size, where geometry cannot tell one chain from another: still hardly any."""
    chains = Chains(12, leaf_rounds(1), False)
    for interval_us, reads in ((KHZ_10, 8000), (KHZ_1, 500)):
        got = sample(chains.run, reads, interval_us)
        got.is_possible(chains.paths, 0.03)


def realistic(levels):
    """Leaves of 20 to 60 us, as in an application."""
    chains = Chains(levels, (400, 600, 800, 1200), True)
    for interval_us, reads in ((KHZ_10, 6000), (KHZ_1, 600)):
        got = sample(chains.run_marked, reads, interval_us)
        got.is_possible(chains.marked_paths, REALISTIC)
        got.is_true(chains.kind_of, (1, 2, 3, 4))
        got.is_complete(0.001)


@oracle
def realistic_flat():
    """With leaves that do some work nothing is impossible, each sample is of its moment, and shares are right."""
    realistic(1)


@oracle
def realistic_nested():
    """The same twelve levels deep."""
    realistic(12)


class Leaves:
    """As long in one leaf that stays as in many that are left at once: what is read must not prefer either."""

    LONG, SHORT = 1, 2

    def __init__(self):
        mark = harness.mark

        def long_leaf():
            return burn(12000)

        def short_leaf(n):
            return short_leaf(n - 1) if n else burn(10)

        def many():
            for _ in range(300):
                short_leaf(4)

        def turn():
            mark[0] = marks() | self.LONG
            long_leaf()
            mark[0] = marks() | self.SHORT
            many()
            mark[0] = marks()

        self.turn = turn
        self.paths = [('turn', 'long_leaf', 'burn'), ('turn', 'many', *['short_leaf'] * 5, 'burn')]

    def kind_of(self, stack):
        if stack.path is None:
            return None
        return {(): 0, ('long_leaf',): self.LONG, ('many',): self.SHORT}.get(stack.path[1:2])


@oracle
def leaf_share():
    """No bias towards leaves that stay, or away from those that are left quickly: shares are those of time."""
    leaves = Leaves()
    for interval_us, reads in ((KHZ_10, 6000), (KHZ_1, 600)):
        got = sample(leaves.turn, reads, interval_us)
        got.is_true(leaves.kind_of, (leaves.LONG, leaves.SHORT))
        # In 3.10 the frames of a recursion change their places with each call, so that levels can be skipped.
        heap = sys.version_info < (3, 11)
        got.is_possible(leaves.paths, 0.03 if heap else 0.005)
        got.is_complete(0.05 if heap else 0.01)


@oracle
def rejecting_is_caught():
    """leaf_share has teeth: who believes only stacks whose leaf has stayed meanwhile is found out."""
    leaves = Leaves()
    pairs = collections.Counter()
    for _ in range(10):  # where the machine is so busy that the leaf is another by then in any case, it takes longer
        pairs += sample(leaves.turn, 800, how='rejecting').pairs(leaves.kind_of)
        apart, noise = distance(pairs)
        if apart > noise:
            return
    raise AssertionError((apart, noise, pairs))


@oracle
def naive_is_caught():
    """These oracles have teeth: following frames one by one, unchecked, is found out."""
    if sys.version_info >= (3, 11):
        chains, most = Chains(12, leaf_rounds(1), True), 0.005
        program, paths = chains.run, chains.paths
    else:  # each function's first frame always lies in one place; those of a recursion do not
        from .recursion import RECURSIONS, run_recursions

        program, paths, most = run_recursions, RECURSIONS, 0.03
    got = sample(program, 2000, how='naive', names=False)
    try:
        got.is_possible(paths, most)
        got.is_complete(0.01)
    except AssertionError:
        return
    raise AssertionError(got.told)
