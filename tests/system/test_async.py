"""A thousand requests at once, whose tasks, greenlets or threads take turns: what one endpoint does is never found in
the other's profile."""

import json
import signal
import subprocess
import sys
import urllib.request

import pytest
from harness import HERE, VENV, Profiled, action, free_port, leftovers, wait_for_port

SECONDS = 3
CLIENTS = 1000
GUNICORN = [VENV / 'gunicorn', '--log-level', 'warning', '--backlog', '2048', '--worker-connections', '2000']


def gunicorn(port, *options):
    return [*GUNICORN, '-b', f'127.0.0.1:{port}', *options]


def uwsgi(port, *options):
    return [VENV / 'uwsgi', '--http-socket', f'127.0.0.1:{port}', '--listen', '1024', '--disable-logging', *options]


SERVERS = {
    'gunicorn-uvicorn': lambda port: gunicorn(port, '-k', 'uvicorn_worker.UvicornWorker', '-w', '2', 'async_app:asgi'),
    'gunicorn-gevent': lambda port: gunicorn(port, '-k', 'gevent', 'async_app:wsgi'),
    'uwsgi-gevent': lambda port: uwsgi(port, '--gevent', '2000', '--gevent-monkey-patch', '-w', 'async_app:wsgi'),
    'gunicorn-gthread': lambda port: gunicorn(port, '-k', 'gthread', '--threads', str(CLIENTS), 'async_app:wsgi'),
}
#: How many samples may be in the wrong action: none where each request has its thread.
WRONG = {'gunicorn-gthread': 0}


def samples_of(report, row, function):
    """Samples of the row with the function on their stack, leaf or not."""
    columns = row['tree']['columns']
    at = {name: columns.index(name) for name in ('instruction', 'parent', 'samples')}
    inside, found = [], 0
    for node in row['tree']['nodes']:
        name = report['instructions'][node[at['instruction']]].split(':')
        below = inside[node[at['parent']]] if node[at['parent']] >= 0 else False
        inside.append(below or function in name)
        found += node[at['samples']] if inside[-1] else 0
    return found


def workers_say(port, workers):
    """What each worker says of itself, by its segment; asked until all have answered."""
    found = {}
    for _ in range(50 * workers):
        with urllib.request.urlopen(f'http://127.0.0.1:{port}/status', timeout=30) as answer:
            said = json.load(answer)
        found[said['segment']] = said
        if len(found) == workers:
            break
    return found.values()


@pytest.mark.parametrize('server', SERVERS)
def test_a_thousand_requests_at_once_are_told_apart(server, tmp_path):
    port = free_port()
    command = SERVERS[server](port)
    if not command[0].exists():
        pytest.skip(f'there is no {command[0].name}')
    profiled = Profiled(tmp_path, command, ['--max-overhead', '50%', '--interval', '0.002', '--max-actions', '0'])
    try:
        wait_for_port(port, profiled.process)
        out = subprocess.run(
            [sys.executable, str(HERE / 'crowd.py'), str(port), str(SECONDS), str(CLIENTS), '/a', '/b'],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        said = workers_say(port, 2 if '-w' in command else 1)
        profiled.stop(signal.SIGINT if server.startswith('uwsgi') else signal.SIGTERM)
    finally:
        profiled.kill()
    report, counts = profiled.report, json.loads(out)
    rows = {name: action(report, name) for name in ('/a', '/b')}
    assert counts['failed'] == 0 and rows['/a']['count'] + rows['/b']['count'] == counts['answered'], counts
    right = samples_of(report, rows['/a'], 'fa') + samples_of(report, rows['/b'], 'fb')
    wrong = samples_of(report, rows['/a'], 'fb') + samples_of(report, rows['/b'], 'fa')
    assert right > 60, 'there is something to be told apart'
    assert wrong <= WRONG.get(server, 0.0005 * right), (wrong, right)
    for one in said:
        assert one['unattributed'] <= 0.01 * one['samples'], one
    if server != 'gunicorn-gthread':  # whose threads wait for the GIL as well
        assert all(row['blocked'] > 0.8 * row['wall'] for row in rows.values()), rows
    assert not leftovers(profiled)
