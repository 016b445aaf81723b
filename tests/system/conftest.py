"""Makes the harness and the application importable, and refuses to run against a build that is not there."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope='session')
def built():
    from harness import AGGREGATOR, COMMAND

    for program in (COMMAND, AGGREGATOR):
        if not program.exists():
            pytest.fail(f'{program} is missing: run scons first')
