"""What the system tests share: a real server under `profilomatic run`, load on it, and a look at it from outside."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = ROOT / 'build'
COMMAND = BUILD / 'bin' / 'profilomatic'
AGGREGATOR = BUILD / 'bin' / 'profilomatic-aggregator'
# What ails a group of processes is told once among them: tests that run beside each other shall not share one.
OWN_GROUP = {'start_new_session': True}
VENV = Path(os.environ.get('POM_TEST_VENV', sys.prefix)).absolute() / 'bin'


def free_port():
    """Below those that the kernel gives to clients, so that no connection takes it before the server does."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as s:
            try:
                s.bind(('127.0.0.1', port))
            except OSError:
                continue
        return port


def planted(name):
    """The number of the line in app.py that is marked with PLANTED <name>."""
    for number, line in enumerate((HERE / 'app.py').read_text().splitlines(), 1):
        if line.endswith(f'# PLANTED {name}'):
            return number
    raise LookupError(name)


def wait_for_port(port, process, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(('127.0.0.1', port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None:
                raise AssertionError(f'the server ended with {process.returncode} before it listened') from None
            time.sleep(0.05)
    raise AssertionError('the server does not listen')


def wait_until(condition, what, seconds=60):
    """Until `condition()` holds; else what() is told."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def said(text):
    """What processes.py says that its processes did; the profiler may have said something in between."""
    counts = {}
    for line in text.splitlines():
        if line.startswith('{'):
            for name, count in json.loads(line).items():
                counts[name] = counts.get(name, 0) + count
    return counts


def load(port, seconds, threads, *paths):
    out = subprocess.run(
        [sys.executable, str(HERE / 'load.py'), str(port), str(seconds), str(threads), *paths],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 90,
    ).stdout
    return json.loads(out)


def start_load(port, seconds, threads, *paths):
    return subprocess.Popen(
        [sys.executable, str(HERE / 'load.py'), str(port), str(seconds), str(threads), *paths],
        stdout=subprocess.PIPE,
        text=True,
    )


def children(pid):
    """Pids of all processes below `pid`."""
    below = {}
    for entry in os.listdir('/proc'):
        if entry.isdigit():
            try:
                fields = Path('/proc', entry, 'stat').read_text().rsplit(')', 1)[1].split()
            except OSError:
                continue
            below.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        for child in below.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def name_of(pid):
    try:
        return Path('/proc', str(pid), 'cmdline').read_bytes().split(b'\0')
    except OSError:
        return []


def is_aggregator(pid):
    return any(b'profilomatic-aggregator' in word for word in name_of(pid)[:1])


def cpu_seconds(pid, only=None):
    """CPU seconds of the threads of `pid` whose name `only` accepts (all by default), from schedstat."""
    total = 0
    try:
        tids = os.listdir(f'/proc/{pid}/task')
    except OSError:
        return 0.0
    for tid in tids:
        try:
            name = Path(f'/proc/{pid}/task/{tid}/comm').read_text().strip()
            if only is None or only(name):
                total += int(Path(f'/proc/{pid}/task/{tid}/schedstat').read_text().split()[0])
        except OSError:
            continue
    return total / 1e9


class Profiled:
    """A command under `profilomatic run`, its stderr, and its report."""

    def __init__(self, tmp_path, command, options=(), env=None, cwd=HERE, format='json', program=COMMAND):
        self.report_path = tmp_path / 'report.out'
        self.stderr_path = tmp_path / 'stderr.txt'
        self.stdout_path = tmp_path / 'stdout.txt'
        full = [str(program), 'run', *options, '-o', str(self.report_path), '-F', format, '--', *map(str, command)]
        environ = dict(os.environ, **(env or {}))
        environ.pop('PYTHONPATH', None)
        environ.update(env or {})
        environ.setdefault('PROFILOMATIC_SPOOL', str(tmp_path / 'spool'))
        with open(self.stderr_path, 'wb') as err, open(self.stdout_path, 'wb') as out:
            self.process = subprocess.Popen(
                full, stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=cwd, env=environ, **OWN_GROUP
            )

    @property
    def stderr(self):
        return self.stderr_path.read_text(errors='replace')

    def stop(self, number=signal.SIGTERM, seconds=30):
        self.process.send_signal(number)
        if number == signal.SIGINT:  # uWSGI now and then loses its master's first one on the way to a worker
            try:
                return self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds=30):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f'it does not end:\n{self.stderr}') from None

    def kill(self):
        for pid in [*children(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    @property
    def report(self):
        return json.loads(self.report_path.read_text())

    def directories(self):
        """The private runtime directory, from the environment of the processes below, if there is one yet."""
        found = set()
        for pid in children(self.process.pid):
            found |= {word[17:].decode() for word in environment_of(pid) if word.startswith(b'PROFILOMATIC_DIR=')}
        return found

    def directory(self):
        found = self.directories()
        assert found, 'no process below has PROFILOMATIC_DIR'
        return found.pop()

    def status(self):
        out = subprocess.run(
            [str(COMMAND), 'status', '--json', '--directory', self.directory()], capture_output=True, text=True
        )
        assert out.returncode == 0, out.stderr
        return json.loads(out.stdout)

    def aggregators(self):
        return [pid for pid in children(self.process.pid) if is_aggregator(pid)]

    def aggregator(self):
        pids = self.aggregators()
        assert len(pids) == 1, f'{len(pids)} aggregators'
        return pids[0]

    def workers(self):
        """Processes that have a sampler thread."""
        found = []
        for pid in children(self.process.pid):
            try:
                names = [
                    Path(f'/proc/{pid}/task/{tid}/comm').read_text().strip() for tid in os.listdir(f'/proc/{pid}/task')
                ]
            except OSError:
                continue
            if 'pom-sampler' in names:
                found.append(pid)
        return found


def action(report, name):
    for row in report['actions']:
        if row['action_type'] == name:
            return row
    raise AssertionError(f'{name} is not in the report: {[row["action_type"] for row in report["actions"]]}')


def leftovers(profiled):
    """What this `run` has left in shared memory; others may be under way on this machine."""
    return sorted(str(p) for p in Path('/dev/shm').glob(f'profilomatic-*/run-{profiled.process.pid}-*'))


def environment_of(pid):
    try:
        return Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
    except OSError:
        return []


def processes_of(directory):
    """Pids of all processes that were started to be profiled there, whoever their parent is by now."""
    wanted = f'PROFILOMATIC_DIR={directory}'.encode()
    return [int(entry) for entry in os.listdir('/proc') if entry.isdigit() and wanted in environment_of(entry)]


def has_sampler(pid):
    try:
        return any(
            Path(f'/proc/{pid}/task/{tid}/comm').read_text() == 'pom-sampler\n'
            for tid in os.listdir(f'/proc/{pid}/task')
        )
    except OSError:
        return False


def zombies(pid):
    """Children of the processes below `pid` that have ended and were not waited for."""
    found = set()
    for child in children(pid):
        try:
            if Path(f'/proc/{child}/stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z':
                found.add(child)
        except OSError:
            continue
    return found


class Served:
    """A command whose Python processes are profiled in a directory of its own, that a service serves or, without one
    (`service=False`), the private aggregator that they start."""

    def __init__(self, tmp_path, command, env=None, cwd=HERE, service=True, room=None, prefix=(), aggregator_env=None):
        """`room`: a file system of its own, of that size; `prefix`: words before the aggregator's."""
        Served.count = getattr(Served, 'count', 0) + 1
        self.place = Path(f'/dev/shm/profilomatic-test-{os.getpid()}-{Served.count}')
        self.log_path = tmp_path / 'aggregator.log'
        self.stderr_path = tmp_path / 'stderr.txt'
        self.stderr_path.touch()
        self.aggregators = []
        self.prefix, self.aggregator_env = prefix, aggregator_env
        self.room = room
        if room is not None:
            self.place.mkdir(mode=0o700)
            self.mount('-t', 'tmpfs', '-o', f'size={room}', 'profilomatic-test')
        if service:
            self.start_aggregator()
        python = BUILD / 'python'
        environ = dict(
            os.environ,
            PYTHONPATH=f'{python}/profilomatic/_site:{python}',
            PROFILOMATIC_ENABLED='1',
            PROFILOMATIC_DIR=str(self.place),
            PROFILOMATIC_AGGREGATOR=str(AGGREGATOR),
            **(env or {}),
        )
        with open(self.stderr_path, 'wb') as err:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdout=err,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env=environ,
                **OWN_GROUP,
            )

    def mount(self, *options):
        subprocess.run(['mount', *options, str(self.place)], check=True)

    def start_aggregator(self):
        words = [*self.prefix, str(AGGREGATOR), '--directory', str(self.place)]
        environ = dict(os.environ, **(self.aggregator_env or {}))
        with open(self.log_path, 'ab') as log:
            self.aggregators.append(subprocess.Popen(words, stdout=log, stderr=log, env=environ))
        wait_until(self.answers, lambda: self.stderr)

    def answers(self):
        """The socket of one that was killed stays until the next one replaces it."""
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(str(self.place / 'control'))
            except OSError:
                return False
        return True

    @property
    def stderr(self):
        return self.stderr_path.read_text(errors='replace') + self.log_path.read_text(errors='replace')

    def directory(self):
        return str(self.place)

    def command(self, *words):
        return subprocess.run([str(COMMAND), *words, '--json', '--directory', str(self.place)], capture_output=True)

    def ask(self, *words):
        out = self.command(*words)
        assert out.returncode == 0, out.stderr
        return json.loads(out.stdout)

    def status(self):
        return self.ask('status')

    def rings(self):
        return sorted(self.place.glob('*/rings/*'))

    def close(self):
        """End whatever is left of it."""
        for pid in processes_of(self.place):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for aggregator in self.aggregators:
            if aggregator.poll() is None:
                aggregator.terminate()
            aggregator.wait(60)
        if self.room is not None:
            subprocess.run(['umount', '-l', str(self.place)], check=True)
        shutil.rmtree(self.place, ignore_errors=True)
