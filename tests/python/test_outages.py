"""Servers that are away or misbehave, and a service that is killed meanwhile: nothing is lost inside the spool's
bounds, and nothing is doubled once the receiver drops batches whose key it knows."""

import json
import random
import ssl
import threading

import pytest
from _delivery import Driver, Server, wait_for
from authority import make_authority


class Away:
    """A port on which nobody listens, until the server comes (back)."""

    def __init__(self, context=None):
        self.context = context
        server = Server(context)
        self.port, self.scheme = server.port, server.scheme
        server.stop()
        self.server = None

    def url(self):
        return f'{self.scheme}://localhost:{self.port}/api/data'

    def come(self):
        self.server = Server(self.context, port=self.port)
        return self.server


@pytest.fixture
def away():
    gone = Away()
    yield gone
    if gone.server is not None:
        gone.server.stop()


def spec(url, **more):
    return {'kind': 'rest', 'url': url, 'timeout': 2, 'spool_bytes': 1 << 20, 'spool_age': 3600, **more}


def batches(folder):
    return sorted(p for p in folder.glob('*/*-*-*-*'))


def kill(driver):
    driver.process.kill()
    driver.process.communicate()


def test_what_was_secured_outlives_a_kill_and_arrives_when_the_server_is_back(tmp_path, away):
    driver = Driver(tmp_path / 'spool')
    d = driver.add(**spec(away.url()))
    driver.put(d, *range(50))
    assert driver.tell(secure=20_000) is True
    status = driver.tell(status=d)
    assert (status['waiting'], status['spooled'], status['dropped']) == (50, 50, 0)
    driver.put(d, *range(50, 80))
    assert driver.tell(secure=20_000) is True
    kill(driver)

    driver = Driver(tmp_path / 'spool')
    d = driver.add(**spec(away.url()))
    driver.put(d, *range(80, 90))
    server = away.come()
    wait_for(lambda: len(server.once()) == 90, 60)
    assert server.once() == list(range(90)), 'in order'
    driver.tell(sync=20_000)
    status = driver.tell(status=d)
    assert (status['delivered'], status['waiting'], status['spooled']) == (90, 0, 0)
    assert batches(tmp_path / 'spool') == []
    driver.end()


def test_an_orderly_end_leaves_what_could_not_be_posted_on_disk(tmp_path, away):
    driver = Driver(tmp_path / 'spool')
    driver.put(driver.add(**spec(away.url())), 1, 2, 3)
    assert 'wait on disk until it is added again' in driver.end()
    server = away.come()
    driver = Driver(tmp_path / 'spool')
    driver.add(**spec(away.url()))
    wait_for(lambda: server.once() == [1, 2, 3], 60)
    assert '3 message(s) wait on disk' in driver.end()


def test_a_batch_that_was_taken_before_the_kill_is_known_by_its_key_afterwards(tmp_path, away):
    server = away.come()
    server.script = ['vanish'] * 3
    driver = Driver(tmp_path / 'spool')
    d = driver.add(**spec(away.url()))
    driver.put(d, 1, 2)
    wait_for(lambda: len(server.keys) >= 1)
    assert driver.tell(secure=20_000) is True
    kill(driver)
    driver = Driver(tmp_path / 'spool')
    d = driver.add(**spec(away.url()))
    wait_for(lambda: driver.tell(status=d)['delivered'] == 2, 60)
    assert len(server.keys) >= 2 and len(set(server.keys)) == 1
    assert server.once() == [1, 2]
    driver.end()


def test_the_oldest_give_way_to_the_bound_in_bytes_and_are_counted(tmp_path, away):
    driver = Driver(tmp_path / 'spool')
    d = driver.add(**spec(away.url(), spool_bytes=100_000))
    for n in range(40):
        driver.tell(put=[d, json.dumps({'n': n, 'x': 'x' * 9_000})])
        assert driver.tell(secure=20_000) is True
        assert sum(p.stat().st_size for p in batches(tmp_path / 'spool')) <= 100_000
    status = driver.tell(status=d)
    assert status['dropped'] + status['spooled'] == 40 and 9 <= status['spooled'] <= 11
    server = away.come()
    wait_for(lambda: driver.tell(status=d)['waiting'] == 0, 60)
    got = server.once()
    assert got == sorted(got) and got[-1] == 39 and len(got) == status['spooled']
    driver.end()


def test_what_is_too_old_or_damaged_is_dropped_and_counted_and_the_rest_arrives(tmp_path, away):
    driver = Driver(tmp_path / 'spool')
    d = driver.add(**spec(away.url()))
    for n in range(4):
        driver.put(d, n)
        assert driver.tell(secure=20_000) is True
    kill(driver)
    old, cut, empty, good = batches(tmp_path / 'spool')
    number, _, lines, key = old.name.split('-')
    old.rename(old.with_name(f'{number}-0000000000001-{lines}-{key}'))
    cut.write_bytes(cut.read_bytes()[:-3])
    empty.write_bytes(b'')
    (good.parent / 'notes').write_text('not ours\n')
    (good.parent / f'{number}-1-x-{key}').write_text('nor this\n')
    server = away.come()
    driver = Driver(tmp_path / 'spool')
    d = driver.add(**spec(away.url()))
    wait_for(lambda: driver.tell(status=d)['delivered'] == 1, 60)
    assert driver.tell(status=d)['dropped'] == 3
    assert server.once() == [3]
    assert (good.parent / 'notes').exists()
    driver.end()


