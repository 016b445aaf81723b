"""The README's Python examples run as written: cut out of it, put into a file, started, and looked at."""

import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from authority import make_authority
from harness import BUILD, ROOT, free_port, wait_for_port


def example(name):
    text = (ROOT / 'README.md').read_text()
    match = re.search(rf'<!-- example: {name} -->\n```python\n(.*?)```', text, re.DOTALL)
    assert match, f'the README has no example {name}'
    return match.group(1)


@pytest.fixture
def place(tmp_path):
    """A folder to run in, and a runtime directory in shared memory that is gone afterwards."""
    directory = f'/dev/shm/pom-readme-{os.getpid()}-{tmp_path.name}'
    env = dict(os.environ, PYTHONPATH=str(BUILD / 'python'), PROFILOMATIC_DIR=directory)
    yield tmp_path, env
    deadline = time.monotonic() + 60
    while left(directory) - {'aggregator.log'} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left(directory) <= {'aggregator.log'}, (
        'the private aggregator goes and leaves nothing but what it had to say'
    )
    shutil.rmtree(directory, ignore_errors=True)


def left(directory):
    return set(os.listdir(directory)) if os.path.exists(directory) else set()


def text_of(path):
    return path.read_text() if path.exists() else ''


def run_until(condition, run):
    """Run an example until that holds: it may be over before its aggregator has come, if the machine is busy."""
    for _ in range(6):
        run()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.1)
    raise AssertionError('nothing has come of it')


def messages(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_wsgi_example(place):
    folder, env = place
    port = free_port()
    (folder / 'example.py').write_text(example('wsgi').replace('8000', str(port)))
    process = subprocess.Popen([sys.executable, 'example.py'], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_port(port, process)
        until = time.monotonic() + 60
        while 'example.py:application' not in text_of(folder / 'profile.log') and time.monotonic() < until:
            with urllib.request.urlopen(f'http://127.0.0.1:{port}/sum') as answer:
                assert answer.headers['X-Task-UUID'] and answer.read() == b'8999955000050000'
        live = subprocess.run(
            [str(BUILD / 'bin' / 'profilomatic'), 'report', '--json'], env=env, capture_output=True, text=True
        )
        status = subprocess.run(
            [str(BUILD / 'bin' / 'profilomatic'), 'status'], env=env, capture_output=True, text=True
        )
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert json.loads(live.stdout)['actions'][0]['action_type'] == '/sum', live.stderr
    assert status.returncode == 0 and status.stdout
    found = messages(folder / 'profile.log')
    assert found and all(m['action_type'] == '/sum' for m in found)
    assert any('example.py:application' in json.dumps(m) for m in found)


def test_the_eliot_example(place):
    folder, env = place
    (folder / 'example.py').write_text(example('eliot'))
    logged = set()

    def run():
        done = subprocess.run(
            [sys.executable, 'example.py'], cwd=folder, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and done.stderr == ''
        logged.update(m['task_uuid'] for m in messages(folder / 'eliot.log'))

    run_until((folder / 'eliot-profile.log').exists, run)
    found = messages(folder / 'eliot-profile.log')
    assert found and all(m['action_type'] == 'shop:charge' for m in found)
    assert {m['task_uuid'] for m in found} <= logged, "a profile's task is one of the application's own log"
    from eliot.parse import Parser

    with open(folder / 'eliot.log') as log:
        tasks = list(Parser.parse_stream(json.loads(line) for line in log))
    assert len(tasks) == 30 and all(task.is_complete() for task in tasks), "the application's own log stays complete"


class Collector(BaseHTTPRequestHandler):
    received = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.received.append((self.path, body))
        self.send_response(200)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *args):
        pass


class Server(HTTPServer):
    connections = 0  # that were tried: one whose handshake fails too

    def get_request(self):
        Server.connections += 1
        return super().get_request()


@contextlib.contextmanager
def https_server(folder):
    server = Server(('127.0.0.1', 0), Collector)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / 'server.pem', folder / 'server.key')
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Collector.received, Server.connections = [], 0
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def run_rest_example(folder, env, port):
    (folder / 'example.py').write_text(example('rest').replace('8443', str(port)))
    done = subprocess.run(
        [sys.executable, 'example.py'], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == '', done.stderr


def test_the_rest_example_over_verified_tls(place):
    folder, env = place
    make_authority(folder)
    with https_server(folder) as port:
        run_until(lambda: Collector.received, lambda: run_rest_example(folder, env, port))
        received = list(Collector.received)
    assert received and {path for path, _ in received} == {'/api/data'}
    lines = [json.loads(line) for _, body in received for line in body.splitlines()]
    assert lines and all(m['action_type'] == 'report:build' for m in lines)


def test_a_server_with_another_authority_gets_nothing(place):
    folder, env = place
    make_authority(folder)
    other = folder / 'other'
    other.mkdir()
    make_authority(other)
    with https_server(other) as port:  # its certificate is not signed by ca.pem of the example
        run_until(lambda: Server.connections > 0, lambda: run_rest_example(folder, env, port))
        time.sleep(2)
        assert Collector.received == []
