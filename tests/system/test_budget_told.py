"""What the budget does is told: decisions with their reasons, the last hour as a series, messages of kind `status`."""

import json

import pytest
from harness import VENV, Served, wait_until

# An action of half a millisecond after the other, which so small a budget cannot pay for.
BUSY = """
import time, profilomatic
profilomatic.configure(max_overhead=0.0005, max_actions_per_run=0, time_granularity=0.001, source_name='busy')
profilomatic.add_destination(profilomatic.file_destination(%r, profiles=True))
until = time.monotonic() + 60
while time.monotonic() < until:
    with profilomatic.action('step'):
        end = time.monotonic() + 0.0005
        while time.monotonic() < end:
            pass
"""


@pytest.fixture
def served(tmp_path):
    out = tmp_path / 'messages.jsonl'
    out.touch()
    served = Served(tmp_path, [VENV / 'python', '-c', BUSY % str(out)])
    served.messages = lambda: [json.loads(line) for line in out.read_text().rpartition('\n')[0].splitlines()]
    yield served
    served.close()


def test_decisions_are_told_with_their_reasons(served):
    def statuses():
        return [m for m in served.messages() if m['kind'] == 'status']

    wait_until(
        lambda: served.process.poll() is not None or any(m['decisions'] for m in statuses()), lambda: served.stderr
    )
    assert served.process.poll() is None, served.stderr
    message = next(m for m in statuses() if m['decisions'])
    assert message['source'] == 'busy' and message['workers'] == 1
    assert message['window_start'] < message['window_end']
    assert message['overhead']['budget'] == 0.0005 and message['overhead']['worker_cpu'] > 0

    pool = served.ask('status', '--history')['pools'][0]
    assert pool['decisions'], 'at such a budget something had to be decided'
    for decision in pool['decisions'] + message['decisions']:
        assert decision['from'] != decision['to'] and decision['reason'] and decision['overhead_10s'] >= 0
    for first, second in zip(pool['decisions'], pool['decisions'][1:]):
        assert first['time'] < second['time'] and first['to'] == second['from'], 'none is left out'
    now = {key: pool['limits'][key] for key in pool['decisions'][-1]['to']}
    assert pool['decisions'][-1]['to'] == now and pool['limits']['reason']

    history = pool['history']
    assert len({len(column) for column in history.values()}) == 1
    assert history['start'] == sorted(history['start'])
    assert sum(history['actions']) >= sum(history['admitted']) > 0
    for part in ('sampler_cpu', 'hook_cpu', 'aggregator_cpu'):
        # What came after the last cycle is in the overhead already, and not in the series yet.
        assert 0 < sum(history[part]) <= pool['overhead'][part] + 1e-9, part
    worker = pool['workers'][0]
    assert worker['worker_cpu'] > worker['sampler_cpu'] + worker['hook_cpu'] > 0
    assert 'history' not in served.status()['pools'][0]
