"""The examples for Eliot run as they stand, and what they write holds call graphs."""

import json
import os
import subprocess
import sys
import time

import pytest
from _support import NATIVE, PROJECT, environment, free_port, get, server

pytest.importorskip('eliot')
pytestmark = pytest.mark.skipif(not NATIVE, reason='one of them needs the aggregator')
EXAMPLES = os.path.join(PROJECT, 'examples', 'eliot')


def profiled_alone(directory):
    """The environment of a program that starts its own aggregator, as they do for a user."""
    known = environment(directory, profiled=False)
    del known['PROFILOMATIC_RUN']
    return known


def nodes(tree):
    yield tree
    for child in tree['children']:
        yield from nodes(child)


def profiles_of(example, folder):
    """Ask the application until something that was profiled has been sampled."""
    port = free_port()
    path = folder / 'app_prof.log'
    command = [sys.executable, os.path.join(EXAMPLES, example), str(port)]
    with server(command, port, profiled_alone(folder / 'run'), folder):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert get(port)[0] == 200
            found = [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith('\n')]
            if any('digest' in node.get('instruction', '') for profile in found for node in nodes(profile)):
                return found
    raise AssertionError('nothing was profiled')


def test_eliot_app(tmp_path):
    found = profiles_of('eliot_app.py', tmp_path)
    assert {profile['action_type'] for profile in found} == {'app:hello-world'}
    log = [json.loads(line) for line in (tmp_path / 'app_log.log').read_text().splitlines()]
    assert {profile['task_uuid'] for profile in found} <= {message['task_uuid'] for message in log}
    messages = [node['message'] for profile in found for node in nodes(profile) if 'message' in node]
    assert {message.get('message_type') for message in messages} >= {'app:half-way'}
    assert {message.get('path') for message in messages} >= {'/'}


def test_wsgi_app(tmp_path):
    found = profiles_of('wsgi_app.py', tmp_path)
    assert {profile['action_type'] for profile in found} == {'/'}
    assert {node['instruction'].count(':') for profile in found for node in list(nodes(profile))[1:]} == {1}, 'methods'


def test_remote_tasks(tmp_path):
    done = subprocess.run(
        [sys.executable, os.path.join(EXAMPLES, 'remote_tasks.py')],
        env=profiled_alone(tmp_path / 'run'),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, '')
    (there, its_task, level), (here, task, root) = [line.split(' ', 2) for line in done.stdout.splitlines()]
    assert (there, here) == ('eliot:remote_task', 'order')
    assert its_task == task and json.loads(level) and json.loads(root) == []


def test_names_that_eliot_has_given_up_do_as_well(tmp_path):
    script = """
import json, time, warnings
warnings.simplefilter('ignore')
import eliot, profilomatic, profilomatic.eliot
profilomatic.eliot.patch()
eliot.add_destination(eliot.FileDestination(open('app_log.log', 'w')))
profilomatic.add_destination(eliot.FileDestination(open('app_prof.log', 'w')))
profilomatic.configure(max_overhead=0.02, time_granularity=0.01, code_granularity='method', store_all_logs=False,
                       max_actions_per_run=10)
deadline = time.monotonic() + 60
while not open('app_prof.log').read().endswith('\\n'):
    assert time.monotonic() < deadline
    with eliot.startAction(event='app:hello-world'):
        time.sleep(0.05)
"""
    done = subprocess.run(
        [sys.executable, '-c', script],
        env=profiled_alone(tmp_path / 'run'),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, '')
    profile = json.loads((tmp_path / 'app_prof.log').read_text().splitlines()[0])
    assert (profile['action_type'], profile['code_granularity']) == ('app:hello-world', 'method')
