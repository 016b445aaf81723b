"""Eliot's actions are followed, and Eliot does not notice. Each test runs a process of its own, since Eliot keeps its
destinations for the whole process."""

import subprocess
import sys
import textwrap

import pytest
from _support import aggregator, ask, environment, run

pytest.importorskip('eliot')


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
