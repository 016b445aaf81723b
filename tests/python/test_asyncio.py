"""Tasks and greenlets that take turns on a thread, and threads that work for them: every sample belongs to the action
that was current where the code ran.

Each kind of action calls one function only (`fa`, `fb`), so that a sample with the wrong one in it shows."""

import collections
import importlib.util
import json
import subprocess
import sys
import tempfile
import textwrap

import pytest
from _support import ADMITTED, aggregator, environment, exported

START = (
    ADMITTED
    + """
    import asyncio, collections, contextvars, json, os, random, sys, threading, time
    import profilomatic
    profilomatic.configure(max_actions_per_run=0, max_overhead=0.5, time_granularity=0.001, code_granularity='method')
    profilomatic.add_destination(profilomatic.file_destination(os.environ['PROFILOMATIC_DIR'] + '/out.log'))

    def spin(seconds):
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    def fa(seconds):
        spin(seconds)

    def fb(seconds):
        spin(seconds)

    assert admitted()
"""
)


END = """
    print(json.dumps(profilomatic.status()['process']))
"""


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as path, aggregator(path):
        yield path


def run(script, directory):
    """Run it to its end; what the process says of itself."""
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(START) + textwrap.dedent(script) + textwrap.dedent(END)],
        env=environment(directory, profiled=False),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    return json.loads(done.stdout)


def samples(report, column='samples'):
    """Samples, or time in a state, by action type and by each function on the stack."""
    found = collections.defaultdict(collections.Counter)
    for row in report['actions']:
        columns = row['tree']['columns']
        at = {name: columns.index(name) for name in ('instruction', 'parent', column)}
        functions = []
        for node in row['tree']['nodes']:
            above = functions[node[at['parent']]] if node[at['parent']] >= 0 else frozenset()
            name = report['instructions'][node[at['instruction']]].split(':')
            functions.append(above | {name[1] if len(name) > 1 else name[0]})
            for function in functions[-1]:
                found[row['action_type']][function] += node[at[column]]
            found[row['action_type']]['(all)'] += node[at[column]]
    return found


def wrong(found):
    return found['a']['fb'] + found['b']['fa']


# Twenty clients that take turns every third of a millisecond, in contexts of few and of many variables.
TURNS = """
    VARIABLES = [contextvars.ContextVar(f'variable {n}') for n in range(300)]

    async def request(kind, function):
        for variable in random.sample(VARIABLES, random.choice([0, 0, 1, 5, 30, 100])):
            variable.set(kind)
        with profilomatic.action(kind):
            for _ in range(5):
                function(0.0003)
                await asyncio.sleep(0.001)

    async def client(kind, function, until):
        while time.monotonic() < until:
            await request(kind, function)

    async def main(**how):
        until = time.monotonic() + SECONDS
        loop = asyncio.get_running_loop()
        await asyncio.gather(*[loop.create_task(client(kind, function, until), **how)
                               for kind, function in 10 * [('a', fa), ('b', fb)]])
"""


def test_a_sample_goes_to_the_action_of_the_task_that_runs(directory):
    said = run(TURNS.replace('SECONDS', '3') + '\n    asyncio.run(main())\n', directory)
    report = exported(directory)
    found = samples(report)
    assert found['a']['fa'] > 60 and found['b']['fb'] > 60, found
    assert wrong(found) == 0, found
    assert said['unattributed'] <= 0.01 * said['samples']
    assert report['unattributed'] >= said['unattributed'], said


@pytest.mark.skipif(sys.version_info < (3, 11), reason='a task cannot be given a context')
def test_it_would_be_seen_if_a_sample_went_to_another_action(directory):
    """Where all tasks share one context, the action that began last is the current one of them all."""
    run(TURNS.replace('SECONDS', '2') + '\n    asyncio.run(main(context=contextvars.copy_context()))\n', directory)
    found = samples(exported(directory))
    assert wrong(found) > 30, found


