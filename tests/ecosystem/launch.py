"""Runs a project's tests in this process, with profiling if the environment asks for it, and notes each test's outcome.

launch.py pytest ARGUMENTS…
launch.py SCRIPT ARGUMENTS…         one that uses unittest
"""

import json
import os
import runpy
import sys
import time
import unittest

outcomes = {}
details = {}


class NoteForPytest:
    """A plugin: a test has failed if any part of it did, and else its call's outcome."""

    def pytest_runtest_logreport(self, report):
        if report.when == 'call' or report.outcome != 'passed':
            if outcomes.get(report.nodeid) not in ('failed', 'xfailed'):
                outcomes[report.nodeid] = 'xfailed' if hasattr(report, 'wasxfail') else report.outcome
            if report.failed:
                details[report.nodeid] = report.longreprtext

    def pytest_collectreport(self, report):
        if report.failed:
            outcomes[report.nodeid] = 'not collected'
            details[report.nodeid] = report.longreprtext


def note_unittest():
    def noting(method, outcome):
        original = getattr(unittest.TestResult, method)

        def noted(self, test, *rest):
            outcomes[test.id()] = outcome
            if outcome == 'failed' and rest:
                details[test.id()] = self._exc_info_to_string(rest[0], test)
            return original(self, test, *rest)

        setattr(unittest.TestResult, method, noted)

    for method, outcome in {
        'addSuccess': 'passed',
        'addError': 'failed',
        'addFailure': 'failed',
        'addSkip': 'skipped',
        'addExpectedFailure': 'xfailed',
        'addUnexpectedSuccess': 'failed',
    }.items():
        noting(method, outcome)


def switch_on():
    """Profiling, with everything wrapped; returns once actions are admitted."""
    import profilomatic
    import profilomatic.auto
    import shims

    shims.install()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with profilomatic.action('probe') as action:
            pass
        if action.profiled:
            return
        time.sleep(0.05)
    raise SystemExit('nothing is profiled: %s' % profilomatic.status())


def facts():
    found = {'outcomes': outcomes, 'details': details, 'requests': 0, 'admitted': 0, 'samples': 0, 'hook_failures': {}}
    if 'profilomatic' in sys.modules:
        status = sys.modules['profilomatic'].status()
        found.update(
            admitted=status['process']['admitted'],
            samples=status['process']['samples'],
            requests=sys.modules['shims'].requests,
            hook_failures=status['hook_failures'],
        )
    return found


def main():
    # Pytest leaves its own folder out and runtests.py puts its in front: as if either had been called directly.
    here = sys.path.pop(0)
    if os.environ.get('PROFILOMATIC_ENABLED') == '1':
        sys.path.insert(0, here)
        switch_on()
        sys.path.remove(here)
    del sys.argv[0]
    try:
        if sys.argv[0] == 'pytest':
            import pytest

            pytest.main(sys.argv[1:], plugins=[NoteForPytest()])
        else:
            note_unittest()
            sys.path.insert(0, os.getcwd())
            runpy.run_path(sys.argv[0], run_name='__main__')
    finally:
        with open(os.environ['ECOSYSTEM_FACTS'], 'w') as file:
            json.dump(facts(), file)


if __name__ == '__main__':
    main()
