"""Runs one oracle: see __init__.py."""

import sys

from . import ORACLES, harness

oracle = ORACLES[sys.argv[2]]
harness.open_probe(sys.argv[1])
if oracle.check:
    harness.probe.check()
if oracle.hook:
    harness.probe.watch()
oracle()
