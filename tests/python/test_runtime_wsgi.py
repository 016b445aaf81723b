"""Runs wrapper_cases.py in a process of its own: this one may be attached to the pool of another test."""

import os
import subprocess
import sys
import tempfile

from _support import environment

HERE = os.path.dirname(os.path.abspath(__file__))


def test_the_wrapper_at_its_edges():
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory:
        cases = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', os.path.join(HERE, 'wrapper_cases.py')]
        known = environment(directory, profiled=False, extra_path=[HERE])
        done = subprocess.run(cases, env=known, cwd=HERE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
