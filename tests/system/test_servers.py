"""An unmodified application in real pre-forked servers under `profilomatic run`: every worker is seen, every request is
counted, the planted lines come first, and the server's life is its own."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import BUILD, VENV, Profiled, action, children, free_port, leftovers, load, name_of, planted, wait_for_port

SECONDS = 20
PATHS = ('/compute=2', '/wait=2', '/lock=2', '/fast=6', '/item/1234')


def gunicorn(port, *options):
    return [VENV / 'gunicorn', '-b', f'127.0.0.1:{port}', '-w', '4', '--log-level', 'warning', *options, 'app:app']


def pypi_uwsgi(port):
    return [VENV / 'uwsgi', '--http-socket', f'127.0.0.1:{port}', '--master', '-p', '4', '-w', 'app']


def debian_uwsgi(port):
    return ['/usr/bin/uwsgi', '--plugin', 'python3', *map(str, pypi_uwsgi(port)[1:])]


def built_for_debian():
    suffix = subprocess.run(
        ['/usr/bin/python3', '-c', 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return (BUILD / 'python' / 'profilomatic' / f'_runtime{suffix}').exists()


SERVERS = {
    'gunicorn-preload': (lambda port: gunicorn(port, '--preload'), signal.SIGTERM, 0),
    'gunicorn': (lambda port: gunicorn(port), signal.SIGTERM, 0),
    'gunicorn-gthread': (lambda port: gunicorn(port, '-k', 'gthread', '--threads', '4'), signal.SIGTERM, 0),
    'uwsgi-pypi': (pypi_uwsgi, signal.SIGINT, 0),
    'uwsgi-debian': (debian_uwsgi, signal.SIGINT, 0),
}


@pytest.mark.parametrize('server', SERVERS)
def test_every_worker_every_request_and_the_planted_lines(server, tmp_path):
    command, stop, status = SERVERS[server]
    if server == 'uwsgi-debian' and not built_for_debian():
        pytest.skip("the extension was not built for the version of Debian's own python3")
    port = free_port()
    # Lines are told for as long as they fit into the budget; how that is kept is for other tests.
    profiled = Profiled(tmp_path, command(port), options=['--max-overhead', '50%'])
    try:
        wait_for_port(port, profiled.process)
        result = load(port, SECONDS, 8, *PATHS)
        workers = profiled.workers()
        time.sleep(0.3)  # the last samples are drained
        contributors = {w['pid']: w['samples'] for pool in profiled.status()['pools'] for w in pool['workers']}
        seen_at = time.monotonic()
        returned = profiled.stop(stop)
        took = time.monotonic() - seen_at
    finally:
        if profiled.process.poll() is None:
            profiled.kill()
    assert result['failed'] == {}
    assert returned == status, profiled.stderr
    assert took < 20, 'the server ends within its own time'
    assert len(workers) == 4, 'a sampler thread in each worker'

    report = profiled.report
    assert report['workers'] == 4, profiled.stderr
    expected = {('/item/<int>' if path == '/item/1234' else path): n for path, n in result['answered'].items()}
    counted = {row['action_type']: row['count'] for row in report['actions']}
    assert counted == expected, 'exact counts, profiled or not'
    assert report['dropped'] == 0
    assert set(contributors) == set(workers) and all(contributors.values()), contributors

    file = 'app.py'
    for name, function, states in (
        ('compute', 'compute', {'cpu', 'runnable'}),
        ('wait', 'wait', {'blocked'}),
        ('lock', 'contend', {'blocked'}),
    ):
        row = action(report, f'/{name}')
        if server == 'uwsgi-debian' and name == 'lock':
            continue  # without threads nobody holds the lock between requests
        hot = [h for h in row['hot']][0]
        match = re.fullmatch(rf'{file}:{function}:(\d+)', hot['instruction'])
        assert match, (server, name, row['hot'][:3])
        line, wanted = int(match.group(1)), planted(name)
        # A loop's time is on its two lines; the planted one or the line of its `for`.
        assert line == wanted or (name == 'compute' and line == wanted - 1), (server, row['hot'][:3])
        assert hot['state'] in states, (server, row['hot'][:3])
    assert leftovers(profiled) == [], 'no shared memory is left behind'
    assert not [p for p in children(os.getpid()) if b'profilomatic' in b' '.join(name_of(p))], 'and no process'
    assert 'slow' in profiled.stderr or '/compute' in profiled.stderr, 'the text report went to stderr'


def test_exit_status_is_the_commands(tmp_path):
    for script, expected in (('raise SystemExit(7)', 7), ('import os; os._exit(3)', 3), ('pass', 0)):
        assert Profiled(tmp_path, [VENV / 'python', '-c', script]).wait() == expected
    died = Profiled(tmp_path, [VENV / 'python', '-c', 'import os, signal; os.kill(os.getpid(), signal.SIGUSR1)']).wait()
    assert died == -signal.SIGUSR1
    assert Profiled(tmp_path, ['/no/such/program']).wait() == 127


def test_signals_reach_the_server_and_a_reload_keeps_counting(tmp_path):
    port = free_port()
    profiled = Profiled(tmp_path, gunicorn(port))
    try:
        wait_for_port(port, profiled.process)
        first = load(port, 3, 4, '/fast')
        profiled.process.send_signal(signal.SIGHUP)  # gunicorn replaces its workers
        time.sleep(2)
        second = load(port, 3, 4, '/fast')
        assert profiled.stop() == 0, profiled.stderr
    finally:
        if profiled.process.poll() is None:
            profiled.kill()
    total = first['answered']['/fast'] + second['answered']['/fast']
    assert action(profiled.report, '/fast')['count'] == total
    assert profiled.report['workers'] > 4, 'old workers and new ones'


def test_wrapping_leaves_the_application_as_it_is(tmp_path):
    """Bodies, statuses and headers with and without `run` are the same, but for X-Task-UUID."""
    import http.client

    def answers(port):
        seen = []
        for path in ('/fast', '/nowhere', '/compute', '/fail'):
            connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
            connection.request('GET', path)
            response = connection.getresponse()
            headers = {k.lower(): v for k, v in response.getheaders() if k.lower() not in ('date',)}
            uuid = headers.pop('x-task-uuid', None)
            seen.append((path, response.status, headers, response.read(), uuid is not None))
            connection.close()
        return seen

    port = free_port()
    plain = subprocess.Popen([str(x) for x in gunicorn(port)], cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, plain)
        without = answers(port)
    finally:
        plain.terminate()
        plain.wait()
    port = free_port()
    profiled = Profiled(tmp_path, gunicorn(port))
    try:
        wait_for_port(port, profiled.process)
        with_ = answers(port)
        profiled.stop()
    finally:
        if profiled.process.poll() is None:
            profiled.kill()
    assert [a[:4] for a in without] == [a[:4] for a in with_]
    assert [a[4] for a in without] == [False] * 4
    assert [a[4] for a in with_] == [True, True, True, False], 'our header, except where the server itself answered'
    assert action(profiled.report, '/fail')['errors'] == 1
