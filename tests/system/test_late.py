"""What turns out slow is profiled though the lottery did not draw it: from when on it is clearly slow."""

import json

from harness import VENV, Served, wait_until

# Of a busy kind of action one in a hundred takes fifty times as long.
SERVICE = """
import random, threading, time, profilomatic
profilomatic.configure(max_actions_per_run=20, max_overhead='50%%', source_name='late')
profilomatic.add_destination(profilomatic.file_destination(%r))
until = time.monotonic() + 120

def usual():
    time.sleep(0.004)

def seldom():
    time.sleep(0.2)

def handle(draw):
    with profilomatic.action('work'):
        usual()
        if draw.random() < 0.01:
            with profilomatic.action('inside'):
                seldom()

def serve(seed):
    draw = random.Random(seed)
    while time.monotonic() < until:
        handle(draw)

for seed in range(8):
    threading.Thread(target=serve, args=(seed,)).start()
"""
LEAST = 8  # late admissions to be seen


def test_slow_actions_are_profiled_late_and_their_line_is_told(tmp_path):
    out = tmp_path / 'messages.jsonl'
    out.touch()
    served = Served(tmp_path, [VENV / 'python', '-c', SERVICE % str(out)])
    try:

        def work():
            rows = served.ask('report')['actions'] if served.status()['pools'] else []
            return next((row for row in rows if row['action_type'] == 'work'), None)

        def seen():
            row = work()
            return row is not None and row['profiled_late'] >= LEAST and row['profiled'] >= 40 and row['slow_because']

        wait_until(lambda: served.process.poll() is not None or seen(), lambda: served.stderr)
        assert served.process.poll() is None, served.stderr
        lines = out.read_text().splitlines()  # before the report: what is told of later is not in that
        row, report = work(), served.ask('report')
    finally:
        served.close()
    # What a late one does before its moment is not looked at, so next to nothing of `usual` is known from it.
    assert row['slow_because'][0]['instruction'].split(':')[1] == 'seldom', row['slow_because']
    assert row['profiled'] + sum(row['denied'].values()) == row['count'], 'late ones count as denied, with their reason'
    inside = next(other for other in report['actions'] if other['action_type'] == 'inside')
    assert inside['profiled_late'] == 0, 'what is inside a late one has no story of its own'
    assert report['actions_per_cycle']['max_in_a_cycle'] <= 20, 'the cap counts late ones too'
    told = [message for message in map(json.loads, lines) if message['kind'] == 'action']
    assert 0 < len(told) <= report['actions_per_cycle']['admitted'], 'no message of a story without a beginning'
