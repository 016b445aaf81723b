"""The other examples run as they stand: actions of one's own, frameworks, Celery and OpenTelemetry."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from _support import NATIVE, PROJECT, free_port, get, server
from test_examples import nodes, profiled_alone

pytestmark = pytest.mark.skipif(not NATIVE, reason='they start an aggregator of their own')
EXAMPLES = os.path.join(PROJECT, 'examples')


def lines_of(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith('\n')]


def awaited(path, wanted, seconds=60, meanwhile=lambda: time.sleep(0.05)):
    """The messages in the file once one of them is `wanted`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = lines_of(path)
        if any(wanted(message) for message in found):
            return found
        meanwhile()
    raise AssertionError('nothing of what was wanted was profiled; found %s' % lines_of(path)[:3])


def run(example, folder, *arguments):
    return subprocess.run(
        [sys.executable, os.path.join(EXAMPLES, example), *arguments],
        env=profiled_alone(folder / 'run'),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def sampled(message):
    return any(node.get('instruction') for node in nodes(message) if node is not message)


def test_actions_of_ones_own(tmp_path):
    done = run('actions/report.py', tmp_path, '3')
    assert (done.returncode, done.stderr) == (0, '')
    found = awaited(tmp_path / 'report_prof.log', lambda message: message['action_type'] == 'report:build')
    begins = [node['message'] for message in found for node in nodes(message) if 'message' in node]
    started = [message for message in begins if message['action_status'] == 'started']
    assert {message['action_type'] for message in started} >= {'report:build', 'report:rows', 'report:fetch'}
    assert {message.get('customer') for message in started if message['action_type'] == 'report:build'} == {7}


@pytest.mark.parametrize(
    ('framework', 'name'),
    [
        ('flask', '/item/<int:n>'),
        ('bottle', '/item/<n:int>'),
        ('pyramid', '/item/{n}'),
        ('falcon', '/item/{n:int}'),
        ('django', '/item/<int:n>'),
    ],
)
def test_frameworks(tmp_path, framework, name):
    pytest.importorskip(framework)
    port = free_port()
    example = os.path.join(EXAMPLES, 'frameworks', framework + '_app.py')

    def ask():
        status, headers, body = get(port, '/item/7')
        assert (status, body, len(headers['x-task-uuid'])) == (200, b'item 7', 36)

    with server([sys.executable, example, str(port)], port, profiled_alone(tmp_path / 'run'), tmp_path) as process:
        found = awaited(tmp_path / (framework + '_prof.log'), lambda message: True, meanwhile=ask)
    assert {message['action_type'] for message in found} == {name}
    assert 'profilomatic:' not in process.output


def test_celery(tmp_path):
    pytest.importorskip('celery')
    env = dict(profiled_alone(tmp_path / 'run'), PYTHONDONTWRITEBYTECODE='1')
    env['PYTHONPATH'] += os.pathsep + os.path.join(EXAMPLES, 'celery')
    published = run('celery/shop_tasks.py', tmp_path)
    assert published.returncode == 0, published.stderr
    command = [sys.executable, '-m', 'celery', '-A', 'shop_tasks', 'worker', '-c', '1', '-l', 'WARNING']
    with open(str(tmp_path / 'log'), 'wb') as log:
        worker = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    try:
        found = awaited(
            tmp_path / 'celery_prof.log', lambda message: message['action_type'] == 'shop_tasks.charge', seconds=90
        )
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()
    tasks = {message['task_uuid'] for message in found if message['action_type'] == 'shop_tasks.charge'}
    assert tasks == {published.stdout.strip()}


def test_opentelemetry(tmp_path):
    pytest.importorskip('opentelemetry.sdk')
    done = run('opentelemetry/traced.py', tmp_path, '3')
    assert (done.returncode, done.stderr) == (0, '')
    for message in awaited(tmp_path / 'traced_prof.log', sampled):
        assert message['action_type'] == 'shop:checkout'
        assert message['trace_id'] == message['task_uuid'].replace('-', '') and len(message['span_id']) == 16
