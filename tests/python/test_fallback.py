"""The implementation in pure Python: its own parts, and the tests of the common API over it."""

import http.server
import json
import math
import os
import subprocess
import sys
import threading
import time

import pytest
from _schema import check, schemas
from _support import NATIVE, PROJECT, PYTHON_DIR
from profilomatic import RestDestination
from profilomatic.fallback import actions, budget, eliot_form, stacks, tree
from profilomatic.fallback.engine import Engine
from profilomatic.fallback.outlet import WAITING_MOST, Outlet
from profilomatic.fallback.wsgi import normalise


def python(script, *arguments, cwd=None, **more):
    """Run a script on the fallback, with whatever interpreter runs the tests."""
    import textwrap

    environment = {**os.environ, 'PROFILOMATIC_IMPLEMENTATION': 'python', 'PYTHONPATH': PYTHON_DIR, **more}
    environment.pop('PROFILOMATIC_DIR', None)
    return subprocess.run(
        [sys.executable, '-W', 'ignore::DeprecationWarning', '-c', textwrap.dedent(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
    )


def pass_on_it(python, *files):
    done = subprocess.run(
        [python, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', *files],
        cwd=os.path.join(PROJECT, 'tests', 'python'),
        env={**os.environ, 'PROFILOMATIC_IMPLEMENTATION': 'python', 'PYTHONPATH': PYTHON_DIR},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert 'passed' in done.stdout


@pytest.mark.skipif(not NATIVE, reason='this is that run')
def test_the_tests_of_the_api_pass_on_it_too():
    pass_on_it(
        sys.executable, 'test_actions.py', 'test_profiled.py', 'test_frameworks.py', 'test_asgi.py', 'test_otel.py'
    )


PYPY = os.path.join(PROJECT, 'build', 'venv-pypy', 'bin', 'python')


@pytest.mark.skipif(not NATIVE, reason='this is that run')
@pytest.mark.skipif(not os.access(PYPY, os.X_OK), reason='there is no PyPy in build/venv-pypy')
def test_they_pass_on_pypy():
    pass_on_it(PYPY, 'test_actions.py', 'test_profiled.py', 'test_frameworks.py', 'test_fallback.py')


def test_it_can_be_asked_for_and_says_what_it_is():
    done = python("""
        import profilomatic, json
        assert 'profilomatic.fallback.engine' in __import__('sys').modules
        print(profilomatic.implementation, profilomatic.status()['not_native'])
    """)
    assert (done.stdout, done.stderr) == ('python PROFILOMATIC_IMPLEMENTATION=python\n', '')


# ---- what it may cost


def test_above_the_budget_the_interval_is_stretched_and_then_there_are_pauses():
    limits = budget.Limits()
    seen = []
    for _ in range(6):
        limits = budget.step(limits, ours=0.1, process=1.1, seconds=1.0, most=0.02)
        seen.append(limits)
    assert [limit.stretch for limit in seen] == [2, 4, 8, 10, 10, 10]
    assert [limit.pause_seconds for limit in seen[:4]] == [0, 0, 0, 0]
    # 10 % where 2 % is allowed: a second of it is made up for in four.
    assert seen[4].pause_seconds == pytest.approx(4.0) and seen[5] == seen[4]


def test_below_the_budget_the_interval_comes_back():
    limits = budget.Limits(10.0)
    steps = 0
    while limits.stretch > 1 and steps < 100:
        limits = budget.step(limits, 0.001, 1.0, 1.0, 0.02)
        steps += 1
    assert limits == budget.Limits() and steps == 11


def test_an_idle_process_may_be_profiled_for_a_share_of_a_core():
    assert budget.step(budget.Limits(), 0.0009, 0.001, 1.0, 0.02).stretch == 1
    assert budget.step(budget.Limits(), 0.01, 0.011, 1.0, 0.02).stretch == 2
    assert budget.step(budget.Limits(3.0), 1.0, 1.0, 0.0, 0.02).stretch == 3


def test_the_cap_of_a_second_holds_and_weights_make_up_for_what_was_shed(monkeypatch):
    """With a clock of the test's own: cap 10 of 128 actions in each of 200 seconds."""
    now = [100.0]
    monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
    engine = Engine()
    engine.enabled, engine.unreadable = True, 'so that no thread is started'
    engine.cap, engine.max_overhead = 10, 1e9
    action_type = type('Timed', (actions.Action,), {})
    action_type.on_begin, action_type.on_end = staticmethod(engine.begin), staticmethod(engine.end)
    profiled, weights = [], 0.0
    for _ in range(200):
        admitted = 0
        for _ in range(128):
            with action_type('busy') as action:
                pass
            if action.profile is not None:
                admitted += 1
                weights += action.profile.weight
            now[0] += 1 / 128
        profiled.append(admitted)
    assert max(profiled) <= 10 and engine.totals['busy'][0] == 200 * 128
    assert engine.admitted == sum(profiled)
    assert sum(engine.denied.values()) == 200 * 128 - sum(profiled)
    # Of a cycle's 128 as many pass the lottery as of a binomial distribution, cut at 10.
    p = 10 / 128
    chance = [math.comb(128, n) * p**n * (1 - p) ** (128 - n) for n in range(129)]
    mean = sum(min(n, 10) * chance[n] for n in range(129))
    deviation = math.sqrt(sum((min(n, 10) - mean) ** 2 * chance[n] for n in range(129)))
    assert abs(sum(profiled[1:]) / 199 - mean) < 5 * deviation / math.sqrt(199)
    assert weights == pytest.approx(profiled[0] + sum(profiled[1:]) / p)


# ---- reading stacks


def test_stacks_are_read_only_where_that_is_safe(monkeypatch):
    class Implementation:
        name = 'cpython'

    monkeypatch.setattr(stacks.sys, 'implementation', Implementation)
    monkeypatch.setattr(stacks.sys, 'abiflags', '', raising=False)
    monkeypatch.setattr(stacks.sys, '_is_gil_enabled', lambda: True, raising=False)
    for version, why in (((3, 9), None), ((3, 11), '3.11'), ((3, 12), None), ((3, 16), None)):
        monkeypatch.setattr(stacks.sys, 'version_info', version)
        assert (stacks.unreadable() or 'None').count(why or 'None'), version
    monkeypatch.setattr(stacks.sys, 'abiflags', 't')
    assert 'GIL' in stacks.unreadable()
    Implementation.name = 'pypy'
    assert stacks.unreadable() is None


def test_an_instruction_has_the_chosen_granularity_and_a_path_below_its_root():
    known = stacks.Stacks()
    known.note_roots()
    frame = sys._getframe()
    name = 'test_fallback.py:test_an_instruction_has_the_chosen_granularity_and_a_path_below_its_root'
    line = known.instructions(frame, 'line')[-1]
    assert line.startswith(name + ':') and line.rsplit(':', 1)[1].isdigit()
    assert known.instructions(frame, 'method')[-1] == name
    assert known.instructions(frame, 'file')[-1] == 'test_fallback.py'


@pytest.mark.skipif(stacks.unreadable() is not None, reason=str(stacks.unreadable()))
def test_under_asyncio_samples_go_to_the_action_of_the_task_that_runs():
    """Told by hand-made ticks, each at a known moment."""
    done = python("""
        import asyncio, profilomatic, sys, threading
        from profilomatic.fallback import engine
        profilomatic.configure(max_actions_per_run=0)
        received = []
        profilomatic.add_destination(received.append)
        engine._arm = lambda: None
        def tick():
            thread = threading.Thread(target=engine.tick, args=(1.0,))
            thread.start()
            thread.join()
        def fa(): tick()
        def fb(): tick()
        async def a():
            with profilomatic.action('a'):
                for _ in range(3):
                    fa()
                    await asyncio.sleep(0)
        async def b():
            with profilomatic.action('b'):
                for _ in range(3):
                    await asyncio.sleep(0)
                    fb()
        async def both():
            await asyncio.gather(a(), b(), a())
            fb()   # outside any action
        asyncio.run(both())
        profilomatic.remove_destination(received.append)
        def frames(node):
            found = [node.get('instruction', '')]
            for child in node['children']:
                found += frames(child)
            return found
        for message in received:
            told = {f.split(':')[1] for f in frames(message) if ':' in f}
            print(message['action_type'], sorted(told & {'fa', 'fb'}), engine.samples)
    """)
    assert done.stderr == ''
    assert sorted(done.stdout.splitlines()) == ["a ['fa'] 9", "a ['fa'] 9", "b ['fb'] 9"]


@pytest.mark.skipif(stacks.unreadable() is not None, reason=str(stacks.unreadable()))
def test_a_parked_sampler_costs_nothing_and_wakes_for_the_next_action():
    done = python("""
        import profilomatic, threading, time
        from profilomatic.fallback import engine
        profilomatic.configure(max_actions_per_run=0, max_overhead=0.5)
        profilomatic.add_destination(lambda message: None)
        for _ in range(2):
            before = engine.samples
            with profilomatic.action('a'):
                until = time.monotonic() + 30
                while engine.samples < before + 3 and time.monotonic() < until:
                    time.sleep(0.01)
            assert engine.samples >= before + 3
            deadline = time.monotonic() + 30
            while not engine.parked and time.monotonic() < deadline:
                time.sleep(0.01)
            assert engine.parked
        print('fine')
    """)
    assert (done.stdout, done.stderr) == ('fine\n', '')


# ---- the call tree


@pytest.mark.skipif(sys.implementation.name != 'cpython', reason='its collector starts at allocations')
def test_a_finalizer_may_make_actions_wherever_it_interrupts_one():
    """A collection at every few allocations, whose finalizers begin and end profiled actions: in the middle of what
    begins and ends count, of the waking of the sampler and of the handing over of messages."""
    done = python("""
        import gc, profilomatic, threading, time
        from profilomatic.fallback import engine
        profilomatic.configure(max_actions_per_run=0, max_overhead=0.5)
        profilomatic.add_destination(lambda message: None)
        class Cycle:
            def __init__(self):
                self.itself = self
            def __del__(self):
                with profilomatic.action('late'):
                    pass
        def work():
            gc.set_threshold(1, 1, 1)
            for turn in range(1000):
                with profilomatic.action('type %d' % (turn % 40)):
                    Cycle()
            gc.set_threshold(700, 10, 10)
            until = time.monotonic() + 40
            while engine.totals['late'][0] < 1000 and time.monotonic() < until:
                gc.collect()  # does nothing while another thread is in the middle of one
        thread = threading.Thread(target=work, daemon=True)  # else one that waits for itself would never let go of us
        thread.start()
        thread.join(50)
        counted = engine.totals
        print(thread.is_alive(), counted['late'][0], sum(counted['type %d' % turn][0] for turn in range(40)))
    """)
    assert (done.stdout, done.stderr) == ('False 1000 1000\n', '')


def test_a_request_whose_action_cannot_be_ended_is_answered_all_the_same(monkeypatch, capfd):
    from profilomatic.fallback import asgi

    def fail(action, name, error):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(actions.Action, 'on_begin', staticmethod(lambda action, hint: True))
    monkeypatch.setattr(actions.Action, 'on_end', staticmethod(fail))
    request = asgi.asgi_begin({'type': 'http', 'path': '/x', 'headers': []}, lambda message: 'sent', None)
    assert request({'type': 'http.response.start', 'status': 200, 'headers': []}) == 'sent'
    request.end(False)
    actions.set_current(None)


def test_a_tree_has_events_at_their_places_and_the_measured_time():
    def stack(*names):
        return tuple(names)

    samples = [
        tree.Sample(1.0, 0.1, stack('main', 'f')),
        tree.Sample(2.0, 0.1, stack('main', 'f')),
        tree.Sample(4.0, 0.2, stack('main', 'f')),
        tree.Sample(5.0, 0.1, stack('main', 'g')),
    ]
    events = [tree.Event(0.5, {'n': 'started'}), tree.Event(3.0, {'n': 'inner'}), tree.Event(9.0, {'n': 'ended'})]
    top = tree.children(samples, events, 1000.0, 5.0)
    assert [(piece['instruction'], piece['time']) for piece in top] == [('main', pytest.approx(5.0)), ('main', 0)]
    assert [piece['message']['n'] for piece in top] == ['started', 'ended']
    told = [(p['instruction'], round(p['time'], 6), p.get('message')) for p in top[0]['children']]
    assert told == [('f', 2.0, None), ('f', 2.0, {'n': 'inner'}), ('g', 1.0, None)]
    assert top[0]['start_time'] == '1970-01-01T00:16:40.000000Z' and top[0]['self_time'] == 0
    assert tree.children([], events, 0.0, 1.0) == []


def test_a_message_of_a_deep_stack_can_be_written():
    deep = tuple('f%d' % n for n in range(stacks.DEPTH_MOST))
    message = tree.children([tree.Sample(1.0, 0.1, deep)], [], 0.0, 1.0)
    assert len(json.dumps(message)) > stacks.DEPTH_MOST


# ---- handing over


def test_messages_beyond_the_bound_are_dropped_and_counted():
    outlet = Outlet()
    go, received = threading.Event(), []

    def slow(message):
        go.wait(60)
        received.append(message['n'])

    outlet.destinations = [slow]
    for n in range(WAITING_MOST + 50):
        outlet.put({'n': n})
    go.set()
    assert outlet.flush(60)
    assert outlet.dropped == 50 and received == list(range(WAITING_MOST))


def test_a_failing_destination_is_told_once_and_does_not_stop_the_others(capfd):
    outlet = Outlet()
    received = []

    def fails(message):
        raise OSError('planted')

    outlet.destinations = [fails, received.append]
    for n in range(3):
        outlet.put({'n': n})
    assert outlet.flush(60)
    assert [message['n'] for message in received] == [0, 1, 2] and outlet.status()['failed'] == 3
    assert capfd.readouterr().err.count('planted') == 1


def test_a_server_gets_messages_again_after_it_failed(monkeypatch):
    monkeypatch.setattr('profilomatic.fallback.outlet._TRIES', (0.01, 0.01))
    posted, answers = [], [500, 200, 200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append((self.path, json.loads(self.rfile.read(int(self.headers['Content-Length'])))))
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        outlet = Outlet()
        outlet.destinations = [RestDestination('127.0.0.1', server.server_port)]
        outlet.put({'n': 1})
        outlet.put({'n': 2})
        assert outlet.flush(60)
    finally:
        server.shutdown()
        server.server_close()
    assert posted == [('/api/data', {'n': 1}), ('/api/data', {'n': 1}), ('/api/data', {'n': 2})]
    assert outlet.status()['failed'] == 0


def test_everything_is_handed_over_at_exit_and_a_forked_child_does_its_own(tmp_path):
    done = python(
        """
        import os, profilomatic, sys
        profilomatic.configure(max_actions_per_run=0)
        profilomatic.add_destination(profilomatic.file_destination(sys.argv[1]))
        with profilomatic.action('parent'):
            pid = os.fork()
            if pid == 0:
                assert profilomatic.current_task_uuid() is None
                with profilomatic.action('child'):
                    pass
                sys.exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        """,
        str(tmp_path / 'out'),
    )
    assert (done.returncode, done.stderr) == (0, '')
    names = [json.loads(line)['action_type'] for line in (tmp_path / 'out').read_text().splitlines()]
    assert sorted(names) == ['child', 'parent']


# ---- names


@pytest.mark.parametrize(
    ('path', 'name'),
    [
        ('/item/1234', '/item/<int>'),
        ('/o/3f2504e0-4f89-41d3-9a0c-0305e82c3301', '/o/<uuid>'),
        ('/blob/deadbeef01', '/blob/<hex>'),
        ('/order-20231105.pdf', '/order-<int>.pdf'),
        ('/api/v2/facade', '/api/v2/facade'),
        ('/a//b/', '/a//b/'),
        ('', '/'),
        ('/caf\xc3\xa9', '/caf\xe9'),
        ('/a\xff\n\x7f', '/a???'),
    ],
)
def test_paths_are_normalised_as_in_c(path, name):
    assert normalise(path) == name
    assert len(normalise(path + 'x' * 5000).encode()) <= 200


def test_random_uuids_are_of_version_4():
    import uuid

    for _ in range(100):
        made = actions.make_uuid()
        assert str(uuid.UUID(made)) == made and uuid.UUID(made).version == 4
        assert uuid.UUID(made).variant == uuid.RFC_4122


def test_what_is_handed_to_a_thread_pool_is_still_the_actions_own():
    done = python("""
        import concurrent.futures, contextvars, profilomatic
        profilomatic.add_destination(lambda message: None)
        current = profilomatic.current_task_uuid
        with concurrent.futures.ThreadPoolExecutor(1) as pool, profilomatic.action('a') as action:
            assert pool.submit(current).result() == action.task_uuid
            from profilomatic.fallback import carried_context
            assert carried_context().run(current) == action.task_uuid
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(current).result() is None and carried_context() is None
        print('fine')
    """)
    assert (done.stdout, done.stderr) == ('fine\n', '')


def test_asyncio_is_not_loaded_for_its_sake():
    done = python("""
        import sys, profilomatic
        profilomatic.add_destination(lambda message: None)
        with profilomatic.action('a'):
            pass
        print('asyncio' in sys.modules)
    """)
    assert (done.stdout, done.stderr) == ('False\n', '')


def test_in_eliots_form_what_was_logged_stands_between_the_stacks_before_and_after_it():
    message = {
        'id': '01234567-89ab-4def-8123-456789abcdef',
        'source': 'here',
        'action_type': 'shop:order',
        'action_status': 'failed',
        'exception': 'Refused',
        'task_uuid': 'ffffffff-89ab-4def-8123-456789abcdef',
        'task_level': [2],
        'pid': 7,
        'thread': 8,
        'weight': 4.0,
        'interval': 0.01,
        'code_granularity': 'line',
        'time': 2.0,
        'cpu_time': 0.5,
    }
    samples = [
        tree.Sample(time, 0.1, stack)
        for time, stack in [(5.1, ('a', 'b')), (5.2, ('a', 'b')), (5.4, ('a',)), (5.5, ())]
    ]
    own = {'action_type': 'shop:order', 'action_status': 'started', 'task_uuid': message['task_uuid']}
    events = [tree.Event(5.0, own), tree.Event(5.3, {'n': 1}), tree.Event(5.6, {**own, 'action_status': 'failed'})]
    lines = eliot_form.action(message, samples, events, 5.0, 1000.0)
    for line in lines:
        check(line, schemas('messages.md')['eliot'])
        assert line['task_uuid'] == '01234567-89ab-8def-8123-456789abcdef'
    assert [line['task_level'] for line in lines] == [[1], [2], [3], [4], [5]]
    first, before, logged, after, last = lines
    assert (before['frames'], before['stacks'], before['values']) == (['a', 'b'], [[0, 1]], [[1_000_000_000, 2]])
    assert logged['logged'] == {'n': 1} and logged['timestamp'] == pytest.approx(1000.3)
    assert (after['stacks'], after['values']) == ([[0], []], [[500_000_000, 1], [500_000_000, 1]])
    assert last['top'] == ['b 66.7%', 'a 33.3%'] and last['profiled_exception'] == 'Refused'
    events[-1] = tree.Event(5.6, {**own, 'task_level': [3]})
    assert eliot_form.action(message, samples, events, 5.0, 1000.0)[-2]['logged']['task_level'] == [3]


def test_both_forms_tell_of_the_same_actions(tmp_path):
    pytest.importorskip('eliot')
    from eliot.parse import Parser

    done = python(
        """
        import profilomatic, profilomatic.eliot, time
        from eliot import log_message, start_action
        profilomatic.configure(max_actions_per_run=0, time_granularity=0.005, store_all_logs=True)
        profilomatic.add_destination(profilomatic.FileDestination('classic.log'))
        profilomatic.add_destination(profilomatic.FileDestination('eliot.log', form='eliot'))
        profilomatic.eliot.patch()
        def spin():
            until = time.thread_time() + 0.05
            while time.thread_time() < until: pass
        for n in range(3):
            with start_action(action_type='shop:order', n=n):
                spin()
                log_message('shop:priced')
                with start_action(action_type='shop:pay'):
                    spin()
        """,
        cwd=str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, '')
    classic, told = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ('classic.log', 'eliot.log')
    )
    for message in told:
        check(message, schemas('messages.md')['eliot'])
    begun = [message for message in told if message.get('kind') == 'action']
    assert [message['id'] for message in begun] == [message['id'] for message in classic] and len(begun) == 3
    complete = list(Parser.parse_stream(iter(told)))
    assert len(complete) == 3 and all(task.is_complete() for task in complete)
    logged = [message['logged'].get('message_type') for message in told if 'logged' in message]
    assert logged.count('shop:priced') == 3
    for first, message in zip(begun, classic):
        assert first['profiled_task_uuid'] == message['task_uuid']
        rows = [row for m in told if m['task_uuid'] == first['task_uuid'] for row in m.get('values', ())]
        assert not rows or sum(row[0] for row in rows) / 1e9 == pytest.approx(message['time'], abs=1e-6)
        assert bool(rows) == (message['children'] != [] and stacks.unreadable() is None)


@pytest.mark.skipif(stacks.unreadable() is not None, reason=str(stacks.unreadable()))
def test_with_scope_process_time_outside_any_action_is_told_as_a_profile(tmp_path):
    """Also in a child of a fork. Time inside an action, profiled or not, is not outside; callables are not told."""
    done = python(
        """
        import os, sys, threading, time, profilomatic
        def outside_any():
            until = time.thread_time() + 0.6
            while time.thread_time() < until: pass
        def inside_one():
            until = time.thread_time() + 0.2
            while time.thread_time() < until: pass
        got = []
        profilomatic.configure(
            scope='process', max_overhead=0.5, time_granularity=0.005, code_granularity='method', source_name='whole')
        profilomatic.add_destination(profilomatic.FileDestination('classic.log', profiles=True))
        profilomatic.add_destination(profilomatic.FileDestination('eliot.log', profiles=True, form='eliot'))
        profilomatic.add_destination(profilomatic.FileDestination('actions.log'))
        profilomatic.add_destination(got.append)
        child = os.fork()
        outside_any()
        with profilomatic.action('one'):
            inside_one()
        if child:
            os.waitpid(child, 0)
        profilomatic._switch.switch.flush()
        print(profilomatic.status()['process']['outside'] > 0, {message['kind'] for message in got} <= {'action'})
        sys.stdout.flush()
        """,
        cwd=str(tmp_path),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, 'True True\n' * 2, '')
    classic, told = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ('classic.log', 'eliot.log')
    )
    profiles = [message for message in classic if message['kind'] == 'profile']
    assert len(profiles) >= 2, 'of both processes'
    names = []
    for message in profiles:
        check(message, schemas('messages.md')['profile'])
        assert message['time'] == pytest.approx(sum(child['time'] for child in message['children']))
        text = json.dumps(message)
        assert not [name for name in ('inside_one', '_sample_for_ever', '_serve') if name in text], text
        names.append('outside_any' in text)
    assert names.count(True) >= 2
    for message in told:
        check(message, schemas('messages.md')['eliot'])
    assert {m['id'] for m in told if m.get('kind') == 'profile'} == {message['id'] for message in profiles}
    assert 'profile' not in {json.loads(line)['kind'] for line in (tmp_path / 'actions.log').read_text().splitlines()}
