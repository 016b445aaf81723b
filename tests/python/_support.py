"""What the tests of the Python package share: running scripts and servers with the built package."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import profilomatic
import pytest

PACKAGE = os.path.dirname(os.path.abspath(profilomatic.__file__))
PYTHON_DIR = os.path.dirname(PACKAGE)
SITE = os.path.join(PACKAGE, '_site')
PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.join(os.path.dirname(PYTHON_DIR), 'bin')
# For scripts that import profilomatic and time.
ADMITTED = """
    def admitted():
        '''Wait until the aggregator admits actions.'''
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with profilomatic.action('probe') as action:
                pass
            if action.profiled:
                return True
            time.sleep(0.02)
        return False
"""


#: Where the package is the one in pure Python, stacks are not read in every interpreter.
NATIVE = os.environ.get('PROFILOMATIC_IMPLEMENTATION') != 'python'
needs_stacks = pytest.mark.skipif(
    not NATIVE and sys.implementation.name == 'cpython' and sys.version_info[:2] == (3, 11),
    reason='in pure Python no stacks are read on CPython 3.11',
)
needs_native = pytest.mark.skipif(not NATIVE, reason='what only the extension does')


def environment(directory, profiled=True, extra_path=(), **more):
    """The environment that `profilomatic run` gives its command (profiled), or one with the package only."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(('PROFILOMATIC_', 'PYTHON'))}
    known['PYTHONPATH'] = os.pathsep.join(([SITE] if profiled else []) + [PYTHON_DIR] + [str(p) for p in extra_path])
    known['PROFILOMATIC_DIR'] = str(directory)
    known['PROFILOMATIC_SPOOL'] = '%s-spool' % directory
    if not NATIVE:
        known['PROFILOMATIC_IMPLEMENTATION'] = 'python'
    known['PROFILOMATIC_RUN'] = '1'  # a test that wants an aggregator starts it
    if profiled:
        known['PROFILOMATIC_ENABLED'] = '1'
    known.update(more)
    return known


def run(script, directory, python=sys.executable, arguments=(), **options):
    """Run a script to its end; CompletedProcess with text."""
    cwd = options.pop('cwd', None)
    return subprocess.run(
        [python, '-c', textwrap.dedent(script), *arguments],
        env=environment(directory, **options),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
    )


def arrived(messages, task_uuid, seconds=60):
    """The message of that task; waits for it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for message in list(messages):
            if message['task_uuid'] == task_uuid:
                return message
        time.sleep(0.02)
    raise AssertionError(f'no message of {task_uuid} among {len(messages)}')


def requests_of(directory):
    """The request files of all pools under a runtime directory: path -> content."""
    found = {}
    for folder, _, files in os.walk(str(directory)):
        if os.path.basename(folder) == 'requests':
            for name in files:
                path = os.path.join(folder, name)
                with open(path) as file:
                    found[path] = json.load(file)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def get(port, path='/', timeout=30):
    """(status, headers with lower-case names, body) of one GET."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=timeout)
    try:
        connection.request('GET', path)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def get_while_it_reloads(port):
    """As `get`, however often the connection has to be made anew while the server reloads."""
    until = time.monotonic() + 30
    while True:
        try:
            return get(port)
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.02)


def _stop(process, signal_number):
    """A uWSGI worker that has served nothing yet may lose the one signal by which its master ends it (once in some 50
    times, and just as often without us): after a while the signal goes to the workers as well."""
    process.send_signal(signal_number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(8)
        return
    os.killpg(process.pid, signal_number)


@contextlib.contextmanager
def server(command, port, env, cwd, stop=signal.SIGTERM):
    """Run a server for the time of the block; gives an object with `output` and `status` filled in at its end."""
    process = subprocess.Popen(
        command, env=env, cwd=str(cwd), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    process.output = ''
    process.status = None
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(('127.0.0.1', port), timeout=1).close()
                break
            time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            _stop(process, stop)
        try:
            process.output = process.communicate(timeout=60)[0].decode(errors='replace')
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.status = process.returncode


@contextlib.contextmanager
def aggregator(directory):
    """The real aggregator, serving `directory` for the time of the block."""
    if not NATIVE:
        pytest.skip('the implementation in pure Python has no aggregator')
    program = os.path.join(BIN, 'profilomatic-aggregator')
    os.makedirs(str(directory), mode=0o700, exist_ok=True)
    process = subprocess.Popen([program, '--directory', str(directory)], stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 30
        while not os.path.exists(os.path.join(str(directory), 'control')):
            assert process.poll() is None and time.monotonic() < until, 'the aggregator did not come up'
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def ask(directory, **request):
    """One request to the aggregator of `directory`, and its reply."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(os.path.join(str(directory), 'control'))
        connection.sendall(json.dumps(request).encode() + b'\n')
        reply = b''
        while not reply.endswith(b'\n'):
            data = connection.recv(65536)
            assert data, 'the aggregator closed the connection'
            reply += data
        return json.loads(reply)


def exported(directory):
    """The report of all that was done under `directory`, which an aggregator serves."""
    command = [os.path.join(BIN, 'profilomatic'), 'export', '-F', 'json', '--directory', str(directory)]
    until = time.monotonic() + 30
    while True:
        done = subprocess.run(command, capture_output=True, text=True)
        if 'try again' not in done.stderr or time.monotonic() > until:  # it says so where it is short of time
            break
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def uwsgis():
    """The uWSGI servers that can load this interpreter's version: the command to start each, by name."""
    found = {}
    beside = os.path.join(os.path.dirname(sys.executable), 'uwsgi')
    if os.access(beside, os.X_OK):
        found['pypi'] = [beside]
    debian = '/usr/bin/uwsgi'
    if os.access(debian, os.X_OK) and shutil.which('/usr/bin/python3'):
        version = subprocess.run(
            ['/usr/bin/python3', '-c', 'import sys; print(*sys.version_info[:2])'], capture_output=True, text=True
        ).stdout.split()
        if version == [str(part) for part in sys.version_info[:2]]:
            found['debian'] = [debian, '--plugin', 'python3']
    return found
