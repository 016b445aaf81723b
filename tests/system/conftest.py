"""Makes the harness and the application importable, and refuses to run against a build that is not there."""

import signal
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

# A shell without job control starts what it puts behind an `&` with SIGINT ignored, and so would every server be
# that a test wants to interrupt. A handler of ours becomes the default again in whatever is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope='session')
def built():
    from harness import AGGREGATOR, COMMAND

    for program in (COMMAND, AGGREGATOR):
        if not program.exists():
            pytest.fail(f'{program} is missing: run scons first')
