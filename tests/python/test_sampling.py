"""What samples add up to: weights, states, many threads, and what the sampler does without.

Each test is a script of its own beside the real aggregator. What it says of itself (clocks read on the spot) is the
truth that the report, or the records in its segment, are held against. Bounds follow from the number of samples."""

import collections
import json
import math
import os
import subprocess
import sys
import tempfile
import textwrap

import pytest
from _support import ADMITTED, BIN, aggregator, environment, exported

# Every action is profiled; nothing begins before the aggregator admits.
START = (
    ADMITTED
    + """
    import collections, hashlib, json, mmap, os, random, socket, sys, threading, time, zlib
    import profilomatic
    from profilomatic._switch import _runtime
    profilomatic.configure(max_actions_per_run=0, max_overhead=0.5, time_granularity=INTERVAL, scope=SCOPE)
    profilomatic.add_destination(profilomatic.file_destination(os.environ['PROFILOMATIC_DIR'] + '/out.log'))

    def spin(seconds):
        '''Compute for that much CPU time, however busy the machine is.'''
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    def together(*calls):
        '''Each call on a thread of its own, begun when all are there.'''
        ready = threading.Barrier(len(calls))
        def run(call):
            ready.wait()
            call()
        threads = [threading.Thread(target=run, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def sampler_task():
        for task in os.listdir('/proc/self/task'):
            with open(f'/proc/self/task/{task}/comm') as file:
                if file.read().startswith('pom-sampler'):
                    return f'/proc/self/task/{task}'
        raise AssertionError('no sampler thread')

    def held_up():
        # Seconds for which the sampler was ready and had no core.
        with open(sampler_task() + '/schedstat') as file:
            return int(file.read().split()[1]) / 1e9

    assert admitted()
"""
)


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as path, aggregator(path):
        yield path


