"""The reader of CPython's stacks, against programs whose stacks are known: each of oracles/ is a promise."""

import os
import subprocess
import sys

import pytest
from oracles import ORACLES

HERE = os.path.dirname(os.path.abspath(__file__))
PROBES = os.path.join(os.path.dirname(os.path.dirname(HERE)), 'build', 'tests', 'python')


@pytest.mark.parametrize('oracle', ORACLES)
def test_reader(oracle):
    probes = os.environ.get('POM_TEST_PROBES', PROBES)
    ended = subprocess.run(
        [sys.executable, '-m', 'oracles', probes, oracle],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, f'{ORACLES[oracle].__doc__}\n{ended.stdout}{ended.stderr}'
