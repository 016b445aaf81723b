"""The command `profilomatic`: rendering and converting a report, asking an aggregator."""

import copy
import json
import os
import socket
import threading

import pytest
from _command import profilomatic

COLUMNS = ['parent', 'instruction', 'samples', 'cpu', 'native', 'gil_wait', 'blocked', 'cpu_time']
REPORT = {
    'schema': 'profilomatic/report/1',
    'source': 'web-1',
    'window': {'start': '2025-01-01T12:00:00Z', 'end': '2025-01-01T12:00:30Z', 'seconds': 30.0},
    'overhead': {
        'ratio': 0.011,
        'budget': 0.02,
        'sampler_cpu': 0.31,
        'hook_cpu': 0.02,
        'aggregator_cpu': 0.05,
        'worker_cpu': 34.2,
    },
    'actions_per_cycle': {'cap': 10, 'cycle_seconds': 1.0, 'admitted': 290, 'shed': 8123, 'max_in_a_cycle': 9},
    'workers': 4,
    'samples': 15321,
    'dropped': 2,
    'notes': ['two requests differ: the lower cap holds'],
    'instructions': ['shop/app.py:view:10', 'shop/db.py:load_cart:41', 'a;b\tc.py:f:1'],
    'actions': [
        {
            'action_type': '/checkout/<int:id>',
            'count': 8413,
            'errors': 3,
            'profiled': 290,
            'latency': {'mean': 0.021, 'p50': 0.019, 'p90': 0.031, 'p99': 0.21, 'max': 0.45},
            'wall': 176.7,
            'cpu': 50.2,
            'native': 2.0,
            'gil_wait': 4.5,
            'blocked': 120.0,
            'runnable': 0.0,
            'hot': [
                {
                    'instruction': 'shop/db.py:load_cart:41',
                    'self_time': 120.0,
                    'time': 120.0,
                    'share': 0.679,
                    'state': 'blocked',
                },
                {
                    'instruction': 'shop/app.py:view:10',
                    'self_time': 56.7,
                    'time': 176.7,
                    'share': 0.321,
                    'state': 'cpu',
                },
            ],
            'slow_because': [
                {
                    'instruction': 'shop/db.py:load_cart:41',
                    'share_slow': 0.81,
                    'share_typical': 0.04,
                    'state': 'blocked',
                }
            ],
            'tree': {
                'columns': COLUMNS,
                'nodes': [
                    [-1, 0, 12, 50.2, 2.0, 4.5, 0.0, 49.0],
                    [0, 1, 30, 0.0, 0.0, 0.0, 120.0, 0.5],
                    [1, 2, 0, 0.0, 0.0, 0.0, 0.0, 0.0],
                    [0, 2, 1, 0.0, 0.0, 0.0, 0.0000004, 0.0],
                ],
            },
        },
        {
            'action_type': '/static;\x1b[31mred',
            'count': 2,
            'errors': 0,
            'profiled': 0,
            'latency': {'mean': 0.0005, 'p50': 0.0005, 'p90': 0.0005, 'p99': 0.0005, 'max': 0.0006},
            'wall': 0.001,
            'cpu': None,
            'native': None,
            'gil_wait': None,
            'blocked': None,
            'runnable': None,
            'hot': [],
            'slow_because': [],
            'tree': {'columns': COLUMNS, 'nodes': []},
        },
    ],
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / 'r.json'
    path.write_text(json.dumps(REPORT))
    return path


def changed(tmp_path, change):
    report = copy.deepcopy(REPORT)
    change(report)
    path = tmp_path / 'changed.json'
    path.write_text(json.dumps(report))
    return path


# ---- the command itself ----


def test_every_verb_has_help_and_there_is_a_version():
    assert profilomatic('--version').stdout.startswith('profilomatic ')
    listed = profilomatic('--help')
    assert listed.returncode == 0
    for verb in ('run', 'report', 'export', 'status'):
        assert f'  {verb} ' in listed.stdout
        told = profilomatic(verb, '--help')
        assert (told.returncode, told.stderr) == (0, '')
        assert told.stdout.startswith(f'usage: profilomatic {verb}')


def test_an_unknown_verb_names_the_nearest_one():
    out = profilomatic('reprot')
    assert out.returncode == 2
    assert 'did you mean "report"' in out.stderr
    assert profilomatic('zzzzzzzzzz').returncode == 2
    assert profilomatic().returncode == 2


@pytest.mark.parametrize(
    'arguments',
    [
        ['report', '--no-such-option'],
        ['report', 'a', 'b'],
        ['report', '--limit', '-3'],
        ['report', '--duration', 'soon'],
        ['report', '-d', '5', 'file'],
        ['export', '-F', 'pdf'],
        ['export', '--unit', 'bytes'],
        ['status', 'now'],
        ['run'],
        ['run', '--'],
        ['run', '--max-overhead', '200%', '--', 'true'],
        ['run', '--max-overhead', '50.1%', '--', 'true'],
        ['run', '--max-overhead', '0.00049', '--', 'true'],
        ['run', '--granularity', 'word', '--', 'true'],
        ['run', '--scope', 'all', '--', 'true'],
        ['run', '--max-actions', '1.5', '--', 'true'],
        ['run', '-F', 'json', '--', 'true'],
        ['run', '--source', 'x' * 65, '--', 'true'],
        ['run', '--interval', '100', '--', 'true'],
        ['run', '--max-actions', '2147483648', '--', 'true'],
        ['run', '--output'],
        ['run', '--quiet=1', '--', 'true'],
        ['run', '-z', '--', 'true'],
    ],
)
def test_wrong_usage_is_told_with_status_2(arguments):
    out = profilomatic(*arguments)
    assert (out.returncode, out.stdout) == (2, '')
    assert '--help' in out.stderr
    assert out.stderr.startswith('profilomatic: ')


@pytest.mark.parametrize(
    'verb, slip, meant', [('run', '--max-overhed', '--max-overhead'), ('report', '--lmit=3', '--limit')]
)
def test_a_mistyped_option_names_the_nearest_one(verb, slip, meant):
    assert f'did you mean {meant}?' in profilomatic(verb, slip).stderr


def test_help_may_come_before_the_verb():
    assert profilomatic('help', 'run').stdout == profilomatic('run', '--help').stdout


# ---- a saved report ----


def test_a_report_tells_what_was_slow_where_and_what_it_cost(saved):
    out = profilomatic('report', saved)
    assert (out.returncode, out.stderr) == (0, '')
    head, *rest = out.stdout.split('\n\n')
    assert 'web-1' in head and '30.0 s' in head and '4 workers' in head
    assert 'overhead 1.10 %' in head and 'budget 2.00 %' in head and 'exceeded' not in head
    assert 'profiled 290 of 8413 actions, at most 9 new in a cycle of 1.00 s (cap 10); 15321 samples' in head
    assert '2025-01-01 12:00:00 UTC' in head
    assert 'note: two requests differ' in head
    first = rest[0]
    assert first.startswith('/checkout/<int:id>\n  8413 ended, 3 with an error, 290 profiled\n')
    assert 'p50 19.0 ms, p90 31.0 ms, p99 210 ms, max 450 ms, mean 21.0 ms' in first
    assert 'blocked 67.9 %, cpu 28.4 %' in first
    hot = [line for line in first.splitlines() if line.startswith('    #')]
    assert 'shop/db.py:load_cart:41' in hot[0] and '67.9 %' in hot[0] and 'blocked' in hot[0]
    assert '81.0 % of their time, typically  4.00 %  blocked   shop/db.py:load_cart:41' in first
    assert 'not known: none was profiled' in rest[1]


def test_errors_noise_and_what_was_shed_are_told(tmp_path):
    def change(report):
        action = report['actions'][0]
        action['denied'] = {'lottery': 8000, 'cap': 123, 'overhead': 0}
        action['se'] = {'blocked': 1.767, 'cpu': None}
        action['hot'][0].update(se={'share': 0.02}, noise=False)
        action['hot'][1].update(se={'share': None}, noise=True)
        action['slow_because'][0].update(se={'share_slow': 0.5, 'share_typical': 0.01}, noise=True)

    text = profilomatic('report', changed(tmp_path, change)).stdout
    assert '290 profiled; not profiled: 8000 lottery, 123 cap\n' in text, 'and no reason that there was not'
    assert 'blocked 67.9 % +- 2.0, cpu 28.4 % +- ?, ' in text
    hot = [line for line in text.splitlines() if line.startswith('    #')]
    assert ' 67.9 % +- 3.9 ' in hot[0] and 'noise' not in hot[0]
    assert ' 32.1 % +- ? ' in hot[1] and hot[1].endswith('shop/app.py:view:10 (mostly noise)')
    assert '81.0 % +- 98 of their time, typically  4.00 % +- 2.0  blocked   ' in text
    assert 'shop/db.py:load_cart:41 (mostly noise)\n' in text


def test_names_cannot_send_escape_sequences_to_a_terminal(saved):
    assert '\x1b' not in profilomatic('report', saved).stdout
    assert '\x1b' not in profilomatic('export', '-F', 'collapsed', saved).stdout


def test_nor_can_words_that_are_ours_in_a_report_of_somebody_elses(tmp_path):
    def spoil(report):
        action = report['actions'][0]
        action['hot'][0]['state'] = action['slow_because'][0]['state'] = 'c\x1b[31mpu'

    done = profilomatic('report', changed(tmp_path, spoil))
    assert done.returncode == 0 and '\x1b' not in done.stdout


def test_a_budget_that_was_exceeded_is_said(tmp_path):
    path = changed(tmp_path, lambda report: report['overhead'].update(ratio=0.03))
    assert '(exceeded)' in profilomatic('report', path).stdout
    path = changed(tmp_path, lambda r: (r['overhead'].update(ratio=0.03), r['window'].update(seconds=4.0)))
    assert '(the start weighs' in profilomatic('report', path).stdout


def test_samples_in_nobodys_profile_are_told(tmp_path, saved):
    assert 'unattributed' not in profilomatic('report', saved).stdout
    path = changed(tmp_path, lambda report: report.update(unattributed=7))
    assert ' records dropped, 7 unattributed\n' in profilomatic('report', path).stdout


def test_what_is_not_known_yet_is_not_shown_as_nothing(tmp_path):
    path = changed(tmp_path, lambda report: report['overhead'].update(ratio=0.0, worker_cpu=0.0))
    assert 'no CPU time of the workers was measured yet' in profilomatic('report', path).stdout
    path = changed(tmp_path, lambda report: report['actions'][0].update(hot=[], slow_because=[]))
    assert 'no sample of a line yet' in profilomatic('report', path).stdout


def test_a_line_that_rests_on_few_samples_says_so(tmp_path):
    path = changed(tmp_path, lambda report: report['actions'][0]['hot'][0].update(samples=1))
    assert 'shop/db.py:load_cart:41 (1 sample)\n' in profilomatic('report', path).stdout
    path = changed(tmp_path, lambda report: report['actions'][0]['hot'][0].update(samples=400))
    assert 'shop/db.py:load_cart:41\n' in profilomatic('report', path).stdout


def test_json_gives_the_report_back(saved):
    assert json.loads(profilomatic('report', '--json', saved).stdout) == REPORT


def test_a_report_may_come_on_stdin(saved):
    out = profilomatic('report', '--json', '-', input=saved.read_text())
    assert json.loads(out.stdout) == REPORT


def test_an_action_is_chosen_by_its_type_or_a_part_of_it(saved):
    for name in ('/checkout/<int:id>', 'checkout'):
        actions = json.loads(profilomatic('report', '--json', '-a', name, saved).stdout)['actions']
        assert [a['action_type'] for a in actions] == ['/checkout/<int:id>']
    out = profilomatic('report', '-a', 'nowhere', saved)
    assert out.returncode == 3 and 'nowhere' in out.stderr


def test_another_source_matches_nothing(saved):
    out = profilomatic('report', '--source', 'web-2', saved)
    assert out.returncode == 3 and 'web-1' in out.stderr


def test_the_limit_cuts_the_lines(saved):
    assert len(json.loads(profilomatic('report', '--json', '--limit', 1, saved).stdout)['actions'][0]['hot']) == 1


def test_a_report_of_a_time_in_which_nothing_ended_has_status_3(tmp_path):
    path = changed(tmp_path, lambda report: report['actions'].clear())
    assert profilomatic('report', path).returncode == 3
    assert profilomatic('export', '-F', 'collapsed', path).returncode == 3


@pytest.mark.parametrize('text', ['', 'nonsense', '[]', '{}', '{"actions": 3}', '{"schema": "profilomatic/report/9"'])
def test_what_is_no_report_is_refused_with_the_reason(tmp_path, text):
    path = tmp_path / 'x.json'
    path.write_text(text)
    for verb in ('report', 'export'):
        out = profilomatic(verb, path)
        assert out.returncode == 1 and str(path) in out.stderr
        assert out.stderr.count('\n') == 1 and 'Invalid argument' not in out.stderr
        assert ('is empty' in out.stderr) == (text == '')
    assert 'Is a directory' in profilomatic('report', tmp_path).stderr
    assert profilomatic('report', tmp_path / 'missing').returncode == 1


def test_collapsed_is_one_line_a_stack_with_samples(saved):
    out = profilomatic('export', '-F', 'collapsed', saved)
    assert out.returncode == 0
    assert out.stdout.splitlines() == [
        '/checkout/<int:id>;shop/app.py:view:10 12',
        '/checkout/<int:id>;shop/app.py:view:10;shop/db.py:load_cart:41 30',
        '/checkout/<int:id>;shop/app.py:view:10;a,b c.py:f:1 1',
    ]


@pytest.mark.parametrize(
    'unit, values', [('wall', ['56700000', '120000000']), ('cpu', ['49000000', '500000']), ('samples', None)]
)
def test_collapsed_in_microseconds(saved, tmp_path, unit, values):
    out = tmp_path / 'out.txt'
    assert profilomatic('export', '-F', 'collapsed', '--unit', unit, '-o', out, saved).returncode == 0
    found = [line.rsplit(' ', 1)[1] for line in out.read_text().splitlines()]
    assert found == (values or ['12', '30', '1'])


def test_classic_is_a_profile_message_for_each_action_type(saved):
    out = profilomatic('export', '-F', 'classic', saved)
    first, second = map(json.loads, out.stdout.splitlines())
    assert first['kind'] == 'profile' and first['source'] == 'web-1'
    assert first['action_type'] == '/checkout/<int:id>' and first['time'] == 176.7
    assert first['window_start'] == first['start_time'] == '2025-01-01T12:00:00Z'
    assert (first['count'], first['profiled'], first['latency']['p99']) == (8413, 290, 0.21)
    (root,) = first['children']
    assert root['instruction'] == 'shop/app.py:view:10'
    assert root['time'] == pytest.approx(176.7, abs=1e-3) and root['self_time'] == pytest.approx(56.7)
    assert [child['instruction'] for child in root['children']] == ['shop/db.py:load_cart:41', 'a;b\tc.py:f:1']
    assert root['children'][0]['self_time'] == 120.0
    assert second['children'] == [] and second['self_time'] == second['time'] == 0.001
    assert first['task_uuid'] != second['task_uuid']
    assert profilomatic('export', '-F', 'classic', saved).stdout == out.stdout, 'the same profile has the same name'


@pytest.mark.parametrize(
    'node',
    [[5, 0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [-1, 99, 1, 0, 0, 0, 0, 0], [-1, 0, -1, 0, 0, 0, 0, 0], 3],
)
def test_a_damaged_tree_is_refused(tmp_path, node):
    path = changed(tmp_path, lambda report: report['actions'][0]['tree'].update(nodes=[node]))
    for form in ('collapsed', 'classic'):
        out = profilomatic('export', '-F', form, path)
        assert out.returncode == 1 and 'damaged' in out.stderr


def test_an_output_that_cannot_be_written_is_told(saved, tmp_path):
    out = profilomatic('export', '-o', tmp_path / 'no' / 'where', saved)
    assert out.returncode == 1 and 'No such file' in out.stderr
    out = profilomatic('export', '-o', '/dev/full', saved)
    assert out.returncode == 1 and 'No space left' in out.stderr


# ---- asking an aggregator ----


class Answers:
    """A control socket that gives one reply to each request, in `directory`; what an aggregator may say."""

    def __init__(self, directory, reply):
        self.requests = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / 'control'))
        self.listener.listen()
        threading.Thread(target=self.serve, args=(reply,), daemon=True).start()

    def serve(self, reply):
        while True:
            connection = self.listener.accept()[0]
            self.requests.append(json.loads(connection.makefile().readline()))
            connection.sendall(reply.encode())
            connection.close()


