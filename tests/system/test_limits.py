"""The second cap, measured from outside: newly profiled actions a cycle. test_budget_outside.py is for the first."""

import datetime
import json
import os
import subprocess
import time

from harness import BUILD, COMMAND, HERE, Profiled, action, free_port, load, wait_for_port
from test_servers import gunicorn


def report_now(directory):
    out = subprocess.run([str(COMMAND), 'report', '--json', '--directory', directory], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


# The lottery aims at three quarters of the cap, by the demand of the last cycle or the mean of six if that is more, and
# halves its chances as the cap is used up. In the first cycle it lets all through up to that point: 15 of 20. Later
# cycles give out 12.3 of 20 (standard deviation 2.2) while demand is steady, 10.2 (2.3) where it is three quarters of
# what was expected. The first and six of those are 76 (5.7): two caps are more than five standard deviations less.
CAP, LEAST_USED = 20, 2


def test_never_more_than_the_cap_is_admitted_in_a_cycle(tmp_path):
    port, cap = free_port(), CAP
    # Room in the budget, so that it is the cap that limits: thousands of tiny requests a second are dear.
    profiled = Profiled(tmp_path, gunicorn(port), options=['--max-actions', str(cap), '--max-overhead', '20%'])
    try:
        wait_for_port(port, profiled.process)
        result = load(port, 10, 8, '/fast')
        directory = profiled.directory()
        live = report_now(directory)
        assert profiled.stop() == 0, profiled.stderr
    finally:
        if profiled.process.poll() is None:
            profiled.kill()
    report = profiled.report
    rate = result['answered']['/fast'] / 10
    assert rate > 4 * cap, f'{rate:.0f} requests a second: too few to show anything'
    cycle = report['actions_per_cycle']
    assert cycle['cap'] == cap and cycle['cycle_seconds'] == 1.0
    assert 0 < cycle['max_in_a_cycle'] <= cap
    row = action(report, '/fast')
    assert row['count'] == result['answered']['/fast']
    assert cycle['admitted'] == row['profiled'] <= cap * 13
    assert row['profiled'] >= cap * LEAST_USED, 'the cap is used'
    assert cycle['admitted'] + cycle['shed'] == row['count']
    assert live['actions_per_cycle']['max_in_a_cycle'] <= cap


def test_messages_of_profiled_actions_show_the_cap_too(tmp_path):
    """Independent of our own counters: the begin times in the messages, by sliding window."""
    port, cap = free_port(), CAP
    out = tmp_path / 'messages.jsonl'
    script = tmp_path / 'capped.py'
    script.write_text(f"""
import profilomatic
from app import application as inner
profilomatic.configure(max_actions_per_run={cap}, max_overhead='20%')  # the cap limits, not the budget
profilomatic.add_destination(profilomatic.file_destination({str(out)!r}))
application = profilomatic.wsgi.wrap(inner)
""")
    command = gunicorn(port, '--pythonpath', str(tmp_path))[:-1] + ['capped:application']
    environ = dict(os.environ, PYTHONPATH=str(BUILD / 'python'), PROFILOMATIC_DIR=str(tmp_path / 'rt'))
    # The runtime directory must be memory; a plain temporary folder works as well.
    process = subprocess.Popen([str(x) for x in command], cwd=HERE, env=environ)
    try:
        wait_for_port(port, process)
        load(port, 8, 8, '/fast')
        time.sleep(1.5)
    finally:
        process.terminate()
        process.wait(60)
    starts = sorted(
        datetime.datetime.fromisoformat(json.loads(line)['start_time']).timestamp()
        for line in out.read_text().splitlines()
    )
    assert len(starts) >= cap * LEAST_USED, 'the cap is used'
    # A second that is not aligned with the cycles can see two of them.
    for i, t in enumerate(starts):
        assert sum(1 for u in starts[i:] if u - t < 0.999) <= 2 * cap
