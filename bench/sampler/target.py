"""The programs that are profiled. Run by the bench in a process of its own:

    target.py MODE '{"hertz": 100, …}'

Prints one JSON object on its last line. Everything is measured in here, beside each other: the sampler thread by
the clock that the kernel keeps for it, a bare timer thread by its own, the application's thread by its own.
"""

import ctypes
import hashlib
import json
import os
import random
import select
import sys
import threading
import time

DEPTH = 32  # frames of every thread that is sampled, from its first to the one that works


def make_steps():
    """Functions that each call the next, but the last, which calls `work`: as in an application, every frame of the
    stack is of another function."""
    space = {}
    for i in range(DEPTH):
        call = f'step_{i + 1}(work, *arguments)' if i < DEPTH - 1 else 'work(*arguments)'
        exec(f'def step_{i}(work, *arguments):\n    return {call}\n', space)
    return [space[f'step_{i}'] for i in range(DEPTH)]


STEPS = make_steps()


def deep(levels, work, *arguments):
    """`work` called below `levels` further frames, one at least."""
    return STEPS[DEPTH - max(levels, 1)](work, *arguments)


def depth_of_caller():
    frame, depth = sys._getframe(1), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def at_depth(work, *arguments):
    """`work` called so that it is the 32nd frame of its stack."""
    levels = DEPTH - depth_of_caller() - 2  # `deep` and `work` itself
    return deep(levels, work, *arguments)


def compute(until):
    total = 0
    while time.perf_counter() < until:
        for i in range(2000):
            total += i * i
    return total


def fixed_work(rounds):
    total = 0
    for _ in range(rounds):
        for i in range(2000):
            total += i * i
    return total


# ---- our own threads, as the kernel knows them


def task_named(name):
    for tid in os.listdir('/proc/self/task'):
        with open(f'/proc/self/task/{tid}/comm') as file:
            if file.read().strip() == name:
                return int(tid)
    return None


def cpu_of_task(tid):
    """Seconds of CPU."""
    with open(f'/proc/self/task/{tid}/schedstat') as file:
        return int(file.read().split()[0]) / 1e9


def wakes_of_task(tid):
    with open(f'/proc/self/task/{tid}/status') as file:
        return int(next(line.split()[1] for line in file if line.startswith('voluntary_ctxt_switches')))


class BareTimer:
    """A thread that wakes as often as the sampler; `with_calls` it makes a tick's system calls, and nothing else."""

    def __init__(self, library, with_calls=False):
        self.library = ctypes.CDLL(library)
        self.which = ctypes.c_int(with_calls)

    def start(self, interval):
        if self.library.bare_start(self.which, ctypes.c_uint64(int(interval * 1e9))) != 0:
            raise SystemExit('the bare timer cannot be started')

    def stop(self):
        ticks, cpu_ns = ctypes.c_uint64(), ctypes.c_uint64()
        self.library.bare_stop(self.which, ctypes.byref(ticks), ctypes.byref(cpu_ns))
        return ticks.value, cpu_ns.value / 1e9


# ---- profiling switched on


def switch_on(interval, destination=None):
    """Returns once an action is admitted, so that the aggregator is there."""
    import profilomatic

    profilomatic.configure(max_overhead=0.5, time_granularity=interval, max_actions_per_run=0)
    profilomatic.add_destination(profilomatic.file_destination(destination or os.devnull))
    with profiled('warm-up'):
        compute(time.perf_counter() + 0.3)


class profiled:
    """An action that is admitted for profiling; those that are not are ended and tried again."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        import profilomatic

        until = time.monotonic() + 20
        while True:
            action = profilomatic.action(self.name)
            action.__enter__()
            if action.profiled:
                self.action = action
                return action
            action.__exit__(None, None, None)
            if time.monotonic() > until:
                raise SystemExit('no action was admitted in 20 s: ' + json.dumps(profilomatic.status(), default=str))
            time.sleep(0.02)

    def __exit__(self, *exception):
        self.action.__exit__(*exception)


class Meter:
    """Ticks and CPU of the sampler since it was made."""

    def __init__(self):
        from profilomatic import _runtime

        self.status = _runtime.status
        self.tid = task_named('pom-sampler')
        self.before, self.cpu = self.status(), cpu_of_task(self.tid)
        self.begin = time.perf_counter()

    def read(self):
        now, cpu = self.status(), cpu_of_task(self.tid)
        facts = {name: now[name] - self.before[name] for name in ('ticks', 'samples', 'torn', 'unreadable')}
        return dict(facts, cpu=cpu - self.cpu, seconds=time.perf_counter() - self.begin)


# ---- modes


def tick(options):
    """One thread computes; the sampler and the bare timer tick beside each other. Then, with the sampler parked, the
    bare timer and one that makes a tick's system calls."""
    interval, seconds = 1 / options['hertz'], options['seconds']
    switch_on(interval)
    bare = BareTimer(options['bare'])
    with profiled('bench'):
        at_depth(compute, time.perf_counter() + 0.3)
        bare.start(interval)
        meter = Meter()
        at_depth(compute, time.perf_counter() + seconds)
        facts = meter.read()
        facts['bare_ticks'], facts['bare_cpu'] = bare.stop()
    calls = BareTimer(options['bare'], with_calls=True)
    bare.start(interval)
    calls.start(interval)
    at_depth(compute, time.perf_counter() + seconds)
    facts['calls_ticks'], facts['calls_cpu'] = calls.stop()
    ticks, cpu = bare.stop()
    facts['calls_excess'] = facts['calls_cpu'] / facts['calls_ticks'] - cpu / ticks
    return facts