def test_without_an_aggregator_the_verbs_fail_and_say_where_they_looked(tmp_path):
    for verb in ('status', 'report', 'export'):
        out = profilomatic(verb, '--directory', tmp_path)
        assert (out.returncode, out.stdout) == (1, '')
        assert str(tmp_path) in out.stderr
    out = profilomatic('status', env={**os.environ, 'PROFILOMATIC_DIR': str(tmp_path / 'x')})
    assert out.returncode == 1 and str(tmp_path / 'x') in out.stderr


def test_a_report_is_asked_for_as_the_options_say(tmp_path):
    server = Answers(tmp_path, json.dumps(REPORT) + '\n')
    out = profilomatic('report', '--json', '-d', '2.5', '--source', 'web-1', '--limit', 7, '--directory', tmp_path)
    assert json.loads(out.stdout) == REPORT
    profilomatic('export', '--directory', tmp_path)
    asked = {'verb': 'report', 'source': 'web-1', 'seconds': 2.5, 'action': None, 'limit': 7, 'stacks': False}
    assert server.requests[0] == asked
    assert server.requests[1] == {**asked, 'source': None, 'seconds': None, 'limit': 20, 'stacks': True}


def test_several_pools_are_listed(tmp_path):
    Answers(tmp_path, '{"pools": ["web-1", "web-2"]}\n')
    out = profilomatic('report', '--directory', tmp_path)
    assert out.returncode == 2
    assert '--source' in out.stderr and 'web-1\n' in out.stderr and 'web-2\n' in out.stderr