def test_child_tasks_and_threads_that_work_for_a_task_belong_to_its_action(directory):
    run(
        """
        import concurrent.futures
        pool = concurrent.futures.ThreadPoolExecutor(3)

        async def request(kind, function):
            loop = asyncio.get_running_loop()
            async def child():
                function(0.003)
            with profilomatic.action(kind):
                await asyncio.create_task(child())
                await asyncio.gather(asyncio.to_thread(function, 0.003), loop.run_in_executor(None, function, 0.003),
                                     loop.run_in_executor(pool, function, 0.003))

        async def main():
            until = time.monotonic() + 3
            async def client(kind, function):
                while time.monotonic() < until:
                    await request(kind, function)
            await asyncio.gather(*[client(kind, function) for kind, function in 3 * [('a', fa), ('b', fb)]])

        asyncio.run(main())
        """,
        directory,
    )
    found = samples(exported(directory))
    for kind in ('a', 'b'):
        assert found[kind]['child'] + found[kind]['request.<locals>.child'] > 20, found
        assert found[kind]['_worker'] > 60, found
    assert wrong(found) == 0, found


def test_thread_pools_work_for_the_action_that_asked(directory):
    """Without a context of its own being passed on, and without asyncio."""
    run(
        """
        import concurrent.futures
        pool = concurrent.futures.ThreadPoolExecutor(4)

        def client(kind, function):
            until = time.monotonic() + 3
            while time.monotonic() < until:
                with profilomatic.action(kind):
                    list(pool.map(function, [0.002] * 3))
                    assert pool.submit(profilomatic.current_task_uuid).result() == profilomatic.current_task_uuid()

        threads = [threading.Thread(target=client, args=args) for args in 2 * [('a', fa), ('b', fb)]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pool.submit(profilomatic.current_task_uuid).result() is None
        """,
        directory,
    )
    found = samples(exported(directory))
    assert found['a']['fa'] > 60 and found['b']['fb'] > 60, found
    assert wrong(found) == 0, found


def test_a_task_does_not_have_its_thread_to_itself_whoever_made_the_thread(directory):
    """Also where nothing has made a context for the thread, so that the task's is the outermost one there."""
    run(
        """
        import _thread

        async def waits(kind):
            with profilomatic.action(kind):
                await asyncio.sleep(0.3)

        async def works():
            until = time.thread_time() + 0.3
            while time.thread_time() < until:
                spin(0.005)
                await asyncio.sleep(0)

        async def main(kind):
            await asyncio.gather(waits(kind), works())

        loops = [asyncio.new_event_loop() for _ in range(2)]
        _thread.start_new_thread(loops[0].run_forever, ())
        threading.Thread(target=loops[1].run_forever, daemon=True).start()
        for kind, loop in zip('ab', loops):
            asyncio.run_coroutine_threadsafe(main(kind), loop).result()
            loop.call_soon_threadsafe(loop.stop)
        """,
        directory,
    )
    rows = {row['action_type']: row for row in exported(directory)['actions']}
    for kind in ('a', 'b'):  # what it does itself is to fall asleep and to wake up
        assert rows[kind]['cpu'] < 0.25 * rows[kind]['wall'], rows[kind]


GREENLETS = """
    KIND = '{kind}'
    if KIND == 'gevent':
        import gevent.monkey
        gevent.monkey.patch_all()
        from gevent import spawn, sleep
        from gevent import joinall
    else:
        import contextlib, io
        with contextlib.redirect_stderr(io.StringIO()):  # it says that it is old
            import eventlet
        eventlet.monkey_patch()
        from eventlet import spawn, sleep
        def joinall(threads):
            for thread in threads:
                thread.wait()
"""

TAKE_TURNS = """
    def request(kind, function):
        with profilomatic.action(kind):
            for _ in range(3):
                function(0.0003)
                sleep(0.001)
            joinall([spawn(function, 0.0003) for _ in range(2)])

    def client(kind, function):
        until = time.monotonic() + 3
        while time.monotonic() < until:
            request(kind, function)

    joinall([spawn(client, kind, function) for kind, function in 10 * [('a', fa), ('b', fb)]])
"""


@pytest.mark.parametrize('kind', ['gevent', 'eventlet'])
def test_a_sample_goes_to_the_action_of_the_greenlet_that_runs(directory, kind):
    """Also what a greenlet does that was spawned in an action."""
    if importlib.util.find_spec(kind) is None:
        pytest.skip('it is not installed')
    said = run(GREENLETS.replace('{kind}', kind) + TAKE_TURNS, directory)
    report = exported(directory)
    found = samples(report)
    assert found['a']['fa'] > 60 and found['b']['fb'] > 60, found
    assert wrong(found) == 0, found
    assert said['unattributed'] <= 0.01 * said['samples']
    for row in report['actions']:
        if row['action_type'] in ('a', 'b'):  # twenty that take turns on one thread
            assert states(row)['blocked'] > 0.8 * sum(states(row).values()), states(row)


