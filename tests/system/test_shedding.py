"""What is shed, and what is not: a rare action beside a busy one, through real workers and a real aggregator."""

import json
import subprocess

import pytest
from harness import BUILD, COMMAND, VENV

CAP = 8

# Until the rare action was done so often; three a second at most, beside as many busy ones as there is time for, which
# are 25 at least.
SCRIPT = """
import sys, time
import profilomatic
busy, rare, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
done, due = 0, time.monotonic()
while done < wanted:
    for _ in range(25):
        with profilomatic.action(busy):
            sum(i * i % 7 for i in range(3000))
    if time.monotonic() >= due:
        due += 1 / 3
        done += 1
        with profilomatic.action(rare):
            sum(i * i % 7 for i in range(200000))
"""


def stratum_set(name):
    """As shm/strata.h has it."""
    h = 2166136261
    for byte in name.encode():
        h = (h ^ byte) * 16777619 & 0xFFFFFFFF
    return (h ^ h >> 15) & 63


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shedding')
    script, out = folder / 'script.py', folder / 'report.json'
    script.write_text(SCRIPT)
    # Of the same set as the busy one: before each type had a stratum to itself, they had one probability.
    rare = next(name for name in map('rare {}'.format, range(10000)) if stratum_set(name) == stratum_set('busy'))
    command = [COMMAND, 'run', '--max-actions', CAP, '--max-overhead', '30%', '-o', out, '-F', 'json', '--']
    command += [VENV / 'python', script, 'busy', rare, 30]
    environ = {'PYTHONPATH': str(BUILD / 'python'), 'PATH': '/usr/bin:/bin'}
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stderr
    actions = json.loads(out.read_text())['actions']
    return {row['action_type'].split()[0]: row for row in actions}, done.stderr


def test_a_rare_action_is_profiled_beside_a_busy_one(report):
    rare, busy = report[0]['rare'], report[0]['busy']
    assert rare['count'] == 30
    assert busy['profiled'] < busy['count'] / 4, 'nothing had to be shed'
    assert rare['profiled'] >= rare['count'] / 4, rare


def test_what_is_not_profiled_is_told_by_type_and_reason(report):
    for row in report[0].values():
        assert row['count'] == row['profiled'] + sum(row['denied'].values())
    assert report[0]['busy']['denied']['lottery'] > 0
    assert 'lottery' in report[1], 'the text tells too'


def test_estimates_stand_beside_their_standard_errors(report):
    """Where too few were profiled on a busy machine no error can be told: then that is told."""
    row = report[0]['rare']
    assert set(row['se']) == {'cpu', 'native', 'gil_wait', 'blocked', 'runnable'}
    if row['se']['cpu'] is None:
        assert 'cpu' in row['noise']
    else:
        computed = row['cpu'] + row['native'] + row['runnable']
        assert computed + 4 * row['se']['cpu'] >= 0.8 * row['wall'], 'it does nothing but compute'
    for hot in row['hot']:
        error = hot['se']['share']
        assert hot['noise'] == (error is None or error > hot['share'] / 2)
        assert error is None or hot['se']['self_time'] == pytest.approx(error * row['wall'])