def says(script, directory, interval=0.01, scope='actions', **more):
    """What the script prints as JSON; it must end well and quietly."""
    start = textwrap.dedent(START).replace('INTERVAL', repr(interval)).replace('SCOPE', repr(scope))
    done = subprocess.run(
        [sys.executable, '-c', start + textwrap.dedent(script)],
        env=environment(directory, profiled=False, **more),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stderr == ''
    return json.loads(done.stdout)


def reported(directory):
    """The report of all that was done, and its rows by action type."""
    report = exported(directory)
    return report, {row['action_type']: row for row in report['actions']}


def tree_sum(row, column):
    """What a column of the row's call tree adds up to."""
    at = row['tree']['columns'].index(column)
    return sum(node[at] for node in row['tree']['nodes'])


def time_by_function(report, row, file='made'):
    """Wall time of a row by the outermost function of that file on the stack."""
    columns = row['tree']['columns']
    states = [columns.index(state) for state in ('cpu', 'native', 'gil_wait', 'blocked')]
    found, names = collections.Counter(), []
    for node in row['tree']['nodes']:
        instruction = report['instructions'][node[columns.index('instruction')]].split(':')
        parent = node[columns.index('parent')]
        name = names[parent] if parent >= 0 else None
        names.append(name or (instruction[1] if instruction[0] == file else None))
        if names[-1] is not None:
            found[names[-1]] += sum(node[at] for at in states)
    return found


# ---- weights


def test_actions_of_any_length_get_their_true_share_of_wall_and_cpu(directory):
    """From a twentieth of the interval to five of them. First many threads at once, then one alone, whose every action
    wakes a parked sampler; some wait, some compute, some do both."""
    wall, cpu, count, held_up_first, held_up_then = says(
        """
        LENGTHS = [0.5, 1, 2, 5, 10, 20, 50]  # ms; samples are 10 ms apart
        wall, cpu, count = (collections.Counter() for _ in range(3))

        def waits(seconds):
            time.sleep(seconds)

        def shares(seconds):
            spin(seconds / 2)
            time.sleep(seconds / 2)

        def act(kind, length):
            name = f'{kind.__name__}:{length}'
            with profilomatic.action(name):
                w, c = time.perf_counter(), time.thread_time()
                kind(length / 1000)
                wall[name] += time.perf_counter() - w
                cpu[name] += time.thread_time() - c
            count[name] += 1

        def many(kind, seed, seconds, shortest, gap):
            def run():
                draw = random.Random(seed)
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    # As much time for each, but no more of the shortest than there is room for their records.
                    length = draw.choices(LENGTHS, [1 / max(n, shortest) for n in LENGTHS])[0]
                    act(kind, length)
                    time.sleep(draw.expovariate(1 / gap))
            return run

        start = held_up()
        together(*[many(waits, n, 6, 4, 0.005) for n in range(7)], many(shares, 100, 6, 4, 0.005))
        between = held_up()
        together(many(spin, 200, 9, 0.5, 0.002))
        print(json.dumps([wall, cpu, count, between - start, held_up() - between]))
        """,
        directory,
    )
    report, rows = reported(directory)
    assert report['dropped'] == report['overflow'] == 0, report
    groups = collections.defaultdict(lambda: collections.Counter())
    for name in wall:
        kind, length = name.split(':')
        row = rows[name]
        assert row['count'] == row['profiled'] == count[name], row
        mean = wall[name] / count[name] / 0.01
        each = {
            'samples': row['samples'],
            'wall': wall[name],
            # An action has a tick in it or not, where its interval does not lie wholly in it: at most two do not.
            'variance': count[name] * min(mean, 0.5),
            'cpu': cpu[name],
            'by_state': row['cpu'] + row['native'],
            'by_clock': tree_sum(row, 'cpu_time'),
        }
        for key in (name, f'{kind} short' if mean < 0.9 else f'{kind} long', kind):
            groups[key].update(each)
    # A tick that could not be in its interval, because the sampler had no core, is left out. Eight threads miss it.
    missed = {'waits': 8 * held_up_first, 'shares': 8 * held_up_first, 'spin': held_up_then}
    for name, group in sorted(groups.items()):
        kind = name.replace(':', ' ').split()[0]
        sampled = group['samples'] * 0.01
        noise = 5 * 0.01 * math.sqrt(group['variance']) + 0.02 * group['wall']
        line = (name, {what: round(value, 3) for what, value in group.items()}, sampled, noise, missed)
        print(*line)
        assert -noise - missed[kind] < sampled - group['wall'] < noise, line
        # What a sample says of the CPU is right for the part of the wall time that it stands for.
        noise = 5 * group['wall'] * 0.5 / math.sqrt(max(group['samples'], 1))
        if group['samples'] > 30:
            assert abs(group['by_state'] - group['cpu']) < noise + 0.05 * group['wall'], line
            assert abs(group['by_clock'] - group['cpu']) < noise + 0.05 * group['wall'], line


# ---- states


KNOWN_STATES = """
    zeros = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    here, there = socket.socketpair()
    over = threading.Event()

    def computes():
        # Lets go of the GIL only between calls that take a while.
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            sum(range(2_000_000))

    def wants_the_gil():
        # Sleeps for much less time than it then waits.
        while not over.is_set():
            time.sleep(0.0005)

    def hashes():
        hashlib.sha256(zeros)

    def checks():
        zlib.crc32(zeros)

    def sleeps():
        time.sleep(3)

    def receives():
        here.recv(1)

    def act(call):
        def run():
            with profilomatic.action(call.__name__):
                call()
        return run

    def all_of_it():
        act(computes)()
        over.set()
        # What is still under way ends without anybody who holds the GIL for long.
        time.sleep(1)
        there.send(b'x')

    together(all_of_it, *[act(call) for call in (wants_the_gil, hashes, checks, sleeps, receives)])
"""


@pytest.mark.parametrize(('interval', 'kernel'), [(0.01, 'tells'), (0.002, 'tells'), (0.002, 'hides')])
def test_what_a_thread_was_doing_is_told(directory, interval, kernel):
    """Also where /proc cannot be read, and where a waiter for the GIL wakes less often than it is sampled."""
    without = 'import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 4096))\n' if kernel == 'hides' else ''
    script = textwrap.dedent(KNOWN_STATES).replace('together(all', without + 'together(all')
    says(script + 'print("null")', directory, interval)
    _, rows = reported(directory)
    for name, state in [
        ('computes', 'cpu'),
        ('wants_the_gil', 'gil_wait'),
        ('hashes', 'native'),
        ('checks', 'native'),
        ('sleeps', 'blocked'),
        ('receives', 'blocked'),
    ]:
        row = rows[name]
        parts = {s: round((row[s] or 0) / row['wall'], 3) for s in ('cpu', 'native', 'gil_wait', 'blocked', 'runnable')}
        print(name, kernel, round(row['wall'], 2), row['samples'], parts)
        if kernel == 'hides' and state == 'native':
            continue  # one that runs without the GIL but has lost its core looks like a waiter
        # Time without a core is told apart from `cpu` and `native`. What computes or is done with a C call may have
        # to wait for the GIL at last.
        least = {'gil_wait': 0.6, 'blocked': 0.93}.get(state, 0.65)
        if kernel == 'hides' and state == 'gil_wait':
            least = 0.2  # a waiter that has to wait for a core too does not wake every 5 ms
        assert parts[state] + (parts['runnable'] if state != 'blocked' else 0) > least, (name, parts)
        # One an interval, however fast the machine is at what is called; too few cores lose some.
        assert row['samples'] > 0.5 * row['wall'] / interval, (name, row['wall'], row['samples'])


# ---- many threads


def test_many_threads_cost_a_bounded_tick_and_their_totals_stay_true(directory):
    """500 threads inside one action: 480 wait and 20 compute. Then 40 of them, few enough to be looked at in each
    tick, for so long that they would be taken for most of it if the many did not stand for each other."""
    truth, before, after = says(
        """
        import contextvars
        ticks = {}

        def thread(name, body):
            space = {'body': body}
            exec(compile(f'def {name}(): body()', 'made', 'exec'), space)
            def run():
                with profilomatic.action('part'):
                    start = _runtime.status()['ticks']
                    space[name]()
                    ticks[name] = _runtime.status()['ticks'] - start
            made = threading.Thread(target=contextvars.copy_context().run, args=(run,))
            made.start()
            return made

        def start(count, name, body):
            made = []
            for i in range(count):
                made.append(thread(f'{name}_{i}', body))
                if i % 20 == 19:
                    time.sleep(0.04)  # what tells of their begins has a lane of 32 KiB
            return made

        def join(threads):
            for thread in threads:
                thread.join()

        def compute():
            while not ended.is_set():
                for _ in range(1000):
                    pass

        with profilomatic.action('whole') as whole:
            assert whole.profiled
            gates = [threading.Event() for _ in range(12)]
            threads = [t for n, gate in enumerate(gates) for t in start(40, f'waits{n}', gate.wait)]
            ended = threading.Event()
            workers = start(20, 'computes', compute)
            before = _runtime.status()
            while _runtime.status()['ticks'] - before['ticks'] < 120:
                time.sleep(0.1)
            after = _runtime.status()
            ended.set()
            join(workers)
            for gate in gates:
                gate.set()
                time.sleep(0.05)
            join(threads)
            gate = threading.Event()
            threads = start(40, 'few', gate.wait)
            time.sleep(5)
            gate.set()
            join(threads)
        print(json.dumps([ticks, before, after]))
        """,
        directory,
        interval=0.02,
    )
    ticks, samples = (after[what] - before[what] for what in ('ticks', 'samples'))
    assert 0 < samples <= 64 * (ticks + 1), (ticks, samples)
    report, rows = reported(directory)
    assert report['overflow'] == 0, report
    lost = report['dropped'] / report['samples']  # where the aggregator is kept waiting for a core
    seen = time_by_function(report, rows['whole'])
    assert set(truth) == set(seen), 'each thread was sampled'
    groups = collections.defaultdict(lambda: [0, 0.0, 0.0])
    for name in truth:
        group = groups[name.split('_')[0].rstrip('0123456789')]
        group[0] += 1
        group[1] += truth[name] / sum(truth.values())
        group[2] += seen[name] / sum(seen.values())
    for name, (count, true, sampled) in groups.items():
        print(name, count, round(true, 4), round(sampled, 4))
        # 20 that compute are drawn from 500, some 2.6 of them at each of 120 ticks; the rest is left to chance less.
        assert abs(sampled / true - 1) < (0.35 if name == 'computes' else 0.1) + 2 * lost, (name, true, sampled)


def test_many_threads_outside_actions_are_all_seen_and_their_totals_true(directory):
    truth, ticks = says(
        """
        seconds = {}
        gate = threading.Event()

        def thread(name):
            space = {'gate': gate}
            exec(compile(f'def {name}(): gate.wait()', 'made', 'exec'), space)
            def run():
                start = time.monotonic()
                space[name]()
                seconds[name] = time.monotonic() - start
            made = threading.Thread(target=run)
            made.start()
            return made

        before = _runtime.status()['ticks']
        threads = [thread(f'outside_{i}') for i in range(300)]
        time.sleep(4)
        ticks = _runtime.status()['ticks'] - before
        gate.set()
        for thread in threads:
            thread.join()
        print(json.dumps([seconds, ticks]))
        """,
        directory,
        scope='process',
    )
    report, rows = reported(directory)
    seen = time_by_function(report, rows['(outside any action)'])
    assert set(truth) <= set(seen), 'each thread was sampled'
    share = sum(seen[name] for name in truth) / sum(truth.values())
    print(sum(truth.values()), ticks, share)
    unnoticed = 50 / ticks  # of 300 threads, a list is made every 38 ticks
    assert 0.9 - unnoticed < share < 1.05, (
        'a new thread is noticed after a moment, an old one is sampled as long as it is there'
    )


# ---- what it costs


# Stacks that are new all the time: a way through a tree of calls that is drawn anew at each turn.
WANDERS = """
    def left(way, depth):
        wander(way, depth)

    def wander(way, depth):
        if depth == 0:
            spin(0.002)
        elif way & 1:
            left(way >> 1, depth - 1)
        elif way & 2:
            wander(way >> 2, depth - 1)
        else:
            wander(way >> 3, depth - 1)

    def wanders(seconds, depth):
        draw = random.Random()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            wander(draw.getrandbits(4 * depth), depth)
"""


def test_a_sampler_that_has_warmed_up_allocates_nothing(directory):
    """With stacks, code and threads that it has not seen before, past the sweeps of its tables."""
    library = os.path.join(os.path.dirname(BIN), 'tests', 'python', '_allocations.so')
    if 'libasan' in os.environ.get('LD_PRELOAD', ''):
        pytest.skip('the sanitizer has an allocator of its own')
    counts = says(
        textwrap.dedent(WANDERS)
        + textwrap.dedent("""
        import ctypes
        counted = ctypes.CDLL(LIBRARY).allocations_of_the_sampler
        counted.restype = ctypes.c_ulong

        def fresh(i):
            space = {'spin': spin}
            exec(compile(f'def made_{i}(): spin(0.002)', f'made_{i}.py', 'exec'), space)
            space[f'made_{i}']()

        def act(seconds):
            with profilomatic.action('wanders'):
                wanders(seconds, 12)

        act(0.5)
        before = counted(), _runtime.status()
        for i in range(100):
            with profilomatic.action('fresh'):
                fresh(i)
        until = time.monotonic() + 30
        while _runtime.status()['samples'] < before[1]['samples'] + 1000 and time.monotonic() < until:
            together(*[lambda: act(0.5)] * 4)
        time.sleep(0.2)
        after = counted(), _runtime.status()
        print(json.dumps([before[0], after[0], after[1]['samples'] - before[1]['samples'], after[1]['torn']]))
        """).replace('LIBRARY', repr(library)),
        directory,
        interval=0.001,
        LD_PRELOAD=library,
    )
    assert counts[0] > 0, 'what is done at the start is counted'
    assert counts[1] == counts[0] and counts[2] >= 1000, counts


def test_stacks_beyond_the_room_for_them_are_folded_and_counted(directory):
    """More stacks than can be defined, in one action, so that there can be no fresh segment: each keeps the part that
    is known, down to the function that wanders."""
    ticks = says(
        textwrap.dedent(WANDERS)
        + textwrap.dedent("""
        with profilomatic.action('wanders'):
            before = _runtime.status()['ticks']
            until = time.monotonic() + 30
            while _runtime.status()['ticks'] - before < 300 and time.monotonic() < until:
                wanders(0.2, 120)
            ticks = _runtime.status()['ticks'] - before
        print(json.dumps(ticks))
        """),
        directory,
        interval=0.005,
    )
    report, rows = reported(directory)
    assert report['overflow'] > 20 and report['dropped'] == 0, report
    row = rows['wanders']
    assert 0 <= row['samples'] - ticks <= 0.02 * ticks + 3, 'none of its samples was lost'
    assert sum(node[2] for node in row['tree']['nodes']) == row['samples']
    found = time_by_function(report, row, '<string>')
    assert found['<module>'] > 0.99 * row['wall'], found


def test_a_sampler_with_nothing_to_do_does_not_wake(directory):
    during, ticks, afterwards = says(
        """
        def wakes():
            with open(sampler_task() + '/status') as file:
                lines = dict(line.split(':', 1) for line in file)
            return int(lines['voluntary_ctxt_switches']) + int(lines['nonvoluntary_ctxt_switches'])

        with profilomatic.action('works'):
            spin(0.1)
            before, ticks = wakes(), _runtime.status()['ticks']
            until = time.monotonic() + 30
            while _runtime.status()['ticks'] < ticks + 10 and time.monotonic() < until:
                spin(0.05)
            ticks = _runtime.status()['ticks'] - ticks
            during = wakes() - before
        until = time.monotonic() + 30
        last = None
        while time.monotonic() < until and last != wakes():
            last = wakes()
            time.sleep(0.3)
        before = wakes()
        spin(0.5)
        time.sleep(1)
        print(json.dumps([during, ticks, wakes() - before]))
        """,
        directory,
    )
    assert during >= ticks - 1 >= 9, 'it sleeps before each tick'
    assert afterwards == 0
