"""Eliot's actions are followed, and Eliot does not notice. Each test runs a process of its own, since Eliot keeps its
destinations for the whole process."""

import json
import subprocess
import sys
import textwrap

import pytest
from _support import NATIVE, aggregator, ask, environment, run

pytest.importorskip('eliot')
needs_native = pytest.mark.skipif(not NATIVE, reason='asks the aggregator, or samples')


def script(tmp_path, text, directory='run'):
    result = run(
        """
        import io, json, threading
        import profilomatic
        from eliot import add_destinations, remove_destination, log_message, start_action, start_task
        profilomatic.configure(source_name='eliot')
        profilomatic.add_destination(lambda message: None)
        current = profilomatic.current_task_uuid
        """
        + textwrap.indent(textwrap.dedent(text), ' ' * 8),
        tmp_path / directory,
        profiled=False,
    )
    assert (result.returncode, result.stderr) == (0, '')
    return result.stdout


def test_an_eliot_action_is_an_action_with_its_task_uuid(tmp_path):
    assert (
        script(
            tmp_path,
            """
        add_destinations(lambda message: None)
        profilomatic.eliot.patch()
        profilomatic.eliot.patch()
        assert current() is None
        with start_action(action_type='shop:charge') as outer:
            assert current() == outer.task_uuid
            with start_action(action_type='shop:gateway') as inner:
                log_message('shop:message')
                assert current() == outer.task_uuid == inner.task_uuid
            assert current() == outer.task_uuid
            with start_task(action_type='shop:other'):
                assert current() is not None
        assert current() is None
        try:
            with start_action(action_type='shop:fails'):
                raise KeyError
        except KeyError:
            pass
        assert current() is None
        profilomatic.eliot.unpatch()
        profilomatic.eliot.unpatch()
        with start_action(action_type='shop:charge'):
            assert current() is None
        print('fine')
        """,
        )
        == 'fine\n'
    )


@needs_native
def test_actions_are_counted_by_type_with_their_failures(tmp_path):
    with aggregator(tmp_path / 'run'):
        script(
            tmp_path,
            """
            add_destinations(lambda message: None)
            profilomatic.eliot.patch()
            for n in range(20):
                try:
                    with start_action(action_type='shop:charge'):
                        with start_action(event='shop:event'):
                            pass
                        with start_action():
                            assert n % 4
                except AssertionError:
                    pass
            """,
        )
        report = ask(tmp_path / 'run', verb='report', source='eliot', seconds=None, action=None, limit=5, stacks=False)
    assert {(a['action_type'], a['count'], a['errors']) for a in report['actions']} == {
        ('shop:charge', 20, 5),
        ('shop:event', 20, 0),
        ('(unnamed)', 20, 5),
    }


FIRST = """
    log_message('early 1')
    with start_action(action_type='early 2'):
        profilomatic.eliot.patch()
        log_message('early 3')
        with start_action(action_type='early 4') as action:
            assert current() == action.task_uuid
    got = []
    add_destinations(got.append)
"""


def test_patched_first_eliot_still_gives_its_early_messages_to_the_application(tmp_path):
    out = script(
        tmp_path,
        FIRST
        + """
    print([m.get('message_type', m.get('action_type')) for m in got])
    log_message('late')
    print(got[-1]['message_type'], len(got))
    with start_action(action_type='late') as action:
        assert current() == action.task_uuid
    assert current() is None
    """,
    )
    expected = ['early 1', 'early 2', 'early 3', 'early 4', 'early 4', 'early 2']
    assert out.splitlines() == [repr(expected), 'late 7']


@needs_native
def test_the_early_messages_do_not_become_actions_a_second_time(tmp_path):
    with aggregator(tmp_path / 'run'):
        script(tmp_path, FIRST)
        report = ask(tmp_path / 'run', verb='report', source='eliot', seconds=None, action=None, limit=5, stacks=False)
    assert [(a['action_type'], a['count']) for a in report['actions']] == [('early 4', 1)]


def test_patched_and_unpatched_before_the_application_leaves_eliot_as_it_was(tmp_path):
    assert (
        script(
            tmp_path,
            """
        from eliot import Logger
        log_message('early 1')
        profilomatic.eliot.patch()
        log_message('early 2')
        profilomatic.eliot.unpatch()
        assert type(Logger._destinations._destinations[0].messages) is list
        assert len(Logger._destinations._destinations) == 1
        got = []
        add_destinations(got.append)
        with start_action(action_type='a'):
            assert current() is None
        print([m.get('message_type', m.get('action_type')) for m in got])
        """,
        )
        == "['early 1', 'early 2', 'a', 'a']\n"
    )


