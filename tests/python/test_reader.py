"""The reader of CPython's stacks, against programs whose stacks are known: each of reader_oracles.py is a promise."""

import os
import subprocess
import sys

import pytest
import reader_oracles

HERE = os.path.dirname(os.path.abspath(__file__))
PROBES = os.path.join(os.path.dirname(os.path.dirname(HERE)), 'build', 'tests', 'python')


@pytest.mark.parametrize('oracle', reader_oracles.ORACLES)
def test_reader(oracle):
    script = os.path.join(HERE, 'reader_oracles.py')
    probes = os.environ.get('POM_TEST_PROBES', PROBES)
    ended = subprocess.run(
        [sys.executable, script, probes, oracle], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, f'{reader_oracles.ORACLES[oracle].__doc__}\n{ended.stdout}{ended.stderr}'