@pytest.mark.parametrize('kind', ['gevent', 'eventlet'])
def test_an_action_that_waits_in_a_greenlet_is_blocked_where_that_was_switched_out(directory, kind):
    """Through functions, methods, generators and C code in between; sixteen at once, of which a tick looks at four."""
    if importlib.util.find_spec(kind) is None:
        pytest.skip('it is not installed')
    said = run(
        GREENLETS.replace('{kind}', kind)
        + """
    profilomatic.configure(time_granularity=0.004)  # it computes little, and what four stacks cost counts against that

    class Waits:
        def __init__(self):
            sleep(0.010)

    def steps():
        yield 1
        Waits()
        yield 2

    def calls_c():
        return sorted([0], key=lambda zero: list(steps())[zero])

    def client():
        until = time.monotonic() + 3
        while time.monotonic() < until:
            with profilomatic.action('outer'):
                fa(0.0002)
                calls_c()
                with profilomatic.action('inner'):
                    sleep(0.005)

    joinall([spawn(client) for _ in range(16)])
        """,
        directory,
    )
    found = samples(exported(directory), 'blocked')
    if sys.version_info < (3, 11):  # "(greenlet):waits" stands for it
        assert found['outer']['(greenlet)'] + found['outer']['waits'] > 0.9 * found['outer']['(all)'], found
        return
    waiting, inside = found['outer']['Waits.__init__'], found['inner']['client']
    assert found['outer']['(greenlet)'] + found['outer']['waits'] == 0, found
    # Both waits last a turn of the other fifteen at least, however late timers are noticed.
    assert waiting > 0.1 * found['outer']['client'] > 0 and inside > 0.1 * found['outer']['client'], found
    for name in ('client', 'calls_c', 'calls_c.<locals>.<lambda>', 'steps', 'sleep'):
        assert found['outer'][name] > 0.99 * waiting, (name, found)
    assert found['inner']['sleep'] > 0.9 * inside and found['inner']['steps'] == 0, found
    assert said['unattributed'] <= 0.01 * said['samples'], said


def states(row):
    columns = row['tree']['columns']
    return {
        state: sum(node[columns.index(state)] for node in row['tree']['nodes'])
        for state in ('cpu', 'native', 'gil_wait', 'blocked')
    }


def test_an_action_that_awaits_is_blocked_at_the_await_of_its_own_coroutines(directory):
    """Sixteen at once, of which a tick looks at four."""
    said = run(
        """
        import types

        # Sixteen that wait are looked at in each tick: seldom enough that the budget leaves their methods' names.
        profilomatic.configure(time_granularity=0.004)

        @types.coroutine
        def by_hand(future):
            yield from future

        async def numbers():
            for n in range(2):
                await by_hand(asyncio.sleep(0.005).__await__())
                yield n

        async def waits():
            async for n in numbers():
                pass
            with profilomatic.action('inner'):
                await asyncio.wait_for(asyncio.sleep(0.010), 1)

        async def request(kind):
            with profilomatic.action(kind):
                fa(0.0002)
                await waits()

        async def main():
            until = time.monotonic() + 4
            async def client(kind):
                while time.monotonic() < until:
                    await request(kind)
            await asyncio.gather(*[client('a') for _ in range(16)])

        asyncio.run(main())
        """,
        directory,
    )
    report = exported(directory)
    rows = {row['action_type']: row for row in report['actions']}
    found = samples(report)
    for kind in ('a', 'inner'):
        told = states(rows[kind])
        assert told['blocked'] > 0.9 * sum(told.values()), (kind, told)
    assert found['a']['numbers'] > 100 and found['a']['by_hand'] > 0.9 * found['a']['numbers'], found['a']
    assert found['a']['wait_for'] > 100 and found['inner']['wait_for'] > 0.9 * found['a']['wait_for'], found
    assert found['inner']['numbers'] == 0 and found['inner']['request'] > 0.99 * found['inner']['(all)'], found['inner']
    assert said['unattributed'] <= 0.01 * said['samples'], said