def test_two_services_at_once_do_not_post_each_others_batches(tmp_path, away):
    drivers = [Driver(tmp_path / 'spool') for _ in range(2)]
    for i, driver in enumerate(drivers):
        driver.put(driver.add(**spec(away.url())), i)
        assert driver.tell(secure=20_000) is True
    assert len({p.parent for p in batches(tmp_path / 'spool')}) == 2
    server = away.come()
    wait_for(lambda: sorted(server.once()) == [0, 1], 60)
    for driver in drivers:
        driver.end()
    assert sorted(server.numbers()) == [0, 1], 'each once, even without looking at keys'


def test_pools_and_servers_have_folders_of_their_own(tmp_path, away):
    driver = Driver(tmp_path / 'spool')
    for n, more in enumerate(({}, {'pool': '0-other'}, {'profiles': True}, {'url': away.url() + '2'})):
        driver.put(driver.add(**{**spec(away.url()), **more}), n)
    assert driver.tell(secure=20_000) is True
    assert len({p.parent for p in batches(tmp_path / 'spool')}) == 4
    driver.end()


@pytest.mark.parametrize('trouble', ['link', 'writable by others', 'a file', 'no folder above'])
def test_a_folder_that_is_not_safely_ours_is_not_used_and_lines_wait_in_memory(tmp_path, away, trouble):
    spool = tmp_path / 'spool'
    if trouble == 'link':
        (tmp_path / 'elsewhere').mkdir()
        spool.symlink_to(tmp_path / 'elsewhere')
    elif trouble == 'a file':
        spool.write_text('')
    elif trouble == 'no folder above':
        spool = tmp_path / 'none' / 'spool'
    else:
        spool.mkdir()
        spool.chmod(0o777)
    driver = Driver(spool)
    d = driver.add(**spec(away.url()))
    driver.put(d, 1)
    driver.tell(secure=5000)
    driver.put(d, 2)
    driver.tell(secure=5000)
    assert driver.tell(status=d)['spooled'] == 0 and batches(tmp_path) == []
    server = away.come()
    wait_for(lambda: server.once() == [1, 2], 60)
    assert driver.end().count('kept in memory') == 1


def test_a_batch_that_a_server_chokes_on_lets_the_others_pass_and_is_kept(tmp_path, away):
    server = away.come()
    server.script = [(500, {}, b'13')] * 12
    driver = Driver(tmp_path / 'spool')
    d = driver.add(**spec(away.url()))
    driver.put(d, 13)
    for _ in range(11):
        driver.tell(sync=20_000)
    driver.put(d, 14)
    assert driver.tell(secure=20_000) is True
    driver.tell(sync=20_000)
    wait_for(lambda: driver.tell(sync=1000) and server.once() == [14, 13], 90)
    status = driver.tell(status=d)
    assert (status['failed'], status['dropped']) == (0, 0)
    driver.end()


@pytest.fixture(scope='module')
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp('ca'))


def test_through_a_storm_with_kills_every_line_arrives_once(tmp_path, authority):
    good = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    good.load_cert_chain(authority / 'server.pem', authority / 'server.key')
    away = Away(good)
    chance = random.Random(7)
    release = threading.Event()
    misdeeds = [
        'reset',
        'close',
        'vanish',
        lambda: release.wait(3) and (503, {}, b''),
        (429, {'Retry-After': '1'}, b''),
        (500, {}, b''),
        (503, {}, b''),
    ]
    asked = spec(away.url(), ca_pem=(authority / 'ca.pem').read_text(), timeout=1)
    put, lives = 0, 4
    server = None
    for life in range(lives):
        driver = Driver(tmp_path / 'spool')
        d = driver.add(**asked)
        if life == 1:
            server = away.come()
            server.script = [chance.choice(misdeeds) for _ in range(8)]
        for _ in range(5):
            driver.put(d, *range(put, put + 10))
            put += 10
            assert driver.tell(secure=20_000) is True
        if life < lives - 1:
            kill(driver)
    wait_for(lambda: driver.tell(sync=1000) and driver.tell(status=d)['waiting'] == 0, 90)
    release.set()
    assert sorted(server.once()) == list(range(put))
    status = driver.tell(status=d)
    assert (status['failed'], status['dropped'], status['spooled']) == (0, 0, 0)
    driver.end()
    server.stop()


def test_a_server_with_a_wrong_certificate_gets_nothing_and_the_right_one_gets_all(tmp_path, authority):
    other = make_authority_elsewhere(tmp_path)
    wrong = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    wrong.load_cert_chain(other / 'server.pem', other / 'server.key')
    impostor = Server(wrong)
    driver = Driver(tmp_path / 'spool')
    d = driver.add(**spec(impostor.url('localhost'), ca_pem=(authority / 'ca.pem').read_text()))
    driver.put(d, 1, 2)
    driver.tell(sync=20_000)
    assert driver.tell(secure=20_000) is True
    assert 'certificate' in driver.tell(status=d)['last_error']
    impostor.stop()
    assert impostor.lines == [] and impostor.keys == []
    right = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    right.load_cert_chain(authority / 'server.pem', authority / 'server.key')
    server = Server(right, port=impostor.port)
    wait_for(lambda: server.once() == [1, 2], 60)
    driver.end()
    server.stop()


def make_authority_elsewhere(tmp_path):
    folder = tmp_path / 'other-ca'
    folder.mkdir()
    return make_authority(folder)
