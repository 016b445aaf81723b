"""The CPU of whole profilers, on the same program with the same stack, at the same rate.

Each is attached to a program that computes 32 frames deep, and its CPU is taken over a window in which it does
nothing but sample: not its start, in which the others read symbols for some tenths of a second. Theirs is the CPU of
their process; ours that of the sampler thread, the hooks and the aggregator. A bare timer thread at the same rate
stands beside them: the price of waking up, which nobody can save.
"""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time

from common import PROJECT, environment, private_directory

RATES = (100, 1000)
TIMES_CHEAPER = 3.0
SETTLE_S = 4.0  # our service looks often until it knows what its workers cost; theirs are waited for as well
# The newest austin first; one that is linked against a newer C library than this machine's does not start.
AUSTINS = ('austin-dist', 'austin-dist==3.7.0')

CHROOT = os.path.join(PROJECT, 'build', 'unstable')


# ---- where programs run


class Host:
    """This machine's own file system."""

    def __init__(self, python, build, project):
        self.python, self.build = python, build
        self.target = os.path.join(project, 'bench', 'sampler', 'target.py')
        self.table = os.path.join(project, 'tests', 'accuracy', 'table.py')

    def command(self, arguments):
        """The command that runs another one there, in the process that is started."""
        return arguments

    def title(self):
        code = 'import platform; print("CPython", platform.python_version())'
        return subprocess.run(self.command([self.python, '-c', code]), capture_output=True, text=True).stdout.strip()


def this_host(bench):
    return Host(bench.options.python, os.path.abspath(bench.options.build), PROJECT)


class Unstable(Host):
    """Debian's unstable suite, unpacked and built in by tests/versions, entered as that script does."""

    def __init__(self):
        super().__init__('/usr/bin/python3.15', '/profilomatic/build', '/profilomatic')

    @staticmethod
    def missing():
        """Why it cannot be used; None if it can."""
        if not os.path.exists(os.path.join(CHROOT, 'usr/bin/python3.15')):
            return 'build/unstable has no python3.15: run `tests/versions 3.15` first'
        package = os.path.join(CHROOT, 'profilomatic/build/python/profilomatic')
        if not any('315' in name for name in (os.listdir(package) if os.path.isdir(package) else [])):
            return 'no extension for 3.15 in build/unstable: run `tests/versions 3.15` first'
        if os.geteuid() != 0:
            return 'a chroot needs root'
        return None

    def command(self, arguments):
        script = (
            f'mount --bind /proc {CHROOT}/proc && mount --bind /dev/shm {CHROOT}/dev/shm && '
            f'mount --bind {PROJECT}/bench {CHROOT}/profilomatic/bench && '
            f'mount --bind {PROJECT}/tests {CHROOT}/profilomatic/tests && exec chroot {CHROOT} "$@"'
        )
        return ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', *arguments]


def install(bench):
    """py-spy and austin in a virtual environment under build/; {name: path}, and the reasons for what is missing."""
    folder = os.path.join(PROJECT, 'build', 'venv-bench')
    if not os.path.exists(os.path.join(folder, 'bin', 'pip')):
        subprocess.run([sys.executable, '-m', 'venv', '--clear', folder], check=True)
    found, missing = {}, {}
    for name, packages in (('py-spy', ('py-spy',)), ('austin', AUSTINS)):
        path = os.path.join(folder, 'bin', name)
        for package in packages:
            if runs(path):
                break
            done = subprocess.run(
                [os.path.join(folder, 'bin', 'pip'), 'install', '-q', '--disable-pip-version-check', package],
                capture_output=True,
                text=True,
            )
            missing[name] = (done.stderr.strip().splitlines() or [f'{package} is installed but does not start'])[-1]
        if runs(path):
            found[name] = path
            missing.pop(name, None)
    return found, missing


