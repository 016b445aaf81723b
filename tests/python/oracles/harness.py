"""Sampling a program by the probe, and what may be asserted of the outcome."""

import collections
import gc
import itertools
import os
import sys
import time
import types

from .chance import distance, most_of

TORN, TRUNCATED = 1, 2
KHZ_1, KHZ_10 = 1000, 100  # intervals in us; with what waking up takes, the rates are somewhat lower
# The rate of impossible stacks where leaves do some work. None can be made while the program goes on with what it does;
# but the kernel may take the core away from the probe in the middle of a copy, and who knows how far it goes meanwhile.
REALISTIC = 0.0005
SECONDS_MOST = 60  # for all samples of one program, on a machine that is busy with other things

probe = None
mark = None  # mark[0] = marks() | kind: what the program does from now on; kind 0: nothing in particular
marks = itertools.count(256, 256).__next__


def open_probe(folder):
    global probe, mark
    sys.path.insert(0, folder)
    import _readerprobe

    probe, mark = _readerprobe, _readerprobe.mark


def oracle(function=None, *, check=True, hook=True):
    """Marks an oracle; `check` and `hook`: what is called before it."""

    def declare(function):
        function.is_oracle, function.check, function.hook = True, check, hook
        return function

    return declare(function) if function else declare


# ---- code objects ---------------------------------------------------------------------------------------------------


def qualified(code):
    """The name that is shown of a code object; CPython 3.10 knows no qualified ones."""
    return getattr(code, 'co_qualname', code.co_name)


def renamed(code, name):
    return code.replace(**{'co_qualname' if hasattr(code, 'co_qualname') else 'co_name': name})


def lines_of(code):
    """The line of each code unit by the C API, 0 where there is none."""
    if hasattr(code, 'co_positions'):
        return [position[0] or 0 for position in code.co_positions()]
    return [line or 0 for start, end, line in code.co_lines() for _ in range(start, end, 2)]


def code_objects(top):
    yield top
    for constant in top.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def living_code():
    """(file, name) of every code object that a function or a frame of this process still has: their lines."""
    found = {}
    tops = [function.__code__ for function in gc.get_objects() if isinstance(function, types.FunctionType)]
    frame = sys._getframe()
    while frame:
        tops.append(frame.f_code)
        frame = frame.f_back
    for code in {id(code): code for top in tops for code in code_objects(top)}.values():
        found.setdefault((os.path.basename(code.co_filename), qualified(code)), []).append(code)
    return found


# ---- samples --------------------------------------------------------------------------------------------------------

Stack = collections.namedtuple('Stack', 'frames path flags count kind settled')


class Sampled:
    """What the probe saw.

    `stacks`: frames leaf first as (file, name, line); path: the last parts of their names from the program's own frame
    on, root first, None if the frames below are not those that called it; kind: the mark's when the sample was taken;
    settled: the mark did not change while it was read, so it must be of that kind.
    """

    def __init__(self, told, base):
        self.told = {name: value for name, value in told.items() if name != 'stacks'}
        self.reads, self.unreadable, self.torn = told['reads'], told['unreadable'], told['torn']
        self.stacks, self.silent = [], collections.Counter()
        for text, flags, count, kind, settled in told['stacks']:
            if not text:
                self.silent[kind] += count
                continue
            frames = []
            for line in text.split('\n'):
                file, name, number = ('::' + line).rsplit(':', 2)  # damaged names may hold anything
                frames.append(
                    (os.path.basename(file.removeprefix('::')), name, int(number) if number.isdecimal() else 0)
                )
            self.stacks.append(Stack(frames, below(frames, base), flags, count, kind, settled))

    def count(self, wanted):
        return sum(stack.count for stack in self.stacks if wanted(stack))

    def sees(self, *names):
        """Each of these functions is on some stack: how often depends on more than the reader."""
        seen = {name for stack in self.stacks for name in stack.path or ()}
        assert seen >= set(names), (set(names) - seen, self.told)

    def names_are_right(self):
        """Every frame has the file, the name and a line of one code object."""
        living = living_code()
        for file, name, line in {frame for stack in self.stacks for frame in stack.frames}:
            codes = living.get((file, name))
            assert codes, ('there is no such code', file, name)
            assert any(line in lines_of(code) for code in codes), ('it has no such line', file, name, line)

    def is_possible(self, paths, rate):
        """Of the whole stacks no more than `rate` are not the beginning of one of `paths`."""
        known = {path[:n] for path in map(tuple, paths) for n in range(len(path) + 1)}
        self.is_rare(lambda stack: not stack.flags & (TORN | TRUNCATED) and stack.path not in known, rate)

    def is_rare(self, wrong, rate):
        """No more than `rate` of the samples are wrong, and if rate is REALISTIC none that was settled."""
        found = [stack for stack in self.stacks if wrong(stack)]
        if rate == REALISTIC:
            assert not any(stack.settled for stack in found), (self.told, [stack for stack in found if stack.settled])
        count = sum(stack.count for stack in found)
        most = most_of(self.reads, rate)
        assert count <= most, (
            count,
            most,
            self.told,
            [stack._replace(frames=stack.frames[:12]) for stack in found[:3]],
        )

    def is_complete(self, rate):
        """No more than `rate` of the samples are torn or unreadable."""
        lost = self.torn + self.unreadable
        assert lost <= most_of(self.reads, rate), (lost, most_of(self.reads, rate), self.told)

    def pairs(self, kind_of):
        """Each sample's kind by kind_of(stack) beside the program's own, counted.

        kind_of tells one of the mark's kinds, None for what is not understood.
        """
        pairs = collections.Counter({('nothing', kind): count for kind, count in self.silent.items()})
        for stack in self.stacks:
            pairs[kind_of(stack), stack.kind] += stack.count
        return pairs

    def is_true(self, kind_of, kinds):
        """Each sample is of the moment in which it was taken, and together they are where the time went.

        While a mark stands, the program goes from there to what it is about to do and back again: so a stack read
        meanwhile is of that kind, or of the code in between (0).
        """
        for stack in self.stacks:
            if stack.settled:
                assert kind_of(stack) in (stack.kind, 0), (kind_of(stack), stack, self.told)
        seen = {stack.kind for stack in self.stacks}
        assert seen >= set(kinds), (set(kinds) - seen, self.told)
        apart, noise = distance(self.pairs(kind_of))
        assert apart <= 0.02 + noise, (apart, noise, self.told)


def below(frames, base):
    """The path of a stack whose root side is `base`; see Sampled."""
    names = [name.rsplit('.', 1)[-1] for _, name, _ in reversed(frames)]
    return tuple(names[len(base) :]) if names[: len(base)] == base else None


def base_of(frame):
    """The names below the program, root first."""
    names = []
    while frame:
        names.append(qualified(frame.f_code).rsplit('.', 1)[-1])
        frame = frame.f_back
    return names[::-1]


def sample(program, reads=5000, interval_us=KHZ_10, how='reader', damage=0, names=True):
    """Run program() again and again until the probe has taken so many samples of it."""
    probe.start(interval_us, how, damage)
    end = time.monotonic() + SECONDS_MOST
    while probe.reads() < reads and time.monotonic() < end:
        program()
    got = Sampled(probe.stop(), base_of(sys._getframe()))
    assert got.reads >= reads, ('the machine is too busy for the probe', got.told)
    if names and not damage:
        got.names_are_right()
    return got


def burn(rounds):
    total = 0
    for i in range(rounds):
        total += i
    return total
