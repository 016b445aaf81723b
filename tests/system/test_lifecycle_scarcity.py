"""Want of room, of descriptors, of rights, of memory, of a steady clock: the application runs on as if nothing was, and
what can be counted is counted, at the latest when the want is over.

POM_LONG_RESTARTS=1 stops a worker for a minute instead of a moment.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import COMMAND, HERE, OWN_GROUP, VENV, Profiled, Served, said, wait_until
from lifecycle import PROFILE_MANY, PROFILE_MANY_ASKED

STOPPED_S = 60 if os.environ.get('POM_LONG_RESTARTS') == '1' else 3.5
PROGRAM = [VENV / 'python', HERE / 'processes.py']


def can(*words):
    return subprocess.run(words, capture_output=True).returncode == 0


def needs(*words):
    return pytest.mark.skipif(not can(*words), reason=f'not to be had here: {" ".join(words)}')


mounts = needs('unshare', '--mount', 'true')


def in_room(size, *words):
    """The words of a command that is run with a /dev/shm of that size."""
    script = f'mount -t tmpfs -o size={size} none /dev/shm && exec "$@"'
    return ['unshare', '--mount', 'sh', '-c', script, 'sh', *map(str, words)]


def counted(report):
    return {row['action_type']: row['count'] for row in report['actions']}


def run_in_room(tmp_path, size, *words):
    report = tmp_path / 'report.json'
    command = [COMMAND, 'run', *PROFILE_MANY, '-o', report, '--', *words]
    done = subprocess.run(in_room(size, *command), capture_output=True, text=True, timeout=120, **OWN_GROUP)
    return done, json.loads(report.read_text()) if report.exists() else None


@mounts
def test_64_workers_in_64_megabytes_are_all_counted(tmp_path):
    done, report = run_in_room(tmp_path, '64m', *PROGRAM, 'many', '64')
    assert done.returncode == 0, done.stderr
    assert counted(report) == said(done.stdout)
    assert report['workers'] == 64 and report['samples'] > 0


@mounts
def test_in_one_megabyte_those_of_64_are_counted_for_whom_there_is_room(tmp_path):
    done, report = run_in_room(tmp_path, '1m', *PROGRAM, 'many', '64')
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if line.startswith('profilomatic: ')]
    assert any('space' in line for line in ours), done.stderr
    assert len(ours) <= 4, ours
    assert 0 < counted(report)['work'] <= said(done.stdout)['work']


@pytest.fixture
def served(tmp_path):
    running = []

    def start(*words, **how):
        running.append(Served(tmp_path, [*PROGRAM, *words], env=PROFILE_MANY_ASKED, **how))
        return running[0]

    yield start
    for one in running:
        one.close()


def ends_counted(served):
    """The program ends as it should, and what it says that it did is what was counted."""
    assert served.process.wait(120) == 0, served.stderr
    wait_until(lambda: served.rings() == [], lambda: served.stderr)
    assert counted(served.ask('report')) == said(served.stderr_path.read_text())


@mounts
def test_a_full_disk_in_the_middle_of_checkpoints_costs_nothing_in_the_end(served):
    one = served('timed', '5', room='4m')
    wait_until(lambda: one.rings() != [], lambda: one.stderr)
    time.sleep(1)
    filler = one.place / 'filler'
    with open(filler, 'wb', buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    wait_until(lambda: b'o space' in one.log_path.read_bytes(), lambda: one.stderr)
    filler.unlink()
    ends_counted(one)
    assert one.log_path.read_bytes().count(b'o space') < 5, 'told once, not each second'


@mounts
def test_segments_leave_room_to_be_committed_and_removed(served):
    """The dead ones' are removed only after a checkpoint that their own bytes could keep from being written."""
    one = served('many', '64', room='1m')
    assert one.process.wait(120) == 0, one.stderr
    wait_until(lambda: one.rings() == [], lambda: one.stderr)
    assert 0 < counted(one.ask('report'))['work'] <= said(one.stderr_path.read_text())['work']
    assert b'o space' not in one.log_path.read_bytes()


