"""Delivery with real files, real sockets and real TLS, driven through tests/unit/drive_delivery.c."""

import json
import os
import ssl
import threading
import time

import pytest
from _delivery import Driver, Server, wait_for
from authority import make_authority


@pytest.fixture
def driver():
    d = Driver()
    yield d
    if d.process.poll() is None:
        d.end()


@pytest.fixture
def server():
    s = Server()
    yield s
    s.stop()


def read(path):
    return [json.loads(line)['n'] for line in path.read_text().splitlines()]


# ---- files ----


def test_a_file_gets_every_line_in_order_and_is_appended_to(driver, tmp_path):
    out = tmp_path / 'out.log'
    out.write_text('{"n": -1}\n')
    d = driver.add(kind='file', path=str(out))
    driver.put(d, *range(500))
    assert driver.tell(sync=30_000) is True
    assert read(out) == [-1, *range(500)]
    status = driver.tell(status=d)
    assert status == {
        'kind': 'file',
        'target': str(out),
        'delivered': 500,
        'failed': 0,
        'dropped': 0,
        'waiting': 0,
        'spooled': 0,
        'last_error': None,
    }


def test_behind_a_line_that_its_writer_did_not_end_a_line_of_its_own_begins(driver, tmp_path):
    """It was killed in the middle: what it had not written whole is handed over once more, and must be readable."""
    out = tmp_path / 'out.log'
    out.write_text('{"n": 1}\n{"n":')
    driver.put(driver.add(kind='file', path=str(out)), 2)
    driver.tell(sync=30_000)
    assert [line for line in out.read_text().split('\n') if line] == ['{"n": 1}', '{"n":', '{"n": 2}']


def test_a_new_file_is_readable_by_others_only_as_far_as_the_umask_allows(driver, tmp_path):
    out = tmp_path / 'out.log'
    driver.put(driver.add(kind='file', path=str(out)), 1)
    driver.tell(sync=30_000)
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
    driver.tell(sync=30_000)
    out.rename(old)
    driver.put(d, 2)
    driver.tell(sync=30_000)
    assert (read(old), read(out)) == ([1], [2])
    out.unlink()
    driver.put(d, 3)
    driver.tell(sync=30_000)
    assert read(out) == [3]


def test_a_full_disk_is_told_once_and_delivery_goes_on_when_there_is_room(tmp_path):
    driver = Driver()
    out = tmp_path / 'out.log'
    out.symlink_to('/dev/full')
    d = driver.add(kind='file', path=str(out))
    driver.put(d, 1)
    assert driver.tell(sync=30_000) is True, 'a failed attempt ends the wait'
    driver.put(d, 2)
    driver.tell(sync=30_000)
    assert 'No space left' in driver.tell(status=d)['last_error']
    out.unlink()
    driver.tell(sync=30_000)
    assert read(out) == [1, 2]
    assert driver.tell(status=d)['delivered'] == 2
    log = driver.end()
    assert log.count('No space left') == 1 and log.count('works again') == 1


def test_a_path_without_a_folder_is_tried_again_until_the_folder_is_there(driver, tmp_path):
    out = tmp_path / 'later' / 'out.log'
    d = driver.add(kind='file', path=str(out))
    driver.put(d, 1)
    driver.tell(sync=30_000)
    assert 'No such file' in driver.tell(status=d)['last_error']
    out.parent.mkdir()
    wait_for(out.exists)  # by itself, after a pause
    driver.tell(sync=30_000)
    assert read(out) == [1]


def test_past_the_bound_the_oldest_lines_are_dropped_and_counted(driver, tmp_path):
    out = tmp_path / 'gone' / 'out.log'
    d = driver.add(kind='file', path=str(out))
    for n in range(200):
        driver.tell(put=[d, json.dumps({'n': n, 'x': 'x' * 100_000})])
    out.parent.mkdir()
    wait_for(out.exists)
    driver.tell(sync=30_000)
    status = driver.tell(status=d)
    assert status['dropped'] > 0 and status['delivered'] + status['dropped'] == 200
    numbers = read(out)
    assert len(numbers) == status['delivered'] and numbers[-1] == 199 and numbers == sorted(set(numbers))


def test_without_flush_lines_are_gathered_for_a_moment(driver, tmp_path):
    out = tmp_path / 'out.log'
    d = driver.add(kind='file', path=str(out), flush=False)
    before = time.time()
    driver.put(d, 1, 2, 3)
    wait_for(out.exists, 30)
    assert out.stat().st_mtime - before > 0.9, 'a second after the first'
    driver.tell(sync=30_000)
    assert read(out) == [1, 2, 3]


@pytest.mark.parametrize('target', ['folder', 'pipe'])
def test_what_is_no_regular_file_is_refused_and_holds_nothing_up(driver, tmp_path, target):
    odd, out = tmp_path / target, tmp_path / 'out.log'
    odd.mkdir() if target == 'folder' else os.mkfifo(odd)
    driver.put(driver.add(kind='file', path=str(odd)), 1)
    driver.put(driver.add(kind='file', path=str(out)), 2)
    driver.tell(sync=30_000)
    assert read(out) == [2]


def test_a_request_of_another_uid_is_not_led_elsewhere_by_a_link(driver, tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'secret')
    d = driver.add(kind='file', path=str(tmp_path / 'link'), no_links=True)
    driver.put(d, 1)
    driver.tell(sync=30_000)
    assert not (tmp_path / 'secret').exists()
    assert driver.tell(status=d)['last_error']