class Crowd:
    """Threads inside admitted actions of their own, each 32 frames deep, that run or block until it is left."""

    def __init__(self, kind, count):
        self.leave = threading.Event()
        self.gate = threading.Lock()
        self.gate.acquire()
        self.inside = threading.Semaphore(0)
        work = {'running': self.run, 'native': self.run_without_gil, 'blocked': self.block}[kind]
        self.threads = [threading.Thread(target=self.live, args=(work,)) for _ in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        for _ in self.threads:
            self.inside.acquire()
        return self

    def __exit__(self, *exception):
        self.leave.set()
        self.gate.release()
        for thread in self.threads:
            thread.join()

    def live(self, work):
        with profiled('crowd'):
            self.inside.release()
            at_depth(work)

    def run(self):
        while not self.leave.is_set():
            compute(0)
            for i in range(2000):
                i * i

    def run_without_gil(self):
        data = bytes(1 << 20)
        while not self.leave.is_set():
            hashlib.sha256(data)

    def block(self):
        with self.gate:
            pass


def crowd(options):
    """The sampler's tick by the number of threads beside the one that computes: [[threads, tick in s, samples a tick,
    bare tick in s], …]."""
    interval, rows = 1 / options['hertz'], []
    switch_on(interval)
    bare = BareTimer(options['bare'])
    counts = list(options['counts'])
    random.shuffle(counts)
    torn = 0
    for count in counts:
        with Crowd(options['kind'], count), profiled('bench'):
            at_depth(compute, time.perf_counter() + 0.2)
            bare.start(interval)
            meter = Meter()
            at_depth(compute, time.perf_counter() + options['seconds'])
            facts = meter.read()
            ticks, cpu = bare.stop()
        torn += facts['torn']
        rows.append([count, facts['cpu'] / facts['ticks'], facts['samples'] / facts['ticks'], cpu / ticks])
    return {'rows': sorted(rows), 'torn': torn}


def idle(options):
    """Wake-ups of our threads while the worker serves nothing, after an admitted action has ended."""
    switch_on(1 / options['hertz'])
    with profiled('bench'):
        at_depth(compute, time.perf_counter() + 0.5)
    time.sleep(0.5)
    tid = task_named('pom-sampler')
    before, cpu = wakes_of_task(tid), cpu_of_task(tid)
    time.sleep(options['seconds'])
    return {
        'wakes': wakes_of_task(tid) - before,
        'cpu': cpu_of_task(tid) - cpu,
        'wakes_while_armed': before,
        'seconds': options['seconds'],
    }


def slowdown(options):
    """Pairs of the same work, sampled and not, in random order: [[sampled cpu, wall, plain cpu, wall], …]."""
    switch_on(1 / options['hertz'])
    begin = time.thread_time()
    fixed_work(200)
    rounds = max(1, int(200 * options['seconds'] / (time.thread_time() - begin)))
    sampler = {'cpu': 0.0, 'ticks': 0}
    application = 0.0

    def timed():
        cpu, wall = time.thread_time(), time.perf_counter()
        at_depth(fixed_work, rounds)
        return time.thread_time() - cpu, time.perf_counter() - wall

    def sampled():
        nonlocal application
        with profiled('bench'):
            at_depth(fixed_work, max(1, rounds // 20))  # the sampler has woken and knows the stack
            meter = Meter()
            figures = timed()
            facts = meter.read()
        for name in sampler:
            sampler[name] += facts[name]
        application += figures[0]
        return figures

    def plain():
        at_depth(fixed_work, max(1, rounds // 20))
        Meter()  # what comes just before the work is the same
        return timed()

    pairs = []
    for _ in range(options['pairs']):
        if random.random() < 0.5:
            one = sampled()
            pairs.append((*one, *plain()))
        else:
            other = plain()
            pairs.append((*sampled(), *other))
    return {'pairs': pairs, 'sampler_cpu': sampler['cpu'], 'ticks': sampler['ticks'], 'application_cpu': application}


def compute_until_told(options):
    """Compute until a line comes on stdin; `how` says beside what: 'plain', 'bare' (a bare timer), 'profiled'."""
    how, interval = options['how'], 1 / options['hertz']
    if how == 'profiled':
        return compute_profiled(interval)
    timer = BareTimer(options['bare']) if how == 'bare' else None
    if timer:
        timer.start(interval)
    print('ready', flush=True)
    at_depth(compute_while)
    if timer:
        timer.stop()
    return {}


def told():
    """Asked for now and then, because a second thread would be sampled too."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def compute_while():
    while not told():
        compute(time.perf_counter() + 0.1)


def compute_profiled(interval):
    """In actions of half a second."""
    switch_on(interval)
    meter = Meter()
    hooks = meter.before['hook_cpu']
    print('ready', flush=True)
    while not told():
        with profiled('bench'):
            at_depth(compute, time.perf_counter() + 0.5)
    return dict(meter.read(), hook_cpu=meter.status()['hook_cpu'] - hooks)


MODES = {'tick': tick, 'crowd': crowd, 'idle': idle, 'slowdown': slowdown, 'compute': compute_until_told}

if __name__ == '__main__':
    print(json.dumps(MODES[sys.argv[1]](json.loads(sys.argv[2]))))
