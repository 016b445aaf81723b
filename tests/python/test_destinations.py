"""Delivery with real files, real sockets and real TLS, driven through tests/unit/drive_delivery.c."""

import http.server
import json
import os
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

BUILD = Path(os.environ.get('POM_BUILD', Path(__file__).resolve().parents[2] / 'build'))
DRIVER = BUILD / 'tests' / 'drive_delivery'


class Driver:
    def __init__(self):
        self.process = subprocess.Popen(
            [DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def tell(self, **command):
        self.process.stdin.write(json.dumps(command) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def add(self, **spec):
        return self.tell(add=spec)

    def put(self, destination, *numbers):
        for n in numbers:
            self.tell(put=[destination, json.dumps({'n': n})])

    def end(self):
        """Close its input: it stops as the aggregator does. Returns what it logged."""
        _, errors = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, errors
        return errors


@pytest.fixture
def driver():
    d = Driver()
    yield d
    if d.process.poll() is None:
        d.end()


class Server:
    """A REST server that remembers what it got; `script` holds the answers to give before it says 200."""

    def __init__(self, context=None, port=0):
        self.lines, self.keys, self.times, self.connections, self.script = [], [], [], 0, []
        self.headers, self.paths = [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def setup(self):
                outer.connections += 1
                super().setup()

            def do_POST(self):
                body = self.rfile.read(int(self.headers['Content-Length']))
                outer.times.append(time.monotonic())
                outer.keys.append(self.headers['Idempotency-Key'])
                outer.headers.append(dict(self.headers))
                outer.paths.append(self.path)
                status, headers, text = outer.script.pop(0) if outer.script else (200, {}, b'ok')
                if callable(status):
                    status = status()
                if status == 200:
                    outer.lines += [json.loads(line) for line in body.splitlines()]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header('Content-Length', str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # a handshake that a client breaks off is what some tests are about

        self.http = Quiet(('127.0.0.1', port), Handler)
        if context is not None:
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.scheme = 'https' if context is not None else 'http'
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def url(self, host='127.0.0.1'):
        return f'{self.scheme}://{host}:{self.port}/api/data'

    def numbers(self):
        return [line['n'] for line in self.lines]

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server():
    s = Server()
    yield s
    s.stop()


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.02)


def read(path):
    return [json.loads(line)['n'] for line in path.read_text().splitlines()]


# ---- files ----


def test_a_file_gets_every_line_in_order_and_is_appended_to(driver, tmp_path):
    out = tmp_path / 'out.log'
    out.write_text('{"n": -1}\n')
    d = driver.add(kind='file', path=str(out))
    driver.put(d, *range(500))
    assert driver.tell(sync=2000) is True
    assert read(out) == [-1, *range(500)]
    status = driver.tell(status=d)
    assert status == {
        'kind': 'file',
        'target': str(out),
        'delivered': 500,
        'failed': 0,
        'dropped': 0,
        'last_error': None,
    }


def test_a_new_file_is_readable_by_others_only_as_far_as_the_umask_allows(driver, tmp_path):
    out = tmp_path / 'out.log'
    driver.put(driver.add(kind='file', path=str(out)), 1)
    driver.tell(sync=2000)
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o644 & ~umask


def test_the_same_file_asked_for_twice_is_one_destination_but_two_pools_have_two(driver, tmp_path):
    spec = {'kind': 'file', 'path': str(tmp_path / 'out.log')}
    assert driver.add(**spec) == driver.add(**spec)
    assert driver.add(pool='other', **spec) != driver.add(**spec)


def test_a_renamed_or_removed_file_is_opened_afresh(driver, tmp_path):
    out, old = tmp_path / 'out.log', tmp_path / 'out.log.1'
    d = driver.add(kind='file', path=str(out))
    driver.put(d, 1)
    driver.tell(sync=2000)
    out.rename(old)
    driver.put(d, 2)
    driver.tell(sync=2000)
    assert (read(old), read(out)) == ([1], [2])
    out.unlink()
    driver.put(d, 3)
    driver.tell(sync=2000)
    assert read(out) == [3]


def test_a_full_disk_is_told_once_and_delivery_goes_on_when_there_is_room(tmp_path):
    driver = Driver()
    out = tmp_path / 'out.log'
    out.symlink_to('/dev/full')
    d = driver.add(kind='file', path=str(out))
    driver.put(d, 1)
    assert driver.tell(sync=2000) is True, 'a failed attempt ends the wait'
    driver.put(d, 2)
    driver.tell(sync=2000)
    assert 'No space left' in driver.tell(status=d)['last_error']
    out.unlink()
    driver.tell(sync=2000)
    assert read(out) == [1, 2]
    assert driver.tell(status=d)['delivered'] == 2
    log = driver.end()
    assert log.count('No space left') == 1 and log.count('works again') == 1


def test_a_path_without_a_folder_is_tried_again_until_the_folder_is_there(driver, tmp_path):
    out = tmp_path / 'later' / 'out.log'
    d = driver.add(kind='file', path=str(out))
    driver.put(d, 1)
    driver.tell(sync=2000)
    assert 'No such file' in driver.tell(status=d)['last_error']
    out.parent.mkdir()
    wait_for(out.exists)  # by itself, after a pause
    driver.tell(sync=2000)
    assert read(out) == [1]


def test_past_the_bound_the_oldest_lines_are_dropped_and_counted(driver, tmp_path):
    out = tmp_path / 'gone' / 'out.log'
    d = driver.add(kind='file', path=str(out))
    for n in range(200):
        driver.tell(put=[d, json.dumps({'n': n, 'x': 'x' * 100_000})])
    out.parent.mkdir()
    wait_for(out.exists)
    driver.tell(sync=2000)
    status = driver.tell(status=d)
    assert status['dropped'] > 0 and status['delivered'] + status['dropped'] == 200
    numbers = read(out)
    assert len(numbers) == status['delivered'] and numbers[-1] == 199 and numbers == sorted(set(numbers))


def test_without_flush_lines_are_gathered_for_a_moment(driver, tmp_path):
    out = tmp_path / 'out.log'
    d = driver.add(kind='file', path=str(out), flush=False)
    driver.put(d, 1, 2, 3)
    time.sleep(0.3)
    assert not out.exists()
    wait_for(out.exists, 3)
    driver.tell(sync=2000)
    assert read(out) == [1, 2, 3]


@pytest.mark.parametrize('target', ['folder', 'pipe'])
def test_what_is_no_regular_file_is_refused_and_holds_nothing_up(driver, tmp_path, target):
    odd, out = tmp_path / target, tmp_path / 'out.log'
    odd.mkdir() if target == 'folder' else os.mkfifo(odd)
    driver.put(driver.add(kind='file', path=str(odd)), 1)
    driver.put(driver.add(kind='file', path=str(out)), 2)
    driver.tell(sync=2000)
    assert read(out) == [2]


def test_a_request_of_another_uid_is_not_led_elsewhere_by_a_link(driver, tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'secret')
    d = driver.add(kind='file', path=str(tmp_path / 'link'), no_links=True)
    driver.put(d, 1)
    driver.tell(sync=2000)
    assert not (tmp_path / 'secret').exists()
    assert driver.tell(status=d)['last_error']


def test_what_was_put_before_a_removal_is_still_written(driver, tmp_path):
    out = tmp_path / 'out.log'
    d = driver.add(kind='file', path=str(out), flush=False)
    driver.put(d, 1, 2)
    driver.tell(remove=d)
    driver.put(d, 3)
    driver.tell(sync=2000)
    assert read(out) == [1, 2]
    assert driver.tell(status=d) is None


def test_the_end_of_the_service_writes_what_is_left(tmp_path):
    driver, out = Driver(), tmp_path / 'out.log'
    driver.put(driver.add(kind='file', path=str(out), flush=False), 1, 2)
    driver.end()
    assert read(out) == [1, 2]


def test_a_path_that_is_not_absolute_and_a_url_of_another_scheme_are_refused(driver):
    assert 'absolute' in driver.add(kind='file', path='out.log')['error']
    for url in ('ftp://host/x', 'file:///etc/passwd', 'host', ''):
        assert 'http' in driver.add(kind='rest', url=url)['error']


# ---- REST ----


def test_a_server_gets_all_lines_over_one_connection(driver, server):
    d = driver.add(kind='rest', url=server.url(), timeout=5)
    for n in range(5):
        driver.put(d, *range(n * 10, n * 10 + 10))
        assert driver.tell(sync=2000) is True
    assert server.numbers() == list(range(50))
    assert server.connections == 1
    assert set(server.paths) == {'/api/data'}
    assert server.headers[0]['Content-Type'] == 'application/json'
    assert 'Expect' not in server.headers[0]
    assert driver.tell(status=d) == {
        'kind': 'rest',
        'target': server.url(),
        'delivered': 50,
        'failed': 0,
        'dropped': 0,
        'last_error': None,
    }


def test_lines_are_gathered_into_few_requests(driver, server):
    d = driver.add(kind='rest', url=server.url(), timeout=5)
    driver.put(d, *range(300))
    wait_for(lambda: len(server.lines) == 300)
    assert len(server.keys) <= 10


@pytest.mark.parametrize('status', [408, 429, 500, 503])
def test_a_passing_failure_is_tried_again_with_the_same_key(driver, server, status):
    server.script = [(status, {}, b'busy')] * 2
    d = driver.add(kind='rest', url=server.url(), timeout=5)
    driver.put(d, 1, 2)
    wait_for(lambda: len(server.lines) == 2)
    assert server.numbers() == [1, 2]
    assert len(server.keys) == 3 and len(set(server.keys)) == 1
    assert f'HTTP {status}: busy' in driver.tell(status=d)['last_error']
    driver.put(d, 3)
    driver.tell(sync=2000)
    assert server.keys[-1] != server.keys[0]


def test_retry_after_is_honoured_also_by_a_sync(driver, server):
    server.script = [(429, {'Retry-After': '2'}, b'')]
    d = driver.add(kind='rest', url=server.url(), timeout=5)
    driver.put(d, 1)
    wait_for(lambda: len(server.times) == 1)
    time.sleep(0.2)
    assert driver.tell(sync=2000) is True
    wait_for(lambda: len(server.lines) == 1)
    assert server.times[1] - server.times[0] >= 2


def test_another_4xx_or_a_redirect_is_given_up_and_counted(driver, server):
    server.script = [(400, {}, b'no \x1b[31msuch\r\nthing'), (302, {'Location': '/elsewhere'}, b'')]
    d = driver.add(kind='rest', url=server.url(), timeout=5)
    for n in (1, 2, 3):
        driver.put(d, n)
        driver.tell(sync=2000)
    assert server.numbers() == [3]
    status = driver.tell(status=d)
    assert (status['delivered'], status['failed']) == (1, 2)
    assert set(server.paths) == {'/api/data'}
    assert '\x1b' not in status['last_error']


def test_a_server_that_is_away_gets_its_lines_when_it_comes_back(driver):
    gone = Server()
    port = gone.port
    gone.stop()
    d = driver.add(kind='rest', url=f'http://127.0.0.1:{port}/api/data', timeout=2)
    driver.put(d, 1, 2)
    assert driver.tell(sync=3000) is True, 'one failed attempt ends the wait'
    assert driver.tell(status=d)['delivered'] == 0
    back = Server(port=port)
    try:
        wait_for(lambda: back.numbers() == [1, 2])
    finally:
        back.stop()


def test_a_server_that_never_answers_holds_up_neither_the_caller_nor_a_file(driver, server, tmp_path):
    release = threading.Event()
    server.script = [(lambda: release.wait(20) and 503, {}, b'')]
    slow = driver.add(kind='rest', url=server.url(), timeout=1)
    out = tmp_path / 'out.log'
    fast = driver.add(kind='file', path=str(out))
    driver.put(slow, 1)
    time.sleep(0.3)
    begin = time.monotonic()
    driver.put(slow, 2)
    driver.put(fast, 3)
    assert time.monotonic() - begin < 10, 'a put does not wait for a server'
    wait_for(out.exists, 2)
    assert driver.tell(sync=100) is False, 'not through yet'
    wait_for(lambda: driver.tell(status=slow)['last_error'], 5)  # the time-out
    release.set()
    wait_for(lambda: server.numbers() == [1, 2])


def test_a_password_in_a_url_is_used_but_not_shown(driver, server):
    d = driver.add(kind='rest', url=f'http://me:secret@127.0.0.1:{server.port}/api/data', timeout=5)
    driver.put(d, 1)
    driver.tell(sync=2000)
    assert server.headers[0]['Authorization'].startswith('Basic ')
    assert 'secret' not in json.dumps(driver.tell(status=d))


# ---- TLS, with a private certificate authority ----


@pytest.fixture(scope='session')
def authority(tmp_path_factory):
    """A CA, a server certificate for localhost, and one for a client."""
    folder = tmp_path_factory.mktemp('ca')

    def openssl(*arguments):
        subprocess.run(['openssl', *arguments], cwd=folder, check=True, capture_output=True)

    openssl(
        'req',
        '-x509',
        '-newkey',
        'rsa:2048',
        '-nodes',
        '-keyout',
        'ca.key',
        '-out',
        'ca.pem',
        '-days',
        '2',
        '-subj',
        '/CN=private test authority',
    )
    for name in ('server', 'client'):
        openssl(
            'req',
            '-newkey',
            'rsa:2048',
            '-nodes',
            '-keyout',
            f'{name}.key',
            '-out',
            f'{name}.csr',
            '-subj',
            f'/CN={name}',
        )
        (folder / 'names').write_text('subjectAltName=DNS:localhost\n')
        openssl(
            'x509',
            '-req',
            '-in',
            f'{name}.csr',
            '-CA',
            'ca.pem',
            '-CAkey',
            'ca.key',
            '-CAcreateserial',
            '-out',
            f'{name}.pem',
            '-days',
            '2',
            '-extfile',
            'names',
        )
    return folder


@pytest.fixture
def tls_server(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / 'server.pem', authority / 'server.key')
    s = Server(context)
    yield s
    s.stop()


def deliver_one(driver, **spec):
    d = driver.add(kind='rest', timeout=5, **spec)
    driver.put(d, 1)
    driver.tell(sync=5000)
    return driver.tell(status=d)


def test_https_with_a_private_authority_is_verified_and_delivered(driver, authority, tls_server):
    status = deliver_one(driver, url=tls_server.url('localhost'), ca_pem=(authority / 'ca.pem').read_text())
    assert (status['delivered'], status['last_error']) == (1, None)
    assert tls_server.numbers() == [1]


def test_https_with_an_unknown_authority_is_refused(driver, tls_server):
    status = deliver_one(driver, url=tls_server.url('localhost'))
    assert status['delivered'] == 0 and 'certificate' in status['last_error']
    assert tls_server.numbers() == []


def test_https_with_another_host_name_is_refused_unless_that_is_allowed(driver, authority, tls_server):
    pem = (authority / 'ca.pem').read_text()
    assert deliver_one(driver, url=tls_server.url('127.0.0.1'), ca_pem=pem)['delivered'] == 0
    assert deliver_one(driver, url=tls_server.url('127.0.0.1'), ca_pem=pem, check_hostname=False)['delivered'] == 1


def test_verification_can_be_switched_off_by_name(driver, tls_server):
    assert deliver_one(driver, url=tls_server.url(), verify=False, check_hostname=False)['delivered'] == 1


def test_a_client_certificate_is_shown(driver, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / 'server.pem', authority / 'server.key')
    context.load_verify_locations(authority / 'ca.pem')
    context.verify_mode = ssl.CERT_REQUIRED
    s = Server(context)
    try:
        spec = {'url': s.url('localhost'), 'ca_pem': (authority / 'ca.pem').read_text()}
        assert deliver_one(driver, **spec)['delivered'] == 0
        assert (
            deliver_one(driver, certfile=str(authority / 'client.pem'), keyfile=str(authority / 'client.key'), **spec)[
                'delivered'
            ]
            == 1
        )
    finally:
        s.stop()
