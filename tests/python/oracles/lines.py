"""Lines: of tables, and of frames."""

import sys

from . import harness
from .harness import KHZ_1, KHZ_10, REALISTIC, TORN, burn, code_objects, lines_of, marks, oracle, qualified, sample


@oracle
def tables():
    """The line of every instruction of a good part of the standard library is the one that the C API tells."""
    compared = 0
    for module in (
        'argparse',
        'typing',
        'asyncio.base_events',
        'dataclasses',
        'inspect',
        'tarfile',
        'decimal',
        're._parser' if sys.version_info >= (3, 11) else 'sre_parse',
    ):
        __import__(module)
        with open(sys.modules[module].__file__, encoding='utf-8') as source:
            top = compile(source.read(), module, 'exec')
        for code in code_objects(top):
            file, name, ours = harness.probe.describe(code)
            theirs = lines_of(code)
            assert (file, name) == (code.co_filename, qualified(code)), (file, name)
            assert ours == theirs, (code, [p for p in zip(range(10**6), ours, theirs) if p[1] != p[2]][:3])
            compared += len(ours)
    assert compared > 30_000, compared


@oracle
def long_functions():
    """A function of twenty thousand lines keeps all of them, also where they are past 65,535."""
    body = ''.join(f'    x = {n}\n\n' for n in range(20_000))
    for before in (0, 60_000):
        space = {}
        exec(compile('\n' * before + 'def long():\n' + body + '    return x\n', 'long', 'exec'), space)
        code = space['long'].__code__
        assert len(code.co_linetable) > (65536 if sys.version_info >= (3, 11) else 32768)
        _, _, ours = harness.probe.describe(code)
        assert ours == lines_of(code)
        assert max(ours) == before + 40_002


@oracle
def without_lines():
    """Code without a line table has no lines, and is shown all the same."""
    space = {'burn': burn}
    exec(compile('def bare():\n    return burn(100)\n', 'bare', 'exec'), space)
    bare = space['bare']
    bare.__code__ = bare.__code__.replace(co_linetable=b'')
    assert set(harness.probe.describe(bare.__code__)[2]) == {0}
    got = sample(bare, 500, names=False)
    assert any(('bare', 'bare', 0) in stack.frames for stack in got.stacks)


WORK = """
def decorate(function):
    return function

@decorate
def work():
    values = [
        burn(700)
        for _ in range(2)
    ]
    return (
        burn(700)
        + (lambda: burn(700))()
        + len(
            values
        )
    )
"""


@oracle
def leaf_lines():
    """Lines of running code: expressions over several lines, decorators, comprehensions, lambdas."""
    space = {'burn': burn}
    exec(compile(WORK, 'work', 'exec'), space)
    got = sample(space['work'], 6000)
    seen = set()

    def wrong(stack):
        at = {name: line for file, name, line in stack.frames if file == 'work'}
        if stack.frames[0][1] != 'burn' or not at:
            return False
        caller = stack.frames[1]
        line = caller[2]
        if caller[1].endswith('<lambda>') and at['work'] != 13:
            return True
        seen.add(line)
        return line not in (8, 12, 13)

    # A leaf that returns while it is read leaves its caller a little further on.
    got.is_rare(wrong, 0.03)
    assert seen >= {8, 12, 13}, seen


SHARED = """
def leaf(which):
    if which == 0:
        mark[0] = marks() | 1
        total = sum(range(work))
    elif which == 1:
        mark[0] = marks() | 2
        total = sum(range(work))
    else:
        mark[0] = marks() | 3
        total = sum(range(work))
    mark[0] = marks()
    return total

def first():
    return leaf(0)

def second():
    a = b = c = d = 0
    return leaf(1)

def third():
    a = b = c = d = e = f = g = h = i = j = 0
    return leaf(2)

def turn():
    first()
    second()
    third()
"""
LEAF_LINES = {'first': (3, 4, 5), 'second': (3, 6, 7, 8), 'third': (3, 6, 10, 11)}
CALLS = {'first': 16, 'second': 20, 'third': 24}


def inconsistent(stack):
    """Do the line of the leaf and the caller's name and line contradict each other?"""
    frames = [frame for frame in stack.frames if frame[0] == 'shared']
    if stack.flags & TORN or len(frames) < 3:
        return False
    (_, leaf, leaf_line), (_, caller, line), _ = frames[-3:]
    return leaf != 'leaf' or line != CALLS[caller] or leaf_line not in (2, *LEAF_LINES[caller], 12, 13)


def shared_kind(stack):
    """By the leaf's line alone."""
    line = {name: line for file, name, line in stack.frames if file == 'shared'}.get('leaf')
    return {5: 1, 8: 2, 11: 3}.get(line, 0)


@oracle
def shared_leaf():
    """A leaf that three functions of different sizes call: its line proves by which."""
    for work, rate in ((3, 0.005), (1500, REALISTIC)):
        space = {'mark': harness.mark, 'marks': marks, 'work': work}
        exec(compile(SHARED, 'shared', 'exec'), space)
        for interval_us, reads in ((KHZ_10, 6000), (KHZ_1, 500)):
            got = sample(space['turn'], reads, interval_us)
            got.is_rare(inconsistent, rate)
            got.is_complete(0.01)
            got.sees('first', 'second', 'third')
            if rate == REALISTIC:
                got.is_true(shared_kind, (1, 2, 3))