def runs(path):
    try:
        return subprocess.run([path, '--version'], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


def version_of(path):
    return subprocess.run([path, '--version'], capture_output=True, text=True).stdout.split()[-1]


# ---- profilers: the command that attaches to a process


class Rival:
    """`command(pid, hertz, out)` attaches and writes collapsed stacks to `out`: with the number of samples of each, or
    (`a_line_a_sample`) a line for each sample with its microseconds."""

    def __init__(self, command, a_line_a_sample=False):
        self.command, self.a_line_a_sample = command, a_line_a_sample


def py_spy(path, *more):
    return Rival(
        lambda pid, hertz, out: [path, 'record', '-p', str(pid), '-r', str(hertz), '-f', 'raw', '-o', out, *more]
    )


def austin(path, *more):
    return Rival(
        lambda pid, hertz, out: [path, '-i', str(1000000 // hertz), '-p', str(pid), '-o', out, *more],
        a_line_a_sample=True,
    )


def profiling_sampling(host, *more):
    """It finds the interpreter by the paths in the target's maps, so it has to see the target's own mounts."""

    def command(pid, hertz, out):
        there = ['nsenter', '--target', str(pid), '--mount', '--root', 'sh', '-c', 'cd / && exec "$@"', 'sh']
        return [
            *there,
            host.python,
            '-m',
            'profiling.sampling',
        ] + ['attach', str(pid), '-r', str(hertz), '-d', '3600', '--collapsed', '-o', out, *more]

    return Rival(command)


def wakes(pid):
    """How often the threads of a process have slept so far."""
    total = 0
    for tid in os.listdir(f'/proc/{pid}/task'):
        with contextlib.suppress(OSError), open(f'/proc/{pid}/task/{tid}/status') as file:
            total += next(int(line.split()[1]) for line in file if line.startswith('voluntary_ctxt_switches'))
    return total


def wait_until_it_samples(process):
    """A profiler sleeps between samples, and hardly ever before its first one. `process.since` is then about when."""
    process.since = time.perf_counter()
    with contextlib.suppress(OSError):  # it ended
        before = wakes(process.pid)
        for _ in range(40):
            time.sleep(0.5)
            now = wakes(process.pid)
            if now - before >= 20 or process.poll() is not None:
                break
            before, process.since = now, time.perf_counter()


@contextlib.contextmanager
def attached(command):
    """A profiler that samples; ended by SIGINT, which makes all of them write what they have."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
    reader.start()
    try:
        wait_until_it_samples(process)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(5)
        process.said = b''.join(said).decode(errors='replace')


# ---- CPU, from outside


def process_cpu(pid):
    """Seconds, of all its threads, also those that have ended."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def own_tasks_cpu(pid, prefix):
    """Seconds of the threads whose names start so."""
    total = 0
    for tid in os.listdir(f'/proc/{pid}/task'):
        with open(f'/proc/{pid}/task/{tid}/comm') as file:
            if not file.read().startswith(prefix):
                continue
        with open(f'/proc/{pid}/task/{tid}/schedstat') as file:
            total += int(file.read().split()[0])
    return total / 1e9


def aggregator_of(directory):
    for pid in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            with open(f'/proc/{pid}/cmdline', 'rb') as file:
                words = file.read().split(b'\0')
            if b'aggregator' in words[0] and directory.encode() in words:
                return int(pid)
    return None


class Program:
    """target.py computing in a process of its own, 32 frames deep, until it is told to end."""

    def __init__(self, host, how, hertz=100):
        self.holder = private_directory()
        self.directory = self.holder.name
        arguments = {'how': how, 'hertz': hertz, 'bare': os.path.join(host.build, 'bench', 'bare_timer.so')}
        self.process = subprocess.Popen(
            host.command([host.python, host.target, 'compute', json.dumps(arguments)]),
            env=environment(host.build, self.directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        if self.process.stdout.readline() != 'ready\n':
            raise RuntimeError(f'the program under test did not start ({how})')

    def end(self):
        """What it says of itself."""
        try:
            out, _ = self.process.communicate('end\n', timeout=30)
        finally:
            self.process.poll() is None and self.process.kill()
            self.holder.cleanup()
        return json.loads(out.splitlines()[-1])


def window(cpu_of_profiler, program, seconds):
    """CPU of the profiler and of the rest of the program, a second each."""
    before, own, begin = cpu_of_profiler(), process_cpu(program.pid), time.perf_counter()
    time.sleep(seconds)
    spent, used = cpu_of_profiler() - before, process_cpu(program.pid) - own
    lasted = time.perf_counter() - begin
    return spent / lasted, used / lasted


def ours(host, hertz, seconds):
    program = Program(host, 'profiled', hertz)
    try:
        aggregator = aggregator_of(program.directory)
        if aggregator is None:
            raise RuntimeError('no aggregator runs')
        time.sleep(SETTLE_S)
        draining = process_cpu(aggregator)
        cpu = window(lambda: own_tasks_cpu(program.pid, 'pom-') + process_cpu(aggregator), program, seconds)
        draining = (process_cpu(aggregator) - draining) / seconds
    finally:
        facts = program.end()
    hooks = facts['hook_cpu'] / facts['seconds']
    return {
        'profiler': cpu[0] + hooks,
        'program': cpu[1],
        'aggregator': draining,
        'hooks': hooks,
        'samples': facts['samples'] / facts['seconds'],
    }


def bare(host, hertz, seconds):
    program = Program(host, 'bare', hertz)
    try:
        time.sleep(0.5)
        cpu = window(lambda: own_tasks_cpu(program.pid, 'bare-'), program, seconds)
    finally:
        program.end()
    return {'profiler': cpu[0], 'program': cpu[1]}


def alone(host, _hertz, seconds):
    program = Program(host, 'plain')
    try:
        time.sleep(0.5)
        cpu = window(lambda: 0.0, program, seconds)
    finally:
        program.end()
    return {'profiler': 0.0, 'program': cpu[1]}


def theirs(rival):
    def run(host, hertz, seconds):
        program = Program(host, 'plain')
        try:
            out = os.path.join(program.directory, 'profile')
            with attached(rival.command(program.pid, hertz, out)) as process:
                running = process.poll() is None
                if running:
                    cpu = window(lambda: process_cpu(process.pid), program, seconds)
                lasted = time.perf_counter() - process.since
            if not running:
                raise RuntimeError(f'it ended: {process.said.strip()}')
            samples = samples_in(out, rival.a_line_a_sample)
        finally:
            program.end()
        return {'profiler': cpu[0], 'program': cpu[1], 'samples': samples / lasted}

    return run


def samples_in(path, a_line_a_sample):
    with open(path, errors='replace') as file:
        numbers = [int(found.group(1)) for found in map(re.compile(r' (\d+)$').search, file) if found]
    return len(numbers) if a_line_a_sample else sum(numbers)


# ---- the part


def compare(bench, host, title, rivals):
    bench.say(f'\nCPU of the whole profiler over that of the program unprofiled: {title}')
    runs = bench.options.runs or (1 if bench.quick else 5)
    seconds = bench.options.seconds or (2.0 if bench.quick else 5.0)
    ways = {'alone': alone, 'bare timer': bare, 'profilomatic': ours, **{k: theirs(v) for k, v in rivals.items()}}
    found = {(hertz, name): [] for hertz in RATES for name in ways}
    for _ in range(runs):
        for (hertz, name), rows in found.items():
            try:
                rows.append(ways[name](host, hertz, seconds))
            except (RuntimeError, OSError) as error:
                bench.say(f'  {name} at {hertz} Hz: {error}')
    for hertz in RATES:
        unprofiled = statistics.median(row['program'] for row in found[hertz, 'alone'])
        share = {
            name: statistics.median(row['profiler'] for row in found[hertz, name]) / unprofiled
            for name in ways
            if found[hertz, name]
        }
        part = {
            name: statistics.median(row[name] for row in found[hertz, 'profilomatic']) / unprofiled
            for name in ('aggregator', 'hooks')
        }
        timer, own = share['bare timer'], share['profilomatic']
        bench.figure(
            f'profilomatic, {hertz} Hz, {title}',
            f'{hertz:5d} Hz: profilomatic {own:.3%} of the program, of it {part["aggregator"]:.3%} aggregator and '
            f'{part["hooks"]:.3%} hooks (a bare timer {timer:.3%}; the program alone {unprofiled:.2f} of a core)',
            own,
            bare=timer,
        )
        for name in rivals:
            if name not in share:
                bench.skip(f'{name}, {hertz} Hz', 'it did not run')
                continue
            rate = {key: statistics.median(r['samples'] for r in found[hertz, key]) for key in (name, 'profilomatic')}
            each = share[name] / own * rate['profilomatic'] / max(rate[name], 1e-9)
            net = (share[name] - timer) / (own - timer) if own > timer else None  # ours costs no more than the timer
            bench.figure(
                f'{name} over profilomatic, {hertz} Hz, {title}',
                f'{hertz:5d} Hz: {name:24s} {share[name]:8.3%}: {share[name] / own:5.1f} times ours; '
                f"net of a bare timer's wake-ups {'infinitely many' if net is None else f'{net:.1f}'} times; "
                f'a sample {each:.1f} times (samples a second {rate[name]:.0f}, ours {rate["profilomatic"]:.0f})',
                share[name] / own,
                TIMES_CHEAPER,
                'times',
                least=True,
                net=net,
                each=each,
            )


def rivals(bench):
    found, missing = install(bench)
    for name, why in missing.items():
        bench.skip(name, why)
    host = this_host(bench)
    commands = {}
    if 'py-spy' in found:
        spy = f'py-spy {version_of(found["py-spy"])}'
        commands[spy] = py_spy(found['py-spy'])
        commands[f'{spy} --nonblocking'] = py_spy(found['py-spy'], '--nonblocking')
    if 'austin' in found:
        commands[f'austin {version_of(found["austin"])}'] = austin(found['austin'])
    compare(bench, host, host.title(), commands)
    why = Unstable.missing()
    if why is not None:
        bench.say('')
        bench.skip('profiling.sampling on CPython 3.15', why)
        return
    there = Unstable()
    compare(bench, there, there.title(), {'profiling.sampling': profiling_sampling(there)})
