"""Run as the first process of a pid namespace: see test_lifecycle_scarcity.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import AGGREGATOR, BUILD, HERE

place = Path(sys.argv[1])


def wait_until(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f'not in 20 s: {what}')
        time.sleep(0.02)


def rings():
    return list(place.glob('*/rings/*.ring'))


def aggregator():
    return subprocess.Popen([str(AGGREGATOR), '--directory', str(place)])


first = aggregator()
environ = dict(
    os.environ,
    PYTHONPATH=f'{BUILD}/python/profilomatic/_site:{BUILD}/python',
    PROFILOMATIC_ENABLED='1',
    PROFILOMATIC_RUN='1',
    PROFILOMATIC_DIR=str(place),
)
worker = subprocess.Popen(
    [sys.executable, str(HERE / 'processes.py'), 'endless'], env=environ, stdout=subprocess.DEVNULL
)
wait_until(rings, 'a segment')
time.sleep(0.5)
first.kill()
first.wait()
worker.kill()
worker.wait()
time.sleep(0.05)  # start times are told in hundredths of a second
Path('/proc/sys/kernel/ns_last_pid').write_text(str(worker.pid - 1))
other = os.fork()
if other == 0:
    time.sleep(60)
    os._exit(0)
if other != worker.pid:
    sys.exit(f'the pid is {other}, not {worker.pid}')
second = aggregator()
wait_until(lambda: not rings(), 'the segment of the dead is removed')
print('the worker is known to be gone')
os.kill(other, signal.SIGKILL)
second.terminate()
second.wait()
