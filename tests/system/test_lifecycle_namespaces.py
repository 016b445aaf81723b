"""Workers in containers: their pids mean nothing to the aggregator, which knows of their end all the same."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from harness import HERE, VENV, Served, children

UNSHARE = shutil.which('unshare')


def can_unshare():
    if UNSHARE is None:
        return False
    return subprocess.run([UNSHARE, '--pid', '--fork', '--mount-proc', 'true'], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason='no pid namespaces are to be had here')


@pytest.fixture
def container(tmp_path):
    """A worker with the pid 1 of its own namespace, in the middle of its actions."""
    served = Served(
        tmp_path,
        [UNSHARE, '--pid', '--fork', '--mount-proc', VENV / 'python', HERE / 'processes.py', 'endless'],
    )
    try:
        wait_until(lambda: workers(served) and workers(served)[0]['samples'] > 0, served)
        yield served
    finally:
        for pid in children(served.process.pid):
            os.kill(pid, signal.SIGKILL)
        served.close()


def workers(served):
    return [worker for pool in served.status()['pools'] for worker in pool['workers']]


def wait_until(condition, served, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (workers(served), served.stderr)
        time.sleep(0.05)


def test_a_worker_of_another_namespace_is_known_to_live_and_to_have_died(container):
    (worker,) = workers(container)
    assert worker['foreign'] and worker['pid'] == 1 and worker['alive']
    (pid,) = children(container.process.pid)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(3)  # longer than anything here calls silence
    assert workers(container)[0]['alive'] and len(container.rings()) == 1
    os.kill(pid, signal.SIGCONT)
    before = workers(container)[0]['samples']
    wait_until(lambda: workers(container)[0]['samples'] > before, container)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: workers(container) == [] and container.rings() == [], container)
    # All that it said it had done was counted; it may have done one more than it came to say.
    said = container.stderr_path.read_bytes().count(b'.')
    report = container.ask('report')
    assert said <= report['actions'][0]['count'] <= said + 1
