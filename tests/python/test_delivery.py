"""Delivery to callables: the aggregator hands a process the messages of its own actions."""

import json
import os
import socket
import threading
import time

import pytest
from _support import aggregator, run
from profilomatic.delivery import Delivery


class Control:
    """A control socket that answers as the aggregator's does and hands out what the test gives it."""

    def __init__(self, directory):
        self.path = os.path.join(str(directory), 'control')
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(5)
        self.pending = []
        self.requests = []
        self.connections = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._client, args=(connection,), daemon=True).start()

    def _client(self, connection):
        for line in connection.makefile('r'):
            request = json.loads(line)
            self.requests.append(request)
            if request['verb'] == 'subscribe':
                connection.sendall(b'{"kind":"subscribed"}\n')
            elif request['verb'] == 'sync':
                for message in self.pending:
                    connection.sendall(json.dumps(message).encode() + b'\n')
                self.pending = []
                connection.sendall(b'{"kind":"synced"}\n')

    def close(self):
        self.listener.close()
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        os.unlink(self.path)


@pytest.fixture(params=['thread', 'pump'])
def delivery(request, tmp_path, monkeypatch):
    """A Delivery to `received`, in each of its two ways; `.pumped` is what the hook would call."""
    monkeypatch.setattr('profilomatic.delivery.threads_run', lambda: request.param == 'thread')
    # Words are said once a process, and a function of an earlier test may have had the same address in them.
    monkeypatch.setattr('profilomatic._tell._told', set())
    received = []
    pumps = []
    made = Delivery(lambda: str(tmp_path), lambda: made.served, pumps.append)
    made.served = [received.append]
    made.received, made.pumps, made.directory = received, pumps, tmp_path
    yield made
    made.served = []
    made.start_or_stop()
    if made._thread is not None:
        made._thread.join(5)
        assert not made._thread.is_alive()


def action(n):
    return {'kind': 'action', 'n': n, 'children': []}


def test_callables_get_each_action_once_and_in_order(delivery):
    control = Control(delivery.directory)
    delivery.start_or_stop()
    control.pending = [action(n) for n in range(300)] + [{'kind': 'status', 'dropped': 1}]
    assert delivery.flush()
    assert delivery.received == [action(n) for n in range(300)]
    assert control.requests == [{'verb': 'subscribe', 'pid': os.getpid()}, {'verb': 'sync'}]
    control.close()


def test_a_destination_that_comes_back_at_once_is_served_again(delivery):
    control = Control(delivery.directory)
    delivery.start_or_stop()
    assert delivery.flush()
    served, delivery.served = delivery.served, []
    delivery.start_or_stop()
    delivery.served = served
    delivery.start_or_stop()
    control.pending = [action(1)]
    assert delivery.flush()
    assert delivery.received == [action(1)]
    control.close()


def test_a_failing_destination_is_told_once_counted_and_does_not_stop_the_others(delivery, capfd):
    def broken(message):
        raise RuntimeError('disk is full')

    delivery.served.insert(0, broken)
    control = Control(delivery.directory)
    delivery.start_or_stop()
    control.pending = [action(n) for n in range(5)]
    assert delivery.flush()
    assert len(delivery.received) == 5
    status = delivery.status()
    assert (status['delivered'], status['failed']) == (5, 5) and 'disk is full' in status['last_errors'][0]
    assert capfd.readouterr().err.count('disk is full') == 1
    control.close()


def test_a_restarted_aggregator_is_found_again(delivery):
    control = Control(delivery.directory)
    delivery.start_or_stop()
    assert delivery.flush()
    control.close()
    if delivery.pumps and delivery.pumps[-1]:
        delivery.pump()
    time.sleep(0.1)
    control = Control(delivery.directory)
    control.pending = [action(1)]
    until = time.monotonic() + 30
    while not delivery.received and time.monotonic() < until:
        delivery.flush()
    assert delivery.received == [action(1)]
    control.close()


def test_without_an_aggregator_a_flush_gives_up_soon(delivery):
    delivery.start_or_stop()
    began = time.monotonic()
    assert delivery.flush() is False
    assert time.monotonic() - began < 10


def test_a_silent_aggregator_costs_two_seconds_at_most(delivery):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(str(delivery.directory), 'control'))
    listener.listen(1)
    delivery.start_or_stop()
    began = time.monotonic()
    assert delivery.flush() is False
    assert 1.5 < time.monotonic() - began < 30, (
        'two seconds, and what a busy machine adds; without a limit it would be for ever'
    )
    listener.close()


def test_a_pump_stops_after_a_millisecond_and_goes_on_at_the_next_call(tmp_path, monkeypatch):
    monkeypatch.setattr('profilomatic.delivery.threads_run', lambda: False)
    received = []

    def slow(message):
        time.sleep(0.0006)
        received.append(message)

    control = Control(tmp_path)
    delivery = Delivery(lambda: str(tmp_path), lambda: [slow], lambda pump: None)
    delivery.start_or_stop()
    delivery.pump()
    while not control.connections:
        time.sleep(0.01)
    control.connections[0].sendall(b''.join(json.dumps(action(n)).encode() + b'\n' for n in range(20)))
    took = []
    while len(received) < 20 and len(took) < 100:
        began = time.monotonic()
        delivery.pump()
        took.append(time.monotonic() - began)
    assert received == [action(n) for n in range(20)]
    assert len(took) >= 10, 'a pump delivered more than a millisecond’s worth'
    control.close()


def test_callables_get_the_actions_of_their_own_process_from_the_real_aggregator(tmp_path):
    script = """
        import os, time, profilomatic
        profilomatic.configure(source_name='callables', max_actions_per_run=0)
        received = []
        profilomatic.add_destination(received.append)
        pid = os.fork()
        name = 'child' if pid == 0 else 'parent'
        until = time.monotonic() + 20
        while time.monotonic() < until and len(received) < 3:
            with profilomatic.action(name):
                sum(range(200000))
        profilomatic.remove_destination(received.append)
        kinds = {(m['action_type'], m['pid'] == os.getpid(), m['source']) for m in received}
        if pid:
            os.waitpid(pid, 0)
        print(sorted(kinds), flush=True)
        """
    with aggregator(tmp_path / 'run'):
        result = run(script, tmp_path / 'run', profiled=False)
    assert result.stderr == ''
    assert sorted(result.stdout.splitlines()) == ["[('child', True, 'callables')]", "[('parent', True, 'callables')]"]
