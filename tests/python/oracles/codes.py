"""Code objects: their names, and that a dead one's is never shown."""

import ctypes
import random
import time
import types

from . import harness
from .harness import KHZ_10, Sampled, burn, code_objects, oracle, renamed, sample


@oracle
def code_reuse():
    """Code objects made, run and freed in a loop: a frame is never shown under the name of a dead one."""
    probe = harness.probe
    maker = random.Random(1)
    serial = 0

    def turn():
        nonlocal serial
        serial += 1
        n = serial % 100_000
        filler = ''.join(f'    x{i} = {i}\n' for i in range(maker.randrange(4)))
        space = {'burn': burn}
        exec(
            compile(
                f'def inner_{n}():\n{filler}    return burn(300)\ndef outer_{n}():\n{filler}    return inner_{n}()\n',
                f'made_{n}',
                'exec',
            ),
            space,
        )
        space[f'outer_{n}']()

    seen = 0
    for interval_us, reads in ((KHZ_10, 8000), (1000, 600)):
        got = sample(turn, reads, interval_us, names=False)
        for stack in got.stacks:
            numbers = {f[1].rsplit('_', 1)[1] for f in stack.frames if f[1].startswith(('inner_', 'outer_'))}
            numbers |= {f[0].rsplit('_', 1)[1] for f in stack.frames if f[0].startswith('made_')}
            assert len(numbers) <= 1, stack
            seen += stack.count if numbers else 0
    assert seen > 100, got.told
    assert probe.deaths() > serial


@oracle
def rebirth():
    """Another code object at the address of a dead one is described by its own name."""

    def make(n):
        # What is described is kept by nobody else; constants of one shape, so that addresses come back.
        return compile(f'def shape_{n:05}(): return {n}', f'file_{n:05}', 'exec').co_consts[0]

    addresses, reborn = {}, 0
    for n in range(20_000):
        code = make(n)
        told = harness.probe.describe(code)
        assert told[1] == f'shape_{n:05}' and told[0] == f'file_{n:05}', (n, told)
        reborn += id(code) in addresses
        addresses[id(code)] = n
        del code
        if reborn > 200:
            break
    assert reborn > 200, reborn


@oracle(hook=False)
def hook_is_needed():
    """`rebirth` has teeth: where deaths are not told, stale names come out."""
    stale = 0
    for n in range(5_000):
        code = compile(f'def shape_{n:05}(): return {n}', f'file_{n:05}', 'exec').co_consts[0]
        harness.probe.describe(code)
        harness.probe.describe(code)
        told = harness.probe.describe(code)
        stale += told[1] != f'shape_{n:05}'
        del code
    assert stale > 0


@oracle
def names():
    """Names beyond ASCII in each of CPython's widths, cut at a character, and without a UTF-8."""
    describe = harness.probe.describe
    template = compile('def f(): pass', 'x', 'exec').co_consts[0]
    for text in ('plain', 'café', 'ü' * 300, '日本', '日' * 400, 'a\U0001f40d' * 200, '', 'x' * 600):
        code = renamed(template, text).replace(co_filename='/' + text + '.py')
        file, name, _ = describe(code)
        for ours, theirs in ((name, text), (file, '/' + text + '.py')):
            assert theirs.startswith(ours), (ours, theirs)
            assert ours == theirs or 512 - 4 < len(ours.encode()) <= 512, (ours, theirs)
    assert describe(template.replace(co_filename='a\udcffb'))[0] == 'a\ufffdb'

    class Text(str):
        pass

    assert describe(template.replace(co_filename=Text('sub/class.py')))[0] == 'sub/class.py'
    space = {'burn': burn}
    exec(compile('def größe_中():\n    return burn(100)\n', 'ä/中.py', 'exec'), space)
    got = sample(space['größe_中'], 500)
    got.sees('größe_中')
    assert any(('中.py', 'größe_中', 2) in stack.frames for stack in got.stacks)


@oracle
def not_code():
    """What is no code object is not taken for one."""
    for thing in (None, 3, 'text', object(), [], len, types, code_objects):
        assert harness.probe.describe(thing) is None, thing


@oracle
def around():
    """A code object is found from any of its instructions, which is all that a frame of 3.14 still tells when it has
    returned."""
    space = {}
    lines = ''.join(f'    v{n} = {n} * len("x")\n' for n in range(300))
    exec(compile('def long():\n' + lines, 'made.py', 'exec'), space)
    for function in (burn, rebirth, space['long']):
        assert harness.probe.strays(function.__code__) == -1, function


@oracle
def many_codes():
    """More code objects than the table holds: the old ones make room, and reading goes on."""
    probe = harness.probe
    source = ''.join(f'def f{n}():\n    return burn(30)\n' for n in range(10_000))
    space = {'burn': burn}
    exec(compile(source, 'made.py', 'exec'), space)
    made = [space[f'f{n}'] for n in range(10_000)]
    probe.start(10)
    end = time.monotonic() + harness.SECONDS_MOST
    while probe.distinct() < 16_000 and time.monotonic() < end:
        for function in made:
            function()
    got = Sampled(probe.stop(), [])
    for stack in got.stacks:
        for file, name, line in stack.frames:
            assert file != 'made.py' or line in (2 * int(name[1:]) + 1, 2 * int(name[1:]) + 2), stack
    seen = {f[1] for stack in got.stacks for f in stack.frames if f[0] == 'made.py'}
    assert len(seen) > 8192, (len(seen), got.told)
    got.is_complete(0.05)


@oracle
def deaths_in_a_fork():
    """The child of a fork, also of one that Python was not told of, hears of deaths like its parent."""
    probe = harness.probe
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        before = probe.deaths()
        probe.forked()
        exec(compile('def f(): pass', 'x', 'exec'), {})
        harness.os._exit(0 if probe.deaths() > before else 1)
    assert harness.os.waitpid(pid, 0)[1] == 0