@needs('prlimit', '--nofile=64:64', 'true')
def test_an_aggregator_short_of_descriptors_counts_all_in_the_end(served):
    one = served('many', '20', prefix=('prlimit', '--nofile=32:32'))
    wait_until(lambda: b'tried again' in one.log_path.read_bytes(), lambda: one.stderr)
    ends_counted(one)


@mounts
def test_in_a_directory_that_becomes_read_only_the_application_runs_on(served):
    one = served('timed', '3', room='4m')
    wait_until(lambda: one.rings() != [], lambda: one.stderr)
    # What is open for writing keeps a file system from becoming read-only, but not another mount of it.
    one.mount('--bind', str(one.place))
    one.mount('-o', 'remount,bind,ro')
    assert one.process.wait(120) == 0, one.stderr
    assert one.aggregators[-1].poll() is None
    # By then it has committed what the worker left, to a file that was open, and could not remove its segment.
    wait_until(lambda: b'ead-only' in one.log_path.read_bytes(), lambda: one.stderr)
    subprocess.run(['umount', '-l', str(one.place)], check=True)
    wait_until(lambda: one.rings() == [], lambda: one.stderr)
    assert counted(one.ask('report')) == said(one.stderr_path.read_text())


def test_the_time_of_day_may_jump(served, tmp_path):
    shim, shift = tmp_path / 'shifted_clock.so', tmp_path / 'shift'
    subprocess.run(['gcc', '-O1', '-shared', '-fPIC', '-o', shim, HERE / 'shifted_clock.c'], check=True)
    shift.write_text('0')
    one = served('timed', '5', aggregator_env={'LD_PRELOAD': str(shim), 'SHIFTED_CLOCK': str(shift)})
    wait_until(lambda: one.rings() != [], lambda: one.stderr)
    for seconds in (86400, -86400, 0):
        time.sleep(1)
        shift.write_text(str(seconds))
    ends_counted(one)
    report = one.ask('report')
    assert 0 < report['window']['seconds'] < 60, report['window']
    assert one.aggregators[-1].poll() is None


def test_a_stopped_worker_is_waited_for(served):
    one = served('timed', '5')
    wait_until(lambda: one.rings() != [], lambda: one.stderr)
    time.sleep(0.5)
    one.process.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_S)
    assert len(one.rings()) == 1
    one.process.send_signal(signal.SIGCONT)
    ends_counted(one)


MEMORY = Path('/sys/fs/cgroup/memory')


@pytest.mark.skipif(not os.access(MEMORY / 'cgroup.procs', os.W_OK), reason='no memory cgroups to be had here')
def test_a_worker_that_its_cgroup_kills_is_counted_to_its_end(tmp_path):
    group = MEMORY / f'profilomatic-test-{os.getpid()}'
    try:
        group.mkdir()
        (group / 'memory.limit_in_bytes').write_text(str(96 << 20))
    except OSError as error:
        pytest.skip(f'no memory cgroup to be had: {error}')
    script = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    try:
        profiled = Profiled(tmp_path, ['sh', '-c', script, 'sh', *PROGRAM, 'greedy'], options=PROFILE_MANY)
        assert profiled.wait(120) == -signal.SIGKILL
    finally:
        time.sleep(0.2)
        group.rmdir()
    assert counted(profiled.report) == said(profiled.stdout_path.read_text())
    assert profiled.report['samples'] > 0


@needs('unshare', '--pid', '--fork', '--mount-proc', 'true')
def test_a_pid_that_is_used_again_is_another_process(tmp_path):
    """In a pid namespace, where the next pid can be chosen: the aggregator is killed, then the worker; another process
    gets its pid; the next aggregator must not take that one for the worker."""
    words = ['unshare', '--pid', '--fork', '--mount-proc', VENV / 'python', HERE / 'reused_pid.py', tmp_path / 'rt']
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'the worker is known to be gone\n'
