"""The whole way to a server that is away, while the aggregator is killed: every profiled action arrives, and none twice
for a receiver that drops the ids it knows."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from _delivery import Server, wait_for
from _support import BIN, NATIVE, environment

pytestmark = pytest.mark.skipif(not NATIVE, reason='there is no aggregator to kill')
KILLS = int(os.environ.get('POM_KILLS', 3))
AWAY_SECONDS = float(os.environ.get('POM_AWAY_SECONDS', 2))

APPLICATION = """
    import sys, threading, time
    import profilomatic
    profilomatic.configure(source_name='kills', max_overhead=0.5, max_actions_per_run=0, time_granularity=0.005)
    port, form = int(sys.argv[1]), sys.argv[2]
    profilomatic.add_destination(profilomatic.RestDestination('localhost', port, timeout=2, form=form))
    asked_to_end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), asked_to_end.set()), daemon=True).start()
    while not asked_to_end.is_set():
        with profilomatic.action('job') as action:
            time.sleep(0.04)  # so few that the lane holds those of the seconds in which nobody reads it
        if action.profiled:
            print(action.task_uuid, flush=True)
    """


class Lives:
    """An aggregator that is killed and comes back."""

    def __init__(self, directory, spool):
        self.directory, self.spool = str(directory), str(spool)
        os.makedirs(self.directory, mode=0o700)
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [os.path.join(BIN, 'profilomatic-aggregator'), '--directory', self.directory],
            env=dict(os.environ, PROFILOMATIC_SPOOL=self.spool),
            stderr=subprocess.DEVNULL,
        )

    def end(self, signal_number):
        self.process.send_signal(signal_number)
        self.process.wait(30)


@pytest.mark.parametrize('form', ['classic', 'eliot'])
def test_every_profiled_action_arrives_once(tmp_path, form):
    gone = Server()
    port = gone.port
    gone.stop()
    lives = Lives(tmp_path / 'run', tmp_path / 'spool')
    lives.start()
    server = None
    with open(tmp_path / 'printed', 'w') as printed:
        application = subprocess.Popen(
            [sys.executable, '-c', textwrap.dedent(APPLICATION), str(port), form],
            env=environment(tmp_path / 'run', profiled=False),
            stdin=subprocess.PIPE,
            stdout=printed,
        )

    def profiled():
        return (tmp_path / 'printed').read_text().split()

    def arrived():
        key = 'task_uuid' if form == 'classic' else 'profiled_task_uuid'
        return [line[key] for line in once(server.lines) if key in line]

    def wait_for_more():
        most = len(profiled()) + 15
        wait_for(lambda: len(profiled()) > most, 60)

    try:
        for _ in range(KILLS):
            wait_for_more()
            time.sleep(AWAY_SECONDS / KILLS)
            lives.end(signal.SIGKILL)
            lives.start()
        wait_for_more()
        application.stdin.close()
        assert application.wait(30) == 0
        server = Server(port=port)
        wait_for(lambda: len(arrived()) >= len(profiled()), 90)
        assert sorted(arrived()) == sorted(profiled())
    finally:
        application.kill()
        application.wait()
        lives.end(signal.SIGTERM)
        if server is not None:
            server.stop()


def once(lines):
    """What a receiver keeps that drops what it knows."""
    kept = {}
    for line in list(lines):
        kept.setdefault(line['id'] if 'children' in line else (line['task_uuid'], *line['task_level']), line)
    return kept.values()
