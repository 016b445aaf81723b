"""`profilomatic run`: the command's own life goes on as without it, and nothing of ours is left when that ends."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _command import COMMAND, profilomatic


def abandoned(directory):
    """Nobody holds its lock: it is not the directory of another `run` on this machine."""
    try:
        with open(directory / 'run.lock') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return directory.exists()
    return True


def shared_memory():
    """Directories that a `run` has left behind."""
    return sorted(str(p) for p in Path('/dev/shm').glob(f'profilomatic-{os.geteuid()}/run-*') if abandoned(p))


@pytest.fixture(autouse=True)
def nothing_left():
    before = shared_memory()
    yield
    assert [p for p in shared_memory() if p not in before] == []


def run(*command, options=(), **how):
    return profilomatic('run', *options, '--', *command, **how)


def test_the_exit_status_stdout_stdin_and_arguments_are_the_commands():
    out = run('sh', '-c', 'cat; printf "%s|" "$@"; exit 7', 'sh', 'a b', '--help', '', input='typed ')
    assert (out.returncode, out.stdout) == (7, 'typed a b|--help||')


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_command_that_dies_of_a_signal_is_followed(number):
    assert run('sh', '-c', f'kill -{int(number)} $$').returncode == -number


def test_a_command_that_cannot_be_run_gives_the_shells_status(tmp_path):
    out = run('no-such-command-anywhere')
    assert out.returncode == 127 and 'no-such-command-anywhere' in out.stderr
    (tmp_path / 'plain').write_text('x')
    assert run(tmp_path / 'plain').returncode == 126


def environment(*options, **variables):
    script = 'import json, os; print(json.dumps(dict(os.environ)))'
    out = run(sys.executable, '-S', '-c', script, options=options, env={**os.environ, **variables})
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


def test_the_command_finds_profiling_switched_on_in_its_environment():
    e = environment(
        '--max-overhead',
        '3%',
        '--interval',
        '0.005',
        '--granularity',
        'method',
        '--max-actions',
        '0',
        '--source',
        'here',
        '--scope',
        'process',
        PYTHONPATH='/mine',
    )
    site, python, mine = e['PYTHONPATH'].split(':')
    assert mine == '/mine' and site == python + '/profilomatic/_site' and Path(site).is_dir()
    assert e['PROFILOMATIC_ENABLED'] == '1' and e['PROFILOMATIC_RUN'] == '1'
    assert e['PROFILOMATIC_DIR'].startswith(f'/dev/shm/profilomatic-{os.geteuid()}/run-')
    got = [
        e['PROFILOMATIC_' + name]
        for name in (
            'MAX_OVERHEAD',
            'TIME_GRANULARITY',
            'CODE_GRANULARITY',
            'MAX_ACTIONS_PER_RUN',
            'SOURCE_NAME',
            'SCOPE',
        )
    ]
    assert got == ['0.03', '0.005', 'method', '0', 'here', 'process']


def test_without_options_the_environments_own_settings_stay():
    e = environment(PROFILOMATIC_MAX_OVERHEAD='0.05')
    assert e['PROFILOMATIC_MAX_OVERHEAD'] == '0.05' and 'PROFILOMATIC_SCOPE' not in e
    assert e['PYTHONPATH'].count(':') == (2 if os.environ.get('PYTHONPATH') else 1)


def test_without_an_aggregator_the_command_runs_unprofiled_and_one_line_says_so():
    out = run(
        'sh', '-c', 'echo $PROFILOMATIC_ENABLED; exit 5', env={**os.environ, 'PROFILOMATIC_AGGREGATOR': '/no/where'}
    )
    assert (out.returncode, out.stdout) == (5, '0\n')
    assert out.stderr.count('\n') == 1 and 'profiling is off' in out.stderr and '/no/where' in out.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can hide /dev/shm')
@pytest.mark.parametrize('mount', ['ro,size=4k', 'size=4k,nr_inodes=1'])
def test_where_shared_memory_cannot_be_written_the_command_runs_on(mount):
    inside = f'mount -t tmpfs -o {mount} none /dev/shm && exec {COMMAND} run -- sh -c "echo on; exit 5"'
    out = subprocess.run(['unshare', '-m', 'sh', '-c', inside], capture_output=True, text=True, timeout=60)
    if 'unshare' in out.stderr or 'mount' in out.stderr.split(':')[0]:
        pytest.skip('no right to mount here')
    assert (out.returncode, out.stdout) == (5, 'on\n')
    assert out.stderr.count('\n') == 1 and 'profiling is off' in out.stderr


TRAPS = """
import os, signal, sys, time
def say(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(9)
for name in ('TERM', 'HUP', 'QUIT', 'USR1', 'USR2', 'WINCH', 'INT'):
    signal.signal(getattr(signal, 'SIG' + name), say)
print('ready', os.getppid(), os.getpgrp(), flush=True)
time.sleep(30)
"""


def children_of(pid):
    return [int(p) for p in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def name_of(pid):
    try:
        return Path(f'/proc/{pid}/comm').read_text().strip()
    except OSError:
        return ''


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.02)


def aggregators_of(pid):
    return [child for child in children_of(pid) if name_of(child).startswith('profilomatic-ag')]


@pytest.fixture
def start(nothing_left):
    """Starts a command under `run`; returns once the command runs. What a failed test leaves is ended."""
    started = []

    def start(*command, **how):
        arguments = [COMMAND, 'run', '--', *command]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
        started.append(process)
        until(lambda: any(not name_of(child).startswith('profilomatic') for child in children_of(process.pid)))
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def test_signals_sent_to_run_reach_the_command_once(start):
    process = start(sys.executable, '-S', '-c', TRAPS.replace('time.sleep(30)', 'for _ in range(300): time.sleep(0.1)'))
    ready = process.stdout.readline().split()
    assert ready[0] == 'ready' and int(ready[1]) == process.pid and int(ready[2]) == os.getpgrp()
    for name in ('HUP', 'QUIT', 'USR1', 'USR2', 'WINCH', 'INT'):
        process.send_signal(getattr(signal, 'SIG' + name))
        assert process.stdout.readline() == f'SIG{name}\n'
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert out == 'SIGTERM\n' and process.returncode == 9


def test_a_terminals_interrupt_is_not_doubled():
    import pty

    script = TRAPS.replace('time.sleep(30)', 'for _ in range(30): time.sleep(0.1)\nprint("end", flush=True)')
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(COMMAND, [str(COMMAND), 'run', '--', sys.executable, '-S', '-c', script])
    seen = b''
    typed = False
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
        if b'ready' in seen and not typed:
            typed = True
            os.write(terminal, b'\x03')
    os.waitpid(pid, 0)
    os.close(terminal)
    assert seen.count(b'SIGINT') == 1 and b'end' in seen


def test_the_aggregator_is_a_session_of_its_own_and_holds_none_of_our_files(start):
    with open('/dev/null') as extra:
        process = start('sleep', '30', pass_fds=[extra.fileno()])
        (pid,) = aggregators_of(process.pid)
        assert os.getsid(pid) == pid
        targets = [os.readlink(f) for f in Path(f'/proc/{pid}/fd').iterdir() if int(f.name) <= 2]
        pipes = {os.fstat(f.fileno()).st_ino for f in (process.stdout, process.stderr)}
        held = [os.stat(f).st_ino for f in Path(f'/proc/{pid}/fd').iterdir() if f.exists()]
        assert not pipes & set(held)
        assert targets[0] == '/dev/null'
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert name_of(pid) == ''


def test_an_aggregator_that_dies_is_started_again_but_not_for_ever(start):
    process = start('sleep', '30')
    pids = []
    while len(pids) < 4:
        until(lambda: aggregators_of(process.pid))
        pids += aggregators_of(process.pid)
        os.kill(pids[-1], signal.SIGKILL)
        until(lambda killed=pids[-1]: killed not in aggregators_of(process.pid))
    until(lambda: not aggregators_of(process.pid))
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert errors.count('killed by signal 9; started again') == 3 and 'too often' in errors
    assert len(set(pids)) == 4


def test_a_killed_run_takes_its_aggregator_along_and_the_next_one_clears_up(start):
    process = start('sleep', '2')
    (pid,) = aggregators_of(process.pid)
    process.kill()
    process.wait()
    until(lambda: name_of(pid) == '')
    (left,) = [p for p in shared_memory() if f'run-{process.pid}-' in p]
    os.utime(left, (1, 1))
    assert run('true').returncode == 0
    assert not Path(left).exists()


def test_a_closed_stderr_keeps_nothing_from_being_cleared_up():
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen([COMMAND, 'run', '--', 'sh', '-c', 'exit 4'], stderr=write)
    os.close(write)
    assert process.wait(timeout=30) == 4


def test_a_command_without_python_has_nothing_to_report():
    out = run('true')
    assert out.returncode == 0 and 'nothing to report' in out.stderr
    assert out.stderr.count('\n') == 1


def test_without_a_report_asked_for_a_command_without_python_is_silent():
    out = run('true', options=['--quiet'])
    assert (out.returncode, out.stderr) == (0, '')


def test_an_output_that_will_not_be_written_is_told_at_the_start(tmp_path):
    for path in (tmp_path, tmp_path / 'no' / 'where'):
        out = run('sh', '-c', 'echo on >&2; exit 5', options=['-o', path])
        told, ran, nothing = out.stderr.splitlines()
        assert str(path) in told and ran == 'on' and str(path) in nothing
        assert out.returncode == 5


@pytest.mark.parametrize('word', ['0', 'off'])
def test_the_operators_no_holds_for_run_too(word):
    out = run('sh', '-c', 'echo $PROFILOMATIC_ENABLED; exit 5', env={**os.environ, 'PROFILOMATIC_ENABLED': word})
    assert (out.returncode, out.stdout) == (5, '0\n')
    assert out.stderr == f'profilomatic: profiling is off: PROFILOMATIC_ENABLED={word}. The command runs without it\n'


DAEMON = """
import os, sys, time
import profilomatic
if os.fork():
    os._exit(0)
os.setsid()
print(os.getpid(), flush=True)
null = os.open('/dev/null', os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)
time.sleep(30)
"""


def test_a_command_that_goes_into_the_background_is_told_that_profiling_ends():
    out = run(sys.executable, '-c', DAEMON)
    left = int(out.stdout)
    try:
        assert f'1 process of it ({left}) still runs, no longer profiled' in out.stderr
    finally:
        os.kill(left, signal.SIGKILL)


def test_status_finds_the_one_run_under_way(start, monkeypatch):
    monkeypatch.delenv('PROFILOMATIC_DIR', raising=False)
    process = start('sleep', '30')
    inside = f'/dev/shm/profilomatic-{os.geteuid()}/run-{process.pid}-'

    def asked():
        return profilomatic('status', '--json')

    out = asked()
    if 'more than one' in out.stderr or '"pools": [{' in out.stdout:
        pytest.skip('others profile on this machine')
    assert out.returncode == 0, out.stderr
    assert inside in out.stderr and json.loads(out.stdout)['pools'] == []
    start('sleep', '30')
    out = asked()
    assert out.returncode == 1 and inside in out.stderr and 'more than one' in out.stderr
