"""Every key of the report object, with its type and unit; and the other ways to get the same profile."""

import json
import subprocess

import pytest
from harness import COMMAND, Profiled, action, free_port, load, wait_for_port
from test_servers import gunicorn

NUMBER = (int, float)
KEYS = {
    'source': str,
    'window': {'start': str, 'end': str, 'seconds': NUMBER},
    'overhead': {
        'ratio': NUMBER,
        'budget': NUMBER,
        'sampler_cpu': NUMBER,
        'hook_cpu': NUMBER,
        'aggregator_cpu': NUMBER,
        'worker_cpu': NUMBER,
    },
    'actions_per_cycle': {'cap': int, 'cycle_seconds': NUMBER, 'admitted': int, 'shed': int, 'max_in_a_cycle': int},
    'workers': int,
    'samples': int,
    'dropped': int,
    'actions': list,
}
ACTION = {
    'action_type': str,
    'count': int,
    'errors': int,
    'profiled': int,
    'latency': {'mean': NUMBER, 'p50': NUMBER, 'p90': NUMBER, 'p99': NUMBER, 'max': NUMBER},
    'wall': NUMBER,
    'cpu': NUMBER,
    'native': NUMBER,
    'gil_wait': NUMBER,
    'blocked': NUMBER,
    'runnable': NUMBER,
    'hot': list,
    'slow_because': list,
}
HOT = {'instruction': str, 'self_time': NUMBER, 'time': NUMBER, 'share': NUMBER, 'state': str}
BECAUSE = {'instruction': str, 'share_slow': NUMBER, 'share_typical': NUMBER, 'state': str}
STATES = {'cpu', 'native', 'gil_wait', 'blocked', 'runnable'}


def check(shape, value, where='report'):
    for key, kind in shape.items():
        assert key in value, f'{where}.{key}'
        if isinstance(kind, dict):
            check(kind, value[key], f'{where}.{key}')
        else:
            assert isinstance(value[key], kind) and not isinstance(value[key], bool), f'{where}.{key} is {value[key]!r}'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp('report')
    port = free_port()
    profiled = Profiled(tmp_path, gunicorn(port), options=['--max-actions', '40', '--source', 'web-1'])
    try:
        wait_for_port(port, profiled.process)
        result = load(port, 10, 6, '/compute', '/wait', '/fail')
        assert profiled.stop() == 0, profiled.stderr
    finally:
        if profiled.process.poll() is None:
            profiled.kill()
    return profiled, result


def test_every_key_is_there_with_its_type(run):
    report = run[0].report
    check(KEYS, report)
    for row in report['actions']:
        check(ACTION, row, row['action_type'])
        assert len(row['hot']) <= 20
        for hot in row['hot']:
            check(HOT, hot)
            assert hot['state'] in STATES
        for because in row['slow_because']:
            check(BECAUSE, because)
    assert report['source'] == 'web-1'
    assert report['overhead']['budget'] == 0.02
    assert report['actions_per_cycle']['cap'] == 40


def test_times_are_seconds_of_the_whole_population_and_add_up(run):
    profiled, result = run
    for row in profiled.report['actions']:
        states = row['cpu'] + row['native'] + row['gil_wait'] + row['blocked'] + row['runnable']
        assert states == pytest.approx(row['wall'], rel=1e-6)
        assert row['wall'] == pytest.approx(row['latency']['mean'] * row['count'], rel=1e-6)
        assert row['count'] == row['profiled'] + sum(row['denied'].values()), 'each is profiled, or not for a reason'
        assert row['latency']['p50'] <= row['latency']['p90'] <= row['latency']['p99'] <= row['latency']['max']
        assert sum(h['self_time'] for h in row['hot']) <= row['wall'] * 1.000001
        assert row['hot'] == sorted(row['hot'], key=lambda h: -h['self_time'])
        for hot in row['hot']:
            assert hot['share'] == pytest.approx(hot['self_time'] / row['wall'], rel=1e-6)
            assert hot['self_time'] <= hot['time'] * 1.000001
    wait = action(profiled.report, '/wait')
    assert wait['latency']['p50'] >= 0.015, 'the planted wait is 15 ms'
    assert wait['blocked'] > 0.5 * wait['wall']
    fail = action(profiled.report, '/fail')
    assert fail['errors'] == fail['count'] > 0
    assert fail['count'] >= sum(result['answered'].get(p, 0) for p in ('/fail',)) > 0


def test_the_text_report_names_the_slow_lines(run):
    text = run[0].stderr
    for words in ('/compute', '/wait', 'app.py:compute:', 'app.py:wait:', 'web-1', '4 workers'):
        assert words in text, text


def test_report_and_export_read_the_saved_file(run, tmp_path):
    path = str(run[0].report_path)

    def tool(*args):
        return subprocess.run([str(COMMAND), *args], capture_output=True, text=True)

    text = tool('report', path)
    assert text.returncode == 0 and 'app.py:compute:' in text.stdout
    again = json.loads(tool('report', '--json', path).stdout)
    assert [a['action_type'] for a in again['actions']] == [a['action_type'] for a in run[0].report['actions']]

    samples = tool('export', path, '-F', 'collapsed').stdout.splitlines()
    total = 0
    for line in samples:
        stack, _, number = line.rpartition(' ')
        assert stack.split(';')[0] in ('/compute', '/wait', '/fail')
        total += int(number)
    assert 0 < total <= run[0].report['samples']
    assert any(line.startswith('/wait;') and 'app.py:wait:' in line.split(';')[-1] for line in samples)
    wall = tool('export', path, '-F', 'collapsed', '--unit', 'wall').stdout.splitlines()
    microseconds = sum(int(line.rpartition(' ')[2]) for line in wall if line.startswith('/compute;'))
    assert microseconds / 1e6 == pytest.approx(action(run[0].report, '/compute')['wall'], rel=0.02)

    for line in tool('export', path, '-F', 'classic').stdout.splitlines():
        message = json.loads(line)
        assert message['kind'] == 'profile' and message['source'] == 'web-1'
        assert {
            'action_type',
            'children',
            'time',
            'self_time',
            'start_time',
            'end_time',
            'window_start',
            'window_end',
            'count',
            'profiled',
            'latency',
        } <= set(message)

    assert tool('report', '-a', '/nothing', path).returncode == 3
    assert tool('report', '/no/such/file').returncode == 1
    assert tool('report', '--nonsense').returncode == 2
