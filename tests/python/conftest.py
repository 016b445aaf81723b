"""For all tests of this folder: an environment that does not depend on who started them."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from _support import aggregator

sys.path.insert(0, str(Path(__file__).parents[1]))  # for what tests/system shares

# A shell without job control starts what it puts behind an `&` with SIGINT ignored, and so would every server be
# that a test wants to interrupt. A handler of ours becomes the default again in whatever is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session')
def one_directory():
    """The runtime directory of all tests that profile in pytest's own process, which attaches to one only."""
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory:
        yield directory


@pytest.fixture(scope='module')
def served():
    """A directory with an aggregator, for the processes of all tests of a file."""
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory, aggregator(directory):
        yield directory


@pytest.fixture(scope='module')
def messages(one_directory):
    """Every action in this process is profiled (no cap), and its message arrives in this list."""
    import profilomatic

    os.environ['PROFILOMATIC_DIR'] = one_directory
    os.environ.pop('PROFILOMATIC_RUN', None)
    received = []
    profilomatic.configure(max_actions_per_run=0, max_overhead=0.5, source_name='tests')
    profilomatic.add_destination(received.append)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with profilomatic.action('probe') as action:
            pass
        if action.profiled:
            break
        time.sleep(0.05)
    assert action.profiled, profilomatic.status()
    yield received
    profilomatic.remove_destination(received.append)