@pytest.mark.parametrize(
    'reply, words', [('{"error": "no pool yet"}\n', 'no pool yet'), ('nonsense\n', 'no JSON'), ('', 'no answer')]
)
def test_what_the_aggregator_cannot_do_is_told(tmp_path, reply, words):
    Answers(tmp_path, reply)
    for verb in ('status', 'report'):
        out = profilomatic(verb, '--directory', tmp_path)
        assert out.returncode == 1 and words in out.stderr


def test_status_shows_workers_overhead_limits_and_destinations(tmp_path):
    status = {
        'aggregator': {'pid': 12, 'version': '0.1.0', 'uptime_seconds': 60.0},
        'pools': [
            {
                'source': 'web-1',
                'uid': 0,
                'workers': [{'pid': 34, 'python': '3.11.7', 'attached_seconds': 59.0, 'samples': 100, 'dropped': 0}],
                'overhead': REPORT['overhead'],
                'limits': {
                    'interval': 0.01,
                    'granularity': 'line',
                    'cap': 10,
                    'paused': True,
                    'passthrough': False,
                    'max_overhead': 0.02,
                },
                'dropped': 0,
                'destinations': [
                    {
                        'kind': 'rest',
                        'target': 'https://h/api/data',
                        'delivered': 1,
                        'failed': 2,
                        'waiting': 5,
                        'spooled': 4,
                        'last_error': 'HTTP 400',
                    }
                ],
                'quarantined': 0,
                'notes': [],
                'actions': [{'action_type': '/cart', 'count': 9, 'profiled': 2, 'denied': {'lottery': 7, 'cap': 0}}],
            }
        ],
    }
    Answers(tmp_path, json.dumps(status) + '\n')
    out = profilomatic('status', '--directory', tmp_path)
    assert out.returncode == 0
    for words in (
        'process 12',
        'web-1',
        'worker 34: Python 3.11.7',
        'PAUSED',
        'by line',
        'https://h/api/data',
        '5 waiting (4 of them on disk); last error: HTTP 400',
        '/cart: 9 ended, 2 profiled; not profiled: 7 lottery\n',
    ):
        assert words in out.stdout
    assert json.loads(profilomatic('status', '--json', '--directory', tmp_path).stdout) == status
    assert profilomatic('status', '--source', 'other', '--directory', tmp_path).returncode == 3
