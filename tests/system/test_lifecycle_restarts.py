"""Whoever is killed, and whenever: requests are answered, each is counted once, workers find the next aggregator by
themselves, and there is never more than one.

POM_LONG_RESTARTS=1 goes on for a minute instead of twenty seconds.
"""

import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import AGGREGATOR, HERE, VENV, Served, children, free_port, has_sampler, said, wait_for_port, wait_until
from lifecycle import PATHS, PROFILE_MANY_ASKED, gunicorn, uwsgi
from traffic import Traffic

SECONDS = 60 if os.environ.get('POM_LONG_RESTARTS') == '1' else 20
SERVERS = {'gunicorn': (gunicorn('-w', '3'), signal.SIGTERM), 'uwsgi': (uwsgi('-p', '3'), signal.SIGINT)}
WORKERS = 3
# Nothing of what a death in the middle of a write leaves: no hidden file, no segment, no socket.
KEPT = re.compile(r'aggregator\.lock|budget|rates|names|checkpoint|window-\d+|[0-9a-f]{32}\.json')
RATES_ABI_AT = 8  # behind the magic number, as in a segment


class Trial:
    """A server under load while its workers and the service are killed at random, one each second."""

    def __init__(self, server, tmp_path):
        command, self.stop_signal = SERVERS[server]
        self.port = free_port()
        self.served = Served(tmp_path, command(self.port), env=PROFILE_MANY_ASKED)
        self.killed_workers = self.killed_aggregators = 0
        self.random = random.Random(server)

    def workers(self):
        return [pid for pid in children(self.served.process.pid) if has_sampler(pid)]

    def kill_one(self):
        workers = self.workers()
        if self.random.random() < 0.5 and workers:
            os.kill(self.random.choice(workers), signal.SIGKILL)
            self.killed_workers += 1
        else:
            aggregator = self.served.aggregators[-1]
            aggregator.kill()
            aggregator.wait()
            self.served.start_aggregator()
            self.killed_aggregators += 1

    def live(self):
        served = self.served
        try:
            wait_for_port(self.port, served.process)
            traffic = self.traffic = Traffic(self.port, PATHS, threads=3)
            try:
                end = time.monotonic() + SECONDS
                # On a busy machine a service takes its time to come back.
                while time.monotonic() < end or min(self.killed_workers, self.killed_aggregators) < 4:
                    time.sleep(self.random.uniform(0.7, 1.3))
                    self.kill_one()
                self.not_sampled = self.not_sampled_again()
            finally:
                traffic.stop()
            served.process.send_signal(self.stop_signal)
            self.status = served.process.wait(90)
            # What a worker has not finished making when it is killed goes when it is a minute old.
            wait_until(lambda: served.rings() == [], lambda: f'{served.rings()} {served.stderr}', seconds=90)
            self.report = served.ask('report')
            self.kept, self.left = self.ends()
        finally:
            served.close()
        return self

    def ends(self):
        """What the service keeps for its next life; and what a private one in its place leaves, which keeps nothing."""
        place, service = self.served.place, self.served.aggregators[-1]
        service.terminate()
        assert service.wait(60) == 0, self.served.stderr
        kept = {path.name for path in place.rglob('*') if not path.is_dir()}
        command = [AGGREGATOR, '--directory', place, '--private', '--linger', '1']
        subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)
        return kept, sorted(map(str, place.parent.glob(place.name + '*')))

    def not_sampled_again(self):
        """None once all that live have been sampled since the last aggregator came; after a minute, what is known."""
        deadline = time.monotonic() + 60
        while True:
            pools = self.served.status()['pools']
            seen = {w['pid']: w['samples'] for pool in pools for w in pool['workers']}
            live = self.workers()
            if len(live) == WORKERS and all(seen.get(pid, 0) > 0 for pid in live):
                return None
            if time.monotonic() > deadline:
                return {'live': live, 'children': children(self.served.process.pid), 'pools': pools}
            time.sleep(0.1)


@pytest.fixture(scope='module')
def trials(tmp_path_factory):
    folders = {server: tmp_path_factory.mktemp(server) for server in SERVERS}
    with ThreadPoolExecutor(len(SERVERS)) as pool:
        yield {server: pool.submit(lambda s=server: Trial(s, folders[s]).live()) for server in SERVERS}