def test_the_applications_log_is_the_same_with_and_without_us(tmp_path):
    text = """
        from eliot import FileDestination
        if %r: profilomatic.eliot.patch()
        log = io.StringIO()
        add_destinations(FileDestination(log))
        with start_action(action_type='a', x=1):
            log_message('m', y=[1, 2])
            try:
                with start_action(action_type='b'): raise ValueError('z')
            except ValueError: pass
        messages = [json.loads(line) for line in log.getvalue().splitlines()]
        for m in messages: m.pop('timestamp'), m.pop('task_uuid')
        print(json.dumps(messages))
        """
    assert script(tmp_path, text % True, 'one') == script(tmp_path, text % False, 'two')


def test_what_goes_wrong_with_us_never_reaches_eliot(tmp_path):
    result = run(
        """
        import profilomatic, profilomatic.eliot
        from eliot import add_destinations, start_action
        got = []
        add_destinations(got.append)
        profilomatic.add_destination(lambda message: None)
        profilomatic.eliot.patch()
        class Broken:
            def Action(self, *arguments): raise MemoryError('none left')
        profilomatic.eliot._runtime = Broken()
        for n in range(3):
            with start_action(action_type='a'):
                pass
        print([m.get('message_type', m.get('action_status')) for m in got])
        """,
        tmp_path / 'run',
        profiled=False,
    )
    assert result.stdout == "['started', 'succeeded', 'started', 'succeeded', 'started', 'succeeded']\n"
    assert result.stderr.count('\n') == 1 and 'none left' in result.stderr


def test_actions_that_never_finish_do_not_pile_up(tmp_path):
    assert (
        script(
            tmp_path,
            """
        from profilomatic.eliot import OPEN_ACTIONS
        add_destinations(lambda message: None)
        profilomatic.eliot.patch()
        for n in range(OPEN_ACTIONS + 50):
            start_action(action_type='forgotten')
        print(len(profilomatic.eliot._destination._open) == OPEN_ACTIONS)
        profilomatic.eliot.unpatch()
        print(current())
        """,
        )
        == 'True\nNone\n'
    )


def test_threads_do_not_mix_their_actions(tmp_path):
    assert (
        script(
            tmp_path,
            """
        add_destinations(lambda message: None)
        profilomatic.eliot.patch()
        wrong = []
        def work():
            for n in range(200):
                with start_action(action_type='t') as action:
                    if current() != action.task_uuid: wrong.append(n)
        threads = [threading.Thread(target=work) for _ in range(4)]
        [t.start() for t in threads]; [t.join() for t in threads]
        print(wrong)
        """,
        )
        == '[]\n'
    )


def test_without_eliot_only_profilomatic_eliot_fails_to_import(tmp_path):
    (tmp_path / 'eliot.py').write_text('raise ImportError("no Eliot here")\n')
    result = subprocess.run(
        [
            sys.executable,
            '-c',
            'import profilomatic\ntry:\n    profilomatic.eliot\nexcept ImportError as error:\n    print(error)\n',
        ],
        env=environment(tmp_path / 'run', profiled=False, extra_path=[tmp_path]),
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.stderr) == ('no Eliot here\n', '')


# ---- what Eliot logs in profiled actions


PROFILED = """
    import time
    from profilomatic import _runtime
    from eliot import log_call, Action
    messages = []
    profilomatic.configure(max_overhead=0.5, max_actions_per_run=0, time_granularity=0.005, store_all_logs=%s)
    profilomatic.add_destination(messages.append)
    add_destinations(lambda message: None)
    profilomatic.eliot.patch()

    def until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def admitted():
        with start_action(action_type='warm'):
            return _runtime.current().profiled

    def spin():
        end = time.thread_time() + 0.1
        while time.thread_time() < end: pass

    def profile_of(action_type):
        until(lambda: [m for m in messages if m['action_type'] == action_type])
        return [m for m in messages if m['action_type'] == action_type][0]

    def nodes(tree):
        yield tree
        for child in tree['children']:
            yield from nodes(child)

    def logged(tree):
        return [node['message'] for node in nodes(tree) if 'message' in node]

    until(admitted)
    """


def profiled(tmp_path, text, store_all_logs):
    with aggregator(tmp_path / 'run'):
        return script(tmp_path, PROFILED % store_all_logs + textwrap.dedent(text).replace('\n', '\n    '))


SPLIT = """
    def job():
        for n in range(3):
            spin()
            if n < 2:
                log_message('shop:halfway', n=n)

    with start_action(action_type='shop:job', customer=7):
        job()
    tree = profile_of('shop:job')
    jobs = [node for node in nodes(tree) if ':job:' in node.get('instruction', '')]
    print(sum(any(':spin' in below['instruction'] for below in nodes(node)) for node in jobs))
    told = [[m.get('message_type', m.get('action_status')), m.get('n', m.get('customer'))] for m in logged(tree)]
    print(json.dumps(told))
    """


