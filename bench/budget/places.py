"""Where things are, and how a figure with a bar is printed."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
BUILD = PROJECT / 'build'
BENCH = BUILD / 'bench'
SYSTEM = PROJECT / 'tests' / 'system'

sys.path.insert(0, str(SYSTEM))  # the harness of the tests with real servers


def figure(text, value, bar, unit):
    """Print it; True if it is at most its bar."""
    kept = value <= bar
    print(f'  {text}: {value:.4g} {unit}, bar {bar:.4g} {unit}: {"ok" if kept else "MISSED"}', flush=True)
    return kept
