"""Calls that go through C, destructors, and frames of uncommon size."""

from . import harness
from .harness import KHZ_1, KHZ_10, REALISTIC, TORN, burn, marks, oracle, sample


@oracle
def destructors():
    """A destructor that runs when a function returns lies above the dying frame: still a whole stack."""
    mark = harness.mark

    class Guard:
        def __del__(self):
            mark[0] = marks() | 1
            burn(600)
            mark[0] = marks()

    def holder(depth):
        guard = Guard()
        other = [guard]
        return holder(depth - 1) if depth else len(other)

    def run():
        holder(2)

    def kind_of(stack):
        if stack.path is None:
            return None
        return 1 if stack.path[-2:] == ('__del__', 'burn') else 0

    got = sample(run, 6000)
    # Which of the frames below are still shown while they die is up to CPython.
    got.is_possible([('run', *['holder'] * n, '__del__', 'burn') for n in range(4)], REALISTIC)
    got.is_true(kind_of, (1,))
    got.is_complete(0.005)


@oracle
def callbacks_from_c():
    """Python called from C called from Python, as fast as it can: sorted(key=), a constructor, a comparison."""

    class Item:
        def __init__(self, n):
            self.n = n
            burn(20)

        def __lt__(self, other):
            burn(20)
            return self.n < other.n

    def key(item):
        return Item(item)

    def run():
        sorted([3, 1, 2], key=key)

    for interval_us, reads in ((KHZ_10, 8000), (KHZ_1, 500)):
        got = sample(run, reads, interval_us)
        # The frames of __init__ and __lt__ are of one size.
        got.is_possible([('run', 'key', '__init__', 'burn'), ('run', '__lt__', 'burn')], 0.03)
        got.is_complete(0.01)
        got.sees('key', '__init__', '__lt__', 'burn')


@oracle
def realistic_callbacks():
    """The same with some work in each: nothing impossible, each sample of its moment, and shares are right."""
    mark = harness.mark

    class Item:
        def __init__(self, n):
            self.n = n
            mark[0] = marks() | 1
            burn(500)
            mark[0] = marks()

        def __lt__(self, other):
            mark[0] = marks() | 2
            burn(800)
            mark[0] = marks()
            return self.n < other.n

    def key(item):
        return Item(item)

    def run():
        sorted([3, 1, 2], key=key)

    def kind_of(stack):
        if stack.path is None:
            return None
        return {'__init__': 1, '__lt__': 2}.get(stack.path[-2]) if stack.path[-1:] == ('burn',) else 0

    for interval_us, reads in ((KHZ_10, 6000), (KHZ_1, 600)):
        got = sample(run, reads, interval_us)
        got.is_possible([('run', 'key', '__init__', 'burn'), ('run', '__lt__', 'burn')], REALISTIC)
        got.is_true(kind_of, (1, 2))
        got.is_complete(0.005)


@oracle
def deep_through_c():
    """A hundred calls through C on one stack, new generators on top of it: whole, and at a fair price."""
    mark = harness.mark

    def work():
        mark[0] = marks() | 1
        burn(1000)
        mark[0] = marks()

    def dive(n):
        if n:
            return list(map(dive, (n - 1,)))
        for _ in range(100):
            next(work() for _ in (1,))

    def run():
        dive(100)

    def kind_of(stack):
        if stack.path is None:
            return None
        return 1 if stack.path[-3:] == ('<genexpr>', 'work', 'burn') else 0

    got = sample(run, 3000, 500)
    got.is_possible([('run', *['dive'] * 101, '<genexpr>', 'work', 'burn')], REALISTIC)
    got.is_true(kind_of, (1,))
    got.is_complete(0.02)
    # Each new generator is one frame more to learn; learning a stack frame by frame would take a hundred gathers.
    assert got.told['retries'] <= 3 * got.reads, got.told


@oracle
def large_frames():
    """Frames larger than a chunk of the data stack, and one larger than is gathered of any."""
    space = {'burn': burn}
    mark = harness.mark
    for name, width, call in (('wide', 1800, 'burn(2000)'), ('wider', 9000, 'wide()'), ('widest', 20000, 'wider()')):
        fill = ''.join(f'    v{i} = 0\n' for i in range(width))
        exec(compile(f'def {name}():\n if 0:\n' + fill + f' return {call}\n', 'wide', 'exec'), space)
    widest = space['widest']

    def run():
        for _ in range(10):
            mark[0] = marks() | 1
            widest()
            mark[0] = marks()

    def kind_of(stack):
        if stack.path is None:
            return None
        return 1 if len(stack.path) > 1 else 0

    got = sample(run, 4000)
    got.is_possible([('run', 'widest', 'wider', 'wide', 'burn')], REALISTIC)
    got.sees('widest', 'wider', 'wide', 'burn')
    # Making such frames takes as long as some work does: the time before the first is on the stack belongs to the call.
    for stack in got.stacks:
        assert not stack.settled or stack.flags & TORN or kind_of(stack) in (stack.kind, 0), stack
    got.is_complete(0.05)


@oracle
def warm_reads():
    """A stack that stands still costs one gather a read, but for those that were interrupted, and nothing else."""

    def dive(n):
        return harness.probe.still(1000) if n == 0 else dive(n - 1)

    gathers, pieces, frames = dive(20)
    assert 1000 <= gathers <= 1100 and pieces == 0 and frames > 20, (gathers, pieces, frames)