@needs_native
def test_with_all_logs_each_message_splits_the_call_graph_at_its_place_in_time(tmp_path):
    parts, told = profiled(tmp_path, SPLIT, True).splitlines()
    assert parts == '3'
    assert told == '[["started", 7], ["shop:halfway", 0], ["shop:halfway", 1], ["succeeded", null]]'


@needs_native
def test_otherwise_only_starts_and_ends_are_in_it(tmp_path):
    _, told = profiled(tmp_path, SPLIT, False).splitlines()  # a sample in Eliot's own code may split the graph as well
    assert told == '[["started", 7], ["succeeded", null]]'


def test_failures_carry_the_type_of_the_exception_and_nested_actions_are_in_the_tree(tmp_path):
    out = profiled(
        tmp_path,
        """
        class Refused(Exception): pass
        try:
            with start_action(action_type='shop:pay') as outer:
                spin()
                with start_action(action_type='shop:bank'):
                    spin()
                    raise Refused('no money')
        except Refused:
            pass
        tree = profile_of('shop:pay')
        assert tree['task_uuid'] == outer.task_uuid and 'task_level' not in tree
        print(tree['action_status'], tree['exception'])
        for m in logged(tree):
            print(m['action_type'], m['action_status'], m.get('exception'), m.get('reason'), m['task_level'])
        """,
        False,
    )
    assert out.splitlines() == [
        'failed __main__.Refused',
        'shop:pay started None None [1]',
        'shop:bank started None None [2, 1]',
        'shop:bank failed __main__.Refused no money [2, 2]',
        'shop:pay failed __main__.Refused no money [3]',
    ]


def test_a_task_that_is_continued_elsewhere_has_its_uuid_and_the_level_that_was_handed_on(tmp_path):
    out = profiled(
        tmp_path,
        """
        with start_action(action_type='shop:order') as order:
            handed_on = order.serialize_task_id()
        with Action.continue_task(task_id=handed_on):
            spin()
        tree = profile_of('eliot:remote_task')
        print(tree['task_uuid'] == order.task_uuid, tree['task_level'], handed_on.decode().split('@')[1])
        """,
        False,
    )
    assert out == 'True [2] /2\n'


def test_what_is_logged_in_a_request_that_eliot_does_not_know_of_is_in_its_call_graph(tmp_path):
    out = profiled(
        tmp_path,
        """
        with profilomatic.action('report:build'):
            spin()
            log_message('outside any action of Eliot', value={1, 2})
        print([m['message_type'] for m in logged(profile_of('report:build')) if 'message_type' in m])
        """,
        True,
    )
    assert out == "['outside any action of Eliot']\n"


def test_a_message_longer_than_the_lane_takes_is_cut_to_valid_json(tmp_path):
    out = profiled(
        tmp_path,
        """
        with start_action(action_type='shop:big'):
            log_message('shop:long', short=1, text='\\u20ac' * 100_000, many=list(range(10_000)), last=2)
        cut, = [m for m in logged(profile_of('shop:big')) if 'message_type' in m]
        print(cut['truncated'], cut['message_type'], cut['short'], cut['last'], 'many' in cut, len(cut['text']))
        """,
        True,
    )
    assert out == 'True shop:long 1 2 False 36\n'


def test_no_code_of_the_application_is_called_for_a_messages_text():
    from profilomatic._logged import text_of

    class Hostile:
        def __str__(self):
            raise AssertionError('called')

        __repr__ = __iter__ = __eq__ = __bool__ = __len__ = __str__
        __hash__ = object.__hash__

    class Text(str):
        __str__ = __repr__ = __len__ = Hostile.__str__

    class Number(int):
        __str__ = __repr__ = Hostile.__str__

    endless = []
    endless.append(endless)
    message = {
        'task_uuid': 'x',
        'object': Hostile(),
        'text': Text('plain'),
        'number': Number(3),
        'nan': float('nan'),
        'bytes': b'1',
        'keys': {(1, 2): 3, Hostile(): 4},
        'surrogate': '\udc80',
        'when': __import__('datetime').date(2026, 1, 31),
        'deep': endless,
    }
    for longest in (10_000, 300, 30):
        text = text_of(message, longest)
        assert len(text) <= longest and text.isascii()
        told = json.loads(text)
        assert ('truncated' in told) == (longest < 10_000)
    told = json.loads(text_of(message, 10_000))
    assert (told['text'], told['number'], told['nan'], told['when']) == ('plain', '3', 'nan', '2026-01-31')
    assert told['object'].endswith('Hostile>') and told['bytes'] == '<builtins.bytes>'