@pytest.mark.parametrize('server', SERVERS)
def test_random_kills_cost_no_request_and_no_count(server, trials):
    trial = trials[server].result()
    traffic, kills = trial.traffic, trial.killed_workers
    assert trial.status == 0, trial.served.stderr
    assert trial.not_sampled is None, (trial.not_sampled, trial.served.stderr)
    assert traffic.failures <= kills, (traffic.failed, kills)
    counted = {row['action_type']: row['count'] for row in trial.report['actions']}
    assert set(counted) == set(traffic.answered)
    # An answer may have left a killed worker before its action ended, or an action ended before its answer left.
    assert abs(sum(counted.values()) - sum(traffic.answered.values())) <= kills, (counted, traffic.answered, kills)
    assert [name for name in trial.kept if not KEPT.fullmatch(name)] == []
    assert trial.left == []


def starts(place):
    words = [str(AGGREGATOR), '--directory', str(place)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def place(tmp_path):
    place = Path(f'/dev/shm/profilomatic-test-{os.getpid()}-restarts')
    yield place
    shutil.rmtree(place, ignore_errors=True)


def test_of_many_aggregators_at_once_one_stays(place):
    many = [starts(place) for _ in range(8)]
    try:
        deadline = time.monotonic() + 60
        while sum(one.poll() is None for one in many) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        left = [one for one in many if one.poll() is None]
        assert len(left) == 1
        for one in many:
            if one not in left:
                assert one.returncode == 1 and 'another aggregator serves' in one.stderr.read()
    finally:
        for one in many:
            if one.poll() is None:
                one.terminate()
            one.wait()
            one.stderr.close()


def test_a_service_that_comes_back_takes_over_from_the_private_one(tmp_path):
    """Away for longer than workers wait, it finds that they have started a private one in its place."""
    served = Served(tmp_path, [VENV / 'python', HERE / 'processes.py', 'timed', '9'], env=PROFILE_MANY_ASKED)
    try:
        wait_until(lambda: served.rings(), lambda: served.stderr)
        served.aggregators[0].terminate()
        served.aggregators[0].wait(60)

        def pid():
            # Between the end of the one and the beginning of the other nobody answers.
            out = served.command('status')
            return json.loads(out.stdout)['aggregator']['pid'] if out.returncode == 0 else 0

        wait_until(pid, lambda: served.stderr)
        private = pid()
        assert private != 0
        served.start_aggregator()
        wait_until(lambda: pid() == served.aggregators[1].pid, lambda: served.stderr)
        wait_until(lambda: not Path(f'/proc/{private}').exists(), lambda: served.stderr)
        assert served.process.wait(120) == 0
        wait_until(lambda: served.rings() == [], lambda: served.stderr)
        (row,) = served.ask('report')['actions']
        assert row['count'] == said(served.stderr_path.read_text())['work'], served.stderr
    finally:
        served.close()


def patch_abi(path, version):
    with open(path, 'r+b') as file:
        file.seek(RATES_ABI_AT)
        file.write(struct.pack('=I', version))


def worker(place, script):
    return subprocess.run(
        [VENV / 'python', '-c', script],
        env=dict(
            os.environ,
            PYTHONPATH=str(AGGREGATOR.parents[1] / 'python'),
            PROFILOMATIC_DIR=str(place),
            PROFILOMATIC_AGGREGATOR=str(AGGREGATOR),
        ),
        capture_output=True,
        text=True,
        timeout=120,
    )


ACTIONS = """
import os, time, profilomatic
profilomatic.configure(source_name='web')
profilomatic.add_destination(profilomatic.file_destination(os.devnull))
end = time.monotonic() + %s
while time.monotonic() < end:
    with profilomatic.action('work'):
        time.sleep(0.02)
os._exit(0)
"""


def test_another_version_is_refused_in_words_and_left_alone(place):
    """A worker of another version, and an aggregator of another: neither is misread, both are told of."""
    first = starts(place)
    assert worker(place, ACTIONS % 1).returncode == 0
    pool = next(place.glob('*-web'))
    ring = pool / 'rings' / ('0123456789abcdef' * 2 + '.ring')
    fresh = ring.with_name('.other')
    fresh.write_bytes(struct.pack('=QIIII', 0x746E656D67734D50, 99, 0, 0x01020304, 8) + bytes(480 << 10))
    fresh.rename(ring)
    time.sleep(2.5)
    assert ring.exists() and first.poll() is None
    first.terminate()
    said = first.communicate(timeout=30)[1]
    assert 'segment ABI 99, this is 1' in said, said
    patch_abi(pool / 'rates', 99)
    second = starts(place)
    time.sleep(1)
    out = worker(place, ACTIONS % 5)  # it looks for three seconds before it says so
    assert out.returncode == 0
    assert 'another version' in out.stderr and 'runs on' in out.stderr, out.stderr
    second.terminate()
    said = second.communicate(timeout=30)[1]
    assert 'cannot be served' in said and 'rates is of another version' in said, said
    assert (pool / 'rates').read_bytes()[RATES_ABI_AT] == 99, 'what another one made stays as it is'
