"""Messages are as docs/messages.md says, in both forms, and Eliot's own tools read them and join them to the
application's log."""

import json
import os
import subprocess
import sys
import time
from collections import Counter

import pytest
from _schema import check, schemas
from _support import NATIVE, aggregator, run

eliot = pytest.importorskip('eliot')
pytestmark = pytest.mark.skipif(not NATIVE, reason='the aggregator writes them')

APPLICATION = """
    import json, time
    import profilomatic, profilomatic.eliot
    from eliot import FileDestination, Action, add_destinations, log_message, start_action
    profilomatic.configure(
        source_name='messages', max_overhead=0.5, max_actions_per_run=0, time_granularity=0.005, store_all_logs=True)
    profilomatic.add_destination(profilomatic.FileDestination('classic.log', profiles=True))
    profilomatic.add_destination(profilomatic.FileDestination('eliot.log', profiles=True, form='eliot'))
    add_destinations(FileDestination(open('application.log', 'w')))
    profilomatic.eliot.patch()

    def spin():
        end = time.thread_time() + 0.05
        while time.thread_time() < end: pass

    class Refused(Exception): pass

    def order(n):
        with start_action(action_type='shop:order', customer=n) as action:
            spin()
            log_message('shop:priced', price=n)
            handed_on = action.serialize_task_id()
            try:
                with start_action(action_type='shop:pay'):
                    spin()
                    if n % 2: raise Refused('no money')
            except Refused:
                pass
            with Action.continue_task(task_id=handed_on):
                pass

    deadline = time.monotonic() + 60
    n = 0
    def kinds():
        try:
            lines = open('classic.log').read().splitlines()
        except OSError:
            return set()
        return {json.loads(line)['kind'] for line in lines if line.endswith('}')}
    while kinds() != {'action', 'profile', 'status'}:
        assert time.monotonic() < deadline
        for _ in range(2):  # no more than the lane holds while the aggregator is slow
            order(n)
            n += 1
        with profilomatic.action('plain'):
            spin()
        time.sleep(0.5)
    try:
        with start_action(action_type='shop:broken'):
            spin()
            raise Refused('at last')
    except Refused:
        pass
    """


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('messages')
    with aggregator(path / 'run'):
        done = run(APPLICATION, path / 'run', profiled=False, cwd=str(path))
        assert (done.returncode, done.stderr) == (0, '')
        deadline = time.monotonic() + 30
        while 'shop:broken' not in (path / 'eliot.log').read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def classic(folder):
    return lines(folder / 'classic.log')


@pytest.fixture(scope='module')
def told(folder):
    return lines(folder / 'eliot.log')


def test_classic_messages_are_as_documented(classic):
    known = schemas('messages.md')
    for message in classic:
        check(message, known[message['kind']])
    assert {message['kind'] for message in classic} == {'action', 'profile', 'status'}
    assert max(Counter(message['id'] for message in classic).values()) == 1


def test_eliot_messages_are_as_documented(told):
    schema = schemas('messages.md')['eliot']
    allowed = set(schema['properties'])
    for message in told:
        check(message, schema)
        if message.get('kind') == 'action' or 'message_type' in message:
            assert set(message) <= allowed
    assert {message['kind'] for message in told if 'kind' in message} == {'action', 'profile', 'status'}


def test_both_forms_tell_of_the_same_messages(classic, told):
    begun = [message for message in told if message.get('action_status') == 'started']
    assert {message['id'] for message in begun} == {message['id'] for message in classic}


def test_eliots_parser_finds_every_task_complete(told):
    from eliot.parse import Parser

    complete = list(Parser.parse_stream(iter(told)))
    assert len(complete) == len({message['task_uuid'] for message in told})
    assert all(task.is_complete() for task in complete)


def test_the_applications_own_log_stays_complete_and_its_tasks_are_linked(folder, told):
    from eliot.parse import Parser

    application = lines(folder / 'application.log')
    assert all(task.is_complete() for task in Parser.parse_stream(iter(application)))
    known = {message['task_uuid'] for message in application}
    linked = [m for m in told if m.get('kind') == 'action' and m['profiled_action_type'] != 'plain']
    assert linked and {message['profiled_task_uuid'] for message in linked} <= known
    starts = {
        (m['task_uuid'], tuple(m['task_level'][:-1])): m['action_type']
        for m in application
        if m.get('action_status') == 'started'
    }
    for message in linked:
        place = (message['profiled_task_uuid'], tuple(message['profiled_task_level']))
        assert starts[place] == message['profiled_action_type']


def test_time_is_the_same_in_both_forms(classic, told):
    times = {message['id']: message['time'] for message in classic if message['kind'] == 'action'}
    ids = {message['task_uuid']: message['id'] for message in told if message.get('kind') == 'action'}
    sampled = Counter()
    for message in told:
        if message.get('message_type') == 'profilomatic:stacks' and message['task_uuid'] in ids:
            assert len(message['stacks']) == len(message['values'])
            assert all(place < len(message['frames']) for stack in message['stacks'] for place in stack)
            sampled[ids[message['task_uuid']]] += sum(sum(row[:4]) for row in message['values'])
    assert sampled
    for id, nanoseconds in sampled.items():
        assert nanoseconds / 1e9 == pytest.approx(times[id], abs=1e-6)


def test_what_was_logged_stands_between_the_stacks_before_and_after_it(told):
    begun = [m for m in told if m.get('profiled_action_type') == 'shop:order' and m['kind'] == 'action']
    between = 0
    for first in begun:
        task = [m for m in told if m['task_uuid'] == first['task_uuid']]
        assert [m['task_level'] for m in task] == [[n + 1] for n in range(len(task))]
        kinds = [m.get('message_type') for m in task]
        for n, m in enumerate(task):
            if m.get('logged', {}).get('message_type') == 'shop:priced':
                between += 'profilomatic:stacks' in kinds[:n] and 'profilomatic:stacks' in kinds[n:]
    assert between


def test_failures_carry_their_exception(classic, told):
    broken = [m for m in classic if m.get('action_type') == 'shop:broken' and m['kind'] == 'action']
    assert [m['exception'] for m in broken] == ['__main__.Refused']
    assert [m['profiled_exception'] for m in told if 'profiled_exception' in m] == ['__main__.Refused']


def test_eliot_tree_shows_it(folder):
    pytest.importorskip('eliottree')
    done = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), 'eliot-tree'), '--color', 'never', str(folder / 'eliot.log')],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert 'profilomatic:action' in done.stdout and 'profiled_action_type: shop:order' in done.stdout


def test_the_schema_has_teeth():
    known = schemas('messages.md')
    good = {
        'kind': 'status',
        'id': '0' * 32,
        'source': 'x',
        'workers': 1,
        'overhead': {},
        'limits': {},
        'decisions': [],
    }
    good.update(window_start='', window_end='')
    check(good, known['status'])
    for wrong in ({'workers': -1}, {'workers': '1'}, {'id': 'no'}, {'kind': 'action'}, {'decisions': {}}):
        with pytest.raises(AssertionError):
            check({**good, **wrong}, known['status'])
    with pytest.raises(AssertionError):
        check({name: value for name, value in good.items() if name != 'source'}, known['status'])
