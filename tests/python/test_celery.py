"""Celery's tasks are actions, in the process that runs them. A real worker with a prefork pool, over a real Redis.

Over the transport that is made of files a worker sometimes reads a message that is half written, and ends."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest
from _support import aggregator, ask, environment, needs_native

pytest.importorskip('celery')

APPLICATION = """
    import os, celery, profilomatic
    app = celery.Celery('shop', broker=%(redis)r, backend=%(redis)r)
    app.conf.worker_hijack_root_logger = False

    def fa(n):
        return sum(i * i for i in range(n))

    @app.task
    def charge(n):
        '''Its text.'''
        fa(n)
        return [profilomatic.current_task_uuid(), os.getpid()]

    @app.task
    def fails():
        raise KeyError('planted')

    @app.task(bind=True, max_retries=1)
    def retries(self):
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return profilomatic.current_task_uuid()
"""


@contextlib.contextmanager
def over_redis():
    """A server of its own at a socket in a folder of its own."""
    if shutil.which('redis-server') is None or importlib.util.find_spec('redis') is None:
        pytest.skip('the redis-server of the system, or its client for Python, is not installed')
    with tempfile.TemporaryDirectory(prefix='pom-') as folder:
        socket = os.path.join(folder, 'redis')
        command = ['redis-server', '--port', '0', '--unixsocket', socket, '--save', '', '--dir', folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 30
            while not os.path.exists(socket):
                assert process.poll() is None and time.monotonic() < until, 'Redis did not come up'
                time.sleep(0.02)
            yield 'redis+socket://' + socket
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def worker(shop, env):
    command = [sys.executable, '-m', 'celery', '-A', 'shop', 'worker', '--pool', 'prefork', '-c', '2', '-l', 'WARNING']
    command += ['--without-gossip', '--without-mingle', '--without-heartbeat']
    with open(str(shop / 'log'), 'wb') as log:
        process = subprocess.Popen(command, env=env, cwd=str(shop), stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


PUBLISH = """
    import profilomatic, shop, sys, time
    from celery import group
    if len(sys.argv) > 1:
        profilomatic.add_destination(lambda message: None)
        profilomatic.celery.patch()
    published = [shop.charge.delay(20_000) for _ in range(10)] + [shop.retries.delay()]
    with profilomatic.action('page') as page:
        inside = shop.charge.delay(1)
    failing = shop.fails.delay()
    for result in published[:-1]:
        uuid, pid = result.get(timeout=60)
        print(uuid == result.id, pid)
    print(published[-1].get(timeout=60) == published[-1].id)
    print(inside.get(timeout=60)[0] == page.task_uuid)
    try:
        failing.get(timeout=60)
    except KeyError as error:
        print(error)
"""


@needs_native
@pytest.mark.parametrize('zero_code', [True, False])
def test_tasks_of_a_prefork_pool_are_actions_of_their_name(tmp_path, zero_code):
    with over_redis() as redis:
        (tmp_path / 'shop.py').write_text(textwrap.dedent(APPLICATION % {'redis': redis}))
        run_tasks(tmp_path, zero_code)


def run_tasks(shop, zero_code):
    env = environment(shop / 'run', profiled=zero_code, extra_path=[shop], PROFILOMATIC_SOURCE_NAME='tasks')
    if not zero_code:
        with open(str(shop / 'shop.py'), 'a') as file:
            file.write('profilomatic.add_destination(lambda message: None)\nprofilomatic.celery.patch()\n')
    with aggregator(shop / 'run'):
        with worker(shop, env) as process:
            script = shop / 'publish.py'
            script.write_text(textwrap.dedent(PUBLISH))
            done = subprocess.run(
                [sys.executable, str(script)],
                env=dict(env, PROFILOMATIC_SOURCE_NAME='publisher'),
                cwd=str(shop),
                capture_output=True,
                text=True,
                timeout=120,
            )
        log = (shop / 'log').read_text()
        assert process.returncode == 0, log
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines[:10]] == ['True'] * 10, (done.stdout, done.stderr, log)
        assert {int(line.split()[1]) for line in lines[:10]}.isdisjoint({process.pid}), 'run by the pool'
        assert lines[10:] == ['True', 'True', "'planted'"], (done.stdout, done.stderr)
        counts = {}
        until = time.monotonic() + 30
        while time.monotonic() < until and sum(count for count, _ in counts.values()) < 14:
            report = ask(shop / 'run', verb='report', source='tasks', seconds=None, action=None, limit=9, stacks=False)
            counts = {a['action_type']: (a['count'], a['errors']) for a in report['actions']}
    assert counts == {'shop.charge': (11, 0), 'shop.retries': (2, 0), 'shop.fails': (1, 1)}
    assert 'profilomatic:' not in log


def in_process(script):
    """Tasks that are run eagerly, in one process without a broker."""
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script)],
        env={**os.environ, 'PROFILOMATIC_RUN': '1'},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout


EAGER = """
    import celery, profilomatic, sys
    from profilomatic import _guard
    profilomatic.add_destination(lambda message: None)
    app = celery.Celery('eager')
    app.conf.task_always_eager = True
    current = profilomatic.current_task_uuid
    @app.task
    def inner():
        return current()
    @app.task
    def outer():
        return [current(), inner.delay().get(disable_sync_subtasks=False), current()]
"""


def test_eager_tasks_nest_and_unpatching_ends_it():
    out = in_process(
        EAGER
        + """
    assert set(outer.delay().get()) == {None}
    profilomatic.celery.patch()
    profilomatic.celery.patch()
    uuids = outer.delay().get()
    assert len(set(uuids)) == 1 and None not in uuids and current() is None
    with profilomatic.action('page') as page:
        assert set(outer.delay().get()) == {page.task_uuid}
    profilomatic.celery.unpatch()
    profilomatic.celery.unpatch()
    assert set(outer.delay().get()) == {None}
    print('fine')
    """
    )
    assert out == 'fine\n'


def test_a_bug_in_a_hook_does_not_reach_the_task():
    out = in_process(
        EAGER
        + """
    class Broken:
        def __getattr__(self, name):
            raise SystemError('planted')
    import io, profilomatic.celery
    profilomatic.celery.patch()
    profilomatic.celery._runtime = Broken()
    sys.stderr, told = io.StringIO(), sys.stderr
    assert outer.delay().get() == [None, None, None]
    sys.stderr, told = told, sys.stderr.getvalue()
    assert told.count('planted') == 1, told   # nothing is published where tasks are eager
    assert _guard.failures['the begin of a Celery task'] == 2, _guard.failures
    print('fine')
    """
    )
    assert out == 'fine\n'
