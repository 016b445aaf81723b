"""Whatever of ours is missing, full or killed: the application serves on, one line says what is off, and what was
merged is kept."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from harness import (
    BUILD,
    HERE,
    OWN_GROUP,
    VENV,
    Profiled,
    action,
    free_port,
    load,
    start_load,
    wait_for_port,
    wait_until,
)
from test_servers import gunicorn


def ours(text):
    return [line for line in text.splitlines() if line.startswith('profilomatic: ')]


def serve_embedded(tmp_path, environ):
    """gunicorn with profiling asked for in code, so that workers start a private aggregator; loaded and stopped."""
    script = tmp_path / 'embedded.py'
    script.write_text(
        """
import profilomatic
from app import application as inner
profilomatic.add_destination(profilomatic.file_destination(%r))
application = profilomatic.wsgi.wrap(inner)
"""
        % str(tmp_path / 'out.jsonl')
    )
    port = free_port()
    command = gunicorn(port, '--pythonpath', str(tmp_path))[:-1] + ['embedded:application']
    err = tmp_path / 'err.txt'
    with open(err, 'wb') as out:
        process = subprocess.Popen(
            [str(x) for x in command],
            cwd=HERE,
            stderr=out,
            env=dict(os.environ, PYTHONPATH=str(BUILD / 'python'), **environ),
            **OWN_GROUP,
        )
    try:
        wait_for_port(port, process)
        result = load(port, 3, 4, '/fast', '/compute')
        time.sleep(3.5)
        again = load(port, 1, 4, '/fast')
    finally:
        process.terminate()
        status = process.wait(60)
    assert status == 0
    assert result['failed'] == {} and again['failed'] == {}
    return err.read_text()


def test_without_the_aggregators_binary_the_application_serves_on(tmp_path):
    said = ours(
        serve_embedded(
            tmp_path, {'PROFILOMATIC_DIR': str(tmp_path / 'rt'), 'PROFILOMATIC_AGGREGATOR': '/no/such/binary'}
        )
    )
    assert len(said) == 1, said
    assert '/no/such/binary' in said[0] and 'runs on' in said[0]


def test_with_an_unwritable_directory_the_application_serves_on(tmp_path):
    said = ours(serve_embedded(tmp_path, {'PROFILOMATIC_DIR': '/proc/nowhere'}))
    assert len(said) == 1, said
    assert '/proc/nowhere' in said[0] and 'runs on' in said[0]


def test_with_shared_memory_full_the_application_serves_on(tmp_path):
    """A tmpfs of 64 KiB in a mount namespace of its own stands for a full /dev/shm."""
    small = tmp_path / 'small'
    small.mkdir()
    made = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'pom-test', str(small)], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f'cannot mount a small tmpfs: {made.stderr.strip()}')
    try:
        said = ours(serve_embedded(tmp_path, {'PROFILOMATIC_DIR': str(small / 'rt')}))
    finally:
        time.sleep(0.5)
        subprocess.run(['umount', '-l', str(small)], check=True)
    assert len(said) == 1, said
    assert 'space' in said[0] and 'runs on' in said[0]


def test_run_without_the_aggregators_binary_runs_the_command(tmp_path):
    profiled = Profiled(
        tmp_path,
        [VENV / 'python', '-c', 'print("hello"); raise SystemExit(5)'],
        env={'PROFILOMATIC_AGGREGATOR': '/no/such/binary'},
    )
    assert profiled.wait() == 5
    assert profiled.stdout_path.read_text() == 'hello\n'
    assert len(ours(profiled.stderr)) == 1, profiled.stderr


def test_kill_9_of_a_worker_and_of_the_aggregator_under_load(tmp_path):
    port = free_port()
    profiled = Profiled(
        tmp_path, gunicorn(port), options=['--max-actions', '60']
    )  # room for the page asked for briefly
    try:
        wait_for_port(port, profiled.process)
        loader = start_load(port, 14, 6, '/compute', '/fast=3')
        wait_until(lambda: len(profiled.workers()) == 4, lambda: profiled.stderr)
        first = profiled.aggregator()
        before = load(port, 2, 2, '/wait')['answered']['/wait']  # a page that is asked for only before the kill
        time.sleep(2.5)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: profiled.aggregators() not in ([], [first]), lambda: 'a new one takes over')
        victim = profiled.workers()[0]
        os.kill(victim, signal.SIGKILL)
        result = json.loads(loader.communicate(timeout=60)[0])
        again = start_load(port, 60, 6, '/replaced')
        try:
            wait_until(
                lambda: len(set(profiled.workers()) - {victim}) == 4,
                lambda: 'gunicorn replaced it, and the new one is profiled too',
            )
        finally:
            again.kill()
            again.wait()
        assert profiled.stop() == 0, profiled.stderr
    finally:
        if profiled.process.poll() is None:
            profiled.kill()
    report = profiled.report
    assert action(report, '/wait')['count'] == before, 'what was merged before the kill is kept'
    assert action(report, '/wait')['profiled'] > 0 and action(report, '/wait')['hot'], 'with its samples'
    answered = result['answered']
    for path in ('/compute', '/fast'):
        count = action(report, path)['count']
        # An answer may have left the killed worker before its action ended, and an action may have ended before its
        # answer was read: one request each way at most.
        assert abs(count - answered[path]) <= 1, (path, answered[path], count)
    assert sum(result['failed'].values()) <= 6, result['failed']
    assert report['workers'] >= 5


def test_embedded_aggregator_starts_serves_and_goes(tmp_path):
    out = tmp_path / 'out.jsonl'
    directory = tmp_path / 'rt'
    said = serve_embedded(tmp_path, {'PROFILOMATIC_DIR': str(directory)})
    assert ours(said) == [], said
    deadline = time.monotonic() + 60
    while directory.exists() and any(directory.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not directory.exists() or sorted(p.name for p in directory.iterdir()) in ([], ['aggregator.log']), (
        'it cleans up behind itself'
    )
    assert out.exists() and out.stat().st_size > 0
    assert re.search(r'"action_type": ?"/compute"', out.read_text())
