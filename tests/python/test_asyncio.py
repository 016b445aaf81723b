"""Tasks and greenlets that take turns on a thread, and threads that work for them: every sample belongs to the action
that was current where the code ran.

Each kind of action calls one function only (`fa`, `fb`), so that a sample with the wrong one in it shows."""

import collections
import json
import os
import subprocess
import sys
import tempfile
import textwrap

import pytest
from _support import BIN, aggregator, environment

START = """
    import asyncio, collections, contextvars, json, os, random, sys, threading, time
    import profilomatic
    profilomatic.configure(max_actions_per_run=0, max_overhead=0.9, time_granularity=0.001, code_granularity='method')
    profilomatic.add_destination(profilomatic.file_destination(os.environ['PROFILOMATIC_DIR'] + '/out.log'))

    def spin(seconds):
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    def fa(seconds):
        spin(seconds)

    def fb(seconds):
        spin(seconds)

    def admitted():
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with profilomatic.action('probe') as action:
                pass
            if action.profiled:
                return True
            time.sleep(0.02)
        return False

    assert admitted()
"""


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as path, aggregator(path):
        yield path


def run(script, directory):
    """Run it to its end; what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(START) + textwrap.dedent(script)],
        env=environment(directory, profiled=False),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    return json.loads(done.stdout) if done.stdout else None


def reported(directory):
    command = [os.path.join(BIN, 'profilomatic'), 'export', '-F', 'json', '--directory', str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def samples(report):
    """Samples by action type and by each function on the stack."""
    found = collections.defaultdict(collections.Counter)
    for row in report['actions']:
        columns = row['tree']['columns']
        at = {name: columns.index(name) for name in ('instruction', 'parent', 'samples')}
        functions = []
        for node in row['tree']['nodes']:
            above = functions[node[at['parent']]] if node[at['parent']] >= 0 else frozenset()
            name = report['instructions'][node[at['instruction']]].split(':')
            functions.append(above | {name[1] if len(name) > 1 else name[0]})
            for function in functions[-1]:
                found[row['action_type']][function] += node[at['samples']]
            found[row['action_type']]['(all)'] += node[at['samples']]
    return found


def wrong(found):
    return found['a']['fb'] + found['b']['fa']


# Twenty clients that take turns every third of a millisecond.
TURNS = """
    async def request(kind, function):
        with profilomatic.action(kind):
            for _ in range(5):
                function(0.0003)
                await asyncio.sleep(0.001)

    async def client(kind, function, until):
        while time.monotonic() < until:
            await request(kind, function)

    async def main(**how):
        until = time.monotonic() + SECONDS
        loop = asyncio.get_running_loop()
        await asyncio.gather(*[loop.create_task(client(kind, function, until), **how)
                               for kind, function in 10 * [('a', fa), ('b', fb)]])
"""


def test_a_sample_goes_to_the_action_of_the_task_that_runs(directory):
    run(TURNS.replace('SECONDS', '5') + '\n    asyncio.run(main())\n', directory)
    report = reported(directory)
    found = samples(report)
    assert found['a']['fa'] > 300 and found['b']['fb'] > 300, found
    assert wrong(found) == 0, found
    assert report['unreadable'] <= 0.01 * sum(kind['(all)'] for kind in found.values())


@pytest.mark.skipif(sys.version_info < (3, 11), reason='a task cannot be given a context')
def test_it_would_be_seen_if_a_sample_went_to_another_action(directory):
    """Where all tasks share one context, the action that began last is the current one of them all."""
    run(TURNS.replace('SECONDS', '2') + '\n    asyncio.run(main(context=contextvars.copy_context()))\n', directory)
    found = samples(reported(directory))
    assert wrong(found) > 100, found