def test_what_was_put_before_a_removal_is_still_written(driver, tmp_path):
    out = tmp_path / 'out.log'
    d = driver.add(kind='file', path=str(out), flush=False)
    driver.put(d, 1, 2)
    driver.tell(remove=d)
    driver.put(d, 3)
    driver.tell(sync=30_000)
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
        assert driver.tell(sync=30_000) is True
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
        'waiting': 0,
        'spooled': 0,
        'last_error': None,
    }


def test_lines_are_gathered_into_few_requests(driver, server):
    d = driver.add(kind='rest', url=server.url(), timeout=5)
    before = time.monotonic()
    driver.put(d, *range(300))
    wait_for(lambda: len(server.lines) == 300)
    assert len(server.keys) <= 2 + (time.monotonic() - before) / 0.1, 'one in a tenth of a second'


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
    driver.tell(sync=30_000)
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
        driver.tell(sync=30_000)
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
    assert driver.tell(sync=30_000) is True, 'one failed attempt ends the wait'
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
    wait_for(out.exists)
    assert driver.tell(sync=100) is False, 'not through yet'
    wait_for(lambda: driver.tell(status=slow)['last_error'])  # the time-out
    release.set()
    wait_for(lambda: server.numbers() == [1, 2])


def test_a_password_in_a_url_is_used_but_not_shown(driver, server):
    d = driver.add(kind='rest', url=f'http://me:secret@127.0.0.1:{server.port}/api/data', timeout=5)
    driver.put(d, 1)
    driver.tell(sync=30_000)
    assert server.headers[0]['Authorization'].startswith('Basic ')
    assert 'secret' not in json.dumps(driver.tell(status=d))


# ---- TLS, with a private certificate authority ----


@pytest.fixture(scope='session')
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp('ca'))


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
    driver.tell(sync=30_000)
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


# ---- who may post, and how ----


def test_the_token_is_read_anew_for_each_request(driver, server, tmp_path):
    token = tmp_path / 'token'
    d = driver.add(kind='rest', url=server.url(), timeout=5, token_file=str(token))
    driver.put(d, 1)
    driver.tell(sync=30_000)
    assert 'cannot read the token' in driver.tell(status=d)['last_error'] and server.keys == []
    token.write_text('first\n')
    driver.tell(sync=30_000)
    token.write_text('Token second')
    server.script = [(401, {}, b'too late')]
    driver.put(d, 2)
    driver.tell(sync=30_000)
    driver.tell(sync=30_000)
    assert [h['Authorization'] for h in server.headers] == ['Bearer first', 'Token second', 'Token second']
    assert server.numbers() == [1, 2]
    token.write_text('three\nlines: of\nit')
    driver.put(d, 3)
    driver.tell(sync=30_000)
    assert 'more than one line' in driver.tell(status=d)['last_error'] and len(server.headers) == 3


@pytest.mark.parametrize('host', ['collector.example', '127.example.org', '127.0.0.1.example.org', '128.0.0.1'])
def test_a_token_never_leaves_the_machine_without_tls(driver, tmp_path, host):
    said = driver.add(kind='rest', url='http://%s/api/data' % host, token_file=str(tmp_path / 'token'))
    assert 'without TLS' in said['error']


def test_bodies_are_compressed_once_the_server_says_that_it_takes_that(driver, server):
    server.always = {'Accept-Encoding': 'gzip'}
    d = driver.add(kind='rest', url=server.url(), timeout=5)
    for first in (0, 200, 400):
        if first == 400:
            server.script = [(415, {'Accept-Encoding': 'identity'}, b'')]
            server.always = {}
        for n in range(first, first + 200):
            driver.tell(put=[d, json.dumps({'n': n, 'x': 'x' * 50})])
        while len(server.lines) < first + 200:
            driver.tell(sync=30_000)
    assert server.once() == list(range(600))
    encodings = [h.get('Content-Encoding') for h in server.headers]
    assert encodings[0] is None and encodings[-1] is None and 'gzip' in encodings[1:-1]
    sizes = [int(h['Content-Length']) for h in server.headers if h.get('Content-Encoding') == 'gzip']
    assert max(sizes) < 200 * 70 / 4


def test_compression_can_be_asked_for_and_forbidden(driver, server):
    server.always = {'Accept-Encoding': 'gzip'}
    for gzip, expected in ((True, ['gzip', 'gzip']), (False, [None, None])):
        del server.headers[:]
        d = driver.add(kind='rest', url=server.url(), timeout=5, gzip=gzip)
        for _ in expected:
            driver.tell(put=[d, json.dumps({'n': 1, 'x': 'x' * 1000})])
            driver.tell(sync=30_000)
        assert [h.get('Content-Encoding') for h in server.headers] == expected


def test_a_reopened_file_is_the_one_that_bears_the_name_now(driver, tmp_path):
    out, old = tmp_path / 'out.log', tmp_path / 'out.log.1'
    d = driver.add(kind='file', path=str(out))
    driver.put(d, 1)
    driver.tell(sync=30_000)
    os.link(out, old)
    driver.tell(reopen=True)
    out.unlink()
    out.touch()
    driver.put(d, 2)
    driver.tell(sync=30_000)
    assert (read(old), read(out)) == ([1], [2])
