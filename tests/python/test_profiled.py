"""`profiled` and `action` as decorators: each form of function stays what it is, and each call is an action."""

import asyncio
import contextlib
import functools
import gc
import inspect
import os
import subprocess
import sys
import textwrap
import threading
import traceback
import weakref

import profilomatic
import pytest
from _support import needs_native
from profilomatic import _guard

current = profilomatic.current_task_uuid
pytestmark = pytest.mark.usefixtures('messages')


def counted(name, seen):
    """Run `seen()` and return by how much the number of ended actions called `name` grew."""
    ended = []
    handle = profilomatic._switch._runtime.Action

    class Counting:
        def __init__(self, its_name, uuid):
            self.its_name, self.inner = its_name, handle(its_name, uuid)
            self.begin = self.inner.begin

        def end(self, error=False):
            ended.append((self.its_name, error))
            self.inner.end(error=error)

        def __getattr__(self, attribute):
            return getattr(self.inner, attribute)

    class Runtime:
        Action = Counting

        def __getattr__(self, attribute):
            return getattr(profilomatic._switch._runtime, attribute)

    from profilomatic import _action

    _action._runtime, former = Runtime(), _action._runtime
    try:
        seen()
    finally:
        _action._runtime = former
    return [error for its_name, error in ended if its_name == name]


# ---- one of each form, and what each yields


@profilomatic.profiled('form')
def plain(a, b=2, *, c: int = 3) -> str:
    """Its text."""
    return current()


@profilomatic.profiled('form')
def generator(n):
    received = []
    for i in range(n):
        received.append((yield (i, current())))
    return received


@profilomatic.profiled('form')
async def coroutine(a):
    await asyncio.sleep(0)
    return current()


@profilomatic.profiled('form')
async def async_generator(n):
    for _ in range(n):
        await asyncio.sleep(0)
        yield current()


def test_each_form_stays_what_it_is():
    assert inspect.isfunction(plain) and not inspect.isgeneratorfunction(plain)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isasyncgenfunction(async_generator)
    assert str(inspect.signature(plain)) == '(a, b=2, *, c: int = 3) -> str'
    assert (plain.__name__, plain.__qualname__, plain.__doc__, plain.__module__) == (
        'plain',
        'plain',
        'Its text.',
        __name__,
    )
    assert plain.__wrapped__.__name__ == 'plain'


def test_attributes_of_the_function_are_kept():
    def view():
        return 1

    view.exempt = True
    assert profilomatic.profiled('view')(view).exempt is True


def test_a_plain_call_is_inside_its_action():
    assert current() is None
    assert len(plain(1)) == 36
    assert current() is None
    assert counted('form', lambda: plain(1)) == [False]


def test_without_a_name_it_is_the_functions_own():
    @profilomatic.profiled
    def bare():
        pass

    @profilomatic.profiled()
    def called():
        pass

    prefix = __name__ + '.test_without_a_name_it_is_the_functions_own.<locals>.'
    assert counted(prefix + 'bare', bare) == [False]
    assert counted(prefix + 'called', called) == [False]


@pytest.mark.parametrize('wrong', [3, object()])
def test_what_is_no_function_is_refused(wrong):
    with pytest.raises(TypeError):
        profilomatic.profiled(wrong)
    with pytest.raises(TypeError):
        profilomatic.profiled('name')(wrong)


def test_methods_of_all_kinds():
    class Shop:
        @profilomatic.profiled('kind')
        def method(self):
            return self, current()

        @profilomatic.profiled('kind')
        @classmethod
        def of_class(cls):
            return cls, current()

        @profilomatic.profiled('kind')
        @staticmethod
        def static():
            return current()

        @property
        @profilomatic.profiled('kind')
        def value(self):
            return current()

    shop = Shop()
    assert shop.method()[0] is shop and shop.method()[1]
    assert Shop.of_class()[0] is Shop and Shop.of_class()[1]
    assert shop.static() and Shop.static() and shop.value


def test_an_object_that_can_be_called_has_the_form_of_its_call():
    class Async:
        async def __call__(self):
            return current()

    assert asyncio.run(profilomatic.profiled('object')(Async())())
    assert asyncio.run(profilomatic.profiled('partial')(functools.partial(coroutine.__wrapped__, 1))())


# ---- generators


def test_a_generator_is_inside_during_its_steps_and_its_consumer_never_is():
    steps = generator(3)
    seen = []
    for _, uuid in steps:
        assert current() is None
        seen.append(uuid)
    assert len(set(seen)) == 1 and len(seen[0]) == 36
    assert current() is None


def test_two_generators_in_turn_are_two_tasks():
    pairs = [(a[1], b[1]) for a, b in zip(generator(3), generator(3))]
    assert len({a for a, _ in pairs}) == 1 and len({b for _, b in pairs}) == 1
    assert pairs[0][0] != pairs[0][1]


def test_what_a_generator_has_open_at_a_yield_leaves_and_comes_back_with_it():
    @profilomatic.profiled('outer')
    def nested():
        with profilomatic.action('inner'):
            yield runtime.current().name
            yield runtime.current().name
        yield runtime.current().name

    runtime = profilomatic._switch._runtime
    seen = []
    with profilomatic.action('around'):
        for name in nested():
            seen.append((name, runtime.current().name))
    assert seen == [('inner', 'around'), ('inner', 'around'), ('outer', 'around')]
    assert runtime.current() is None


def test_a_generator_may_be_stepped_in_different_places():
    """Begun inside one action, ended inside another: neither is left by it."""
    runtime = profilomatic._switch._runtime
    steps = generator(2)
    with profilomatic.action('first'):
        next(steps)
        assert runtime.current().name == 'first'
    with profilomatic.action('second'):
        assert len(list(steps)) == 1
        assert runtime.current().name == 'second'
    assert runtime.current() is None


def test_sending_throwing_and_returning_pass_through():
    @profilomatic.profiled('talk')
    def talk():
        try:
            got = yield 1
        except KeyError as error:
            got = error
        yield got
        return 'done'

    steps = talk()
    assert next(steps) == 1 and steps.send('x') == 'x'
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == 'done'

    steps, planted = talk(), KeyError('planted')
    next(steps)
    assert steps.throw(planted) is planted
    assert list(steps) == []

    def outer():
        return (yield from talk())

    steps = outer()
    assert [next(steps), next(steps)] == [1, None]
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == 'done'


def test_closing_a_generator_runs_its_finally_inside_and_ends_the_action():
    @profilomatic.profiled('closed')
    def closed():
        try:
            yield 1
            yield 2
        finally:
            seen.append(current())

    def close():
        steps = closed()
        next(steps)
        steps.close()

    seen = []
    assert counted('closed', close) == [False]
    assert seen[0] is not None and current() is None

    def drop():
        next(closed())
        gc.collect()

    assert counted('closed', drop) == [False]
    assert len(seen) == 2


def test_a_generator_that_ignores_its_close_fails_as_it_does_without_us():
    def stubborn():
        with contextlib.suppress(GeneratorExit):
            yield 1
        yield 2

    for form in (stubborn, profilomatic.profiled('stubborn')(stubborn)):
        steps = form()
        next(steps)
        with pytest.raises(RuntimeError, match='ignored GeneratorExit'):
            steps.close()
    assert current() is None


def test_a_failing_generator_counts_as_an_error():
    @profilomatic.profiled('failing')
    def failing():
        yield 1
        raise ZeroDivisionError

    def run():
        with pytest.raises(ZeroDivisionError):
            list(failing())

    assert counted('failing', run) == [True]


# ---- async


def test_coroutines_of_one_loop_are_tasks_of_their_own():
    async def both():
        return await asyncio.gather(coroutine(1), coroutine(2), async_list())

    async def async_list():
        return [uuid async for uuid in async_generator(3)]

    first, second, third = asyncio.run(both())
    assert len({first, second, *third}) == 3 and len(third) == 3


def test_an_async_generator_is_inside_during_its_steps_only():
    async def consume():
        seen = []
        async for uuid in async_generator(3):
            assert current() is None
            seen.append(uuid)
        return seen

    seen = asyncio.run(consume())
    assert len(set(seen)) == 1 and seen[0] is not None


def test_an_async_generator_that_is_left_early_or_thrown_into():
    @profilomatic.profiled('async talk')
    async def talk():
        try:
            got = yield 1
            yield got
        except KeyError as error:
            yield error
        finally:
            await asyncio.sleep(0)
            seen.append(current())

    async def leave():
        steps = talk()
        assert await steps.__anext__() == 1
        await steps.aclose()
        steps, planted = talk(), KeyError('planted')
        await steps.__anext__()
        assert await steps.athrow(planted) is planted
        assert [item async for item in steps] == []
        steps = talk()
        await steps.__anext__()
        assert await steps.asend('x') == 'x'
        await steps.aclose()

    seen = []
    assert counted('async talk', lambda: asyncio.run(leave())) == [False] * 3
    assert None not in seen and len(seen) == 3


def test_a_cancelled_coroutine_counts_as_an_error_and_stays_cancelled():
    @profilomatic.profiled('cancelled')
    async def sleeper():
        await asyncio.sleep(60)

    async def cancel():
        task = asyncio.ensure_future(sleeper())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert counted('cancelled', lambda: asyncio.run(cancel())) == [True]


# ---- harmless


def depth(function):
    try:
        function()
    except ZeroDivisionError as error:
        return len(traceback.extract_tb(error.__traceback__))
    raise AssertionError('nothing was raised')


def raising_forms():
    def plain_one():
        raise ZeroDivisionError

    def generator_one():
        yield 1
        raise ZeroDivisionError

    async def coroutine_one():
        raise ZeroDivisionError

    async def async_generator_one():
        yield 1
        raise ZeroDivisionError

    async def exhaust(steps):
        async for _ in steps:
            pass

    yield plain_one, lambda f: f()
    yield generator_one, lambda f: list(f())
    yield coroutine_one, lambda f: asyncio.run(f())
    yield async_generator_one, lambda f: asyncio.run(exhaust(f()))


@pytest.mark.parametrize('which', range(4))
def test_a_traceback_is_one_frame_longer_at_most(which):
    function, run = list(raising_forms())[which]
    without = depth(lambda: run(function))
    assert depth(lambda: run(profilomatic.profiled('raises')(function))) == without + 1


def test_an_exception_that_was_thrown_in_is_not_kept_alive():
    class Planted(Exception):
        pass

    steps = generator(2)
    next(steps)
    gc.disable()
    try:
        error = Planted()
        reference = weakref.ref(error)
        with contextlib.suppress(Planted):
            steps.throw(error)
        del error
        if sys.implementation.name != 'cpython':
            gc.collect()
        assert reference() is None
    finally:
        gc.enable()


class _Broken:
    """A runtime in which every hook fails."""

    def __getattr__(self, name):
        raise SystemError('planted in ' + name)


def test_a_bug_in_a_hook_is_counted_told_once_and_the_call_goes_on(monkeypatch, capfd):
    from profilomatic import _action, _forms

    monkeypatch.setattr(_action, '_runtime', _Broken())
    monkeypatch.setattr(_forms, '_runtime', _Broken())
    monkeypatch.setattr(_guard, 'failures', {})
    monkeypatch.setattr(profilomatic._switch, 'failures', _guard.failures)
    for _ in range(3):
        assert plain(1) is None
        assert [i for i, _ in generator(2)] == [0, 1]
        assert asyncio.run(coroutine(1)) is None
        with profilomatic.action('broken') as action:
            assert action.task_uuid is None
    failures = profilomatic.status()['hook_failures']
    assert failures['the begin of an action'] == 9
    assert failures['a step of a profiled generator'] == 18
    told = [line for line in capfd.readouterr().err.splitlines() if 'planted' in line]
    assert len(told) == 2, told


@needs_native
def test_what_the_extension_calls_may_fail_too(monkeypatch, capfd):
    """Counted and told once as well: the route's name, and what is noted of a profiled action."""
    runtime = profilomatic._switch._runtime

    def template(environ):
        raise SystemError('planted template')

    def noter(action):
        raise SystemError('planted noter')

    monkeypatch.setattr(_guard, 'failures', {})
    wrapped = profilomatic.wsgi.wrap(lambda environ, start_response: [b'x'])
    try:
        runtime.set_template(template)
        for _ in range(3):
            body = wrapped({'PATH_INFO': '/'}, None)
            assert list(body) == [b'x']
            body.close()
        runtime.set_template(None)
        runtime.set_noter(noter)
        for _ in range(3):
            with profilomatic.action('noted'):
                pass
    finally:
        runtime.set_template(None)
        runtime.set_noter(profilomatic._trace.note)
    assert {name.rsplit('.', 1)[1]: count for name, count in _guard.failures.items()} == {'template': 3, 'noter': 3}
    told = capfd.readouterr().err
    assert told.count('planted template') == 1 and told.count('planted noter') == 1


def ended(script, folder):
    """How a process ended in which the script ran, with `folder` as its argument, and what is freed is spoiled."""
    done = subprocess.run(
        [sys.executable, '-X', 'faulthandler', '-c', textwrap.dedent(script), str(folder)],
        env={**os.environ, 'PYTHONMALLOC': 'debug'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(sys.implementation.name != 'cpython', reason='its collector starts at allocations')
def test_the_garbage_collector_may_begin_and_end_actions_in_the_middle_of_a_change_to_the_context(tmp_path):
    """Up to CPython 3.11 a collection may start inside ContextVar.set(), which would not survive another set() there.
    Here one is started at each allocation of such a call in turn, and what it frees is a response that was never
    closed, a generator inside an action, a profiled generator, an open action, and what has a finalizer that makes
    an action and calls what was carried along."""
    script = """
        import contextvars, gc, sys
        import profilomatic
        from profilomatic._switch import _runtime
        _runtime.enable(sys.argv[1], 'cycles', None, None)
        wrapped = profilomatic.wsgi.wrap(lambda environ, start_response: [b'x'])
        variables = [contextvars.ContextVar('v%d' % n) for n in range(40)]
        def inside():
            with profilomatic.action('inside'):
                yield
        @profilomatic.profiled('steps')
        def steps():
            with profilomatic.action('inside'):
                yield
        finalized = []
        class Cycle:
            def __del__(self):
                before = _runtime.current()
                with profilomatic.action('late'):
                    self.carried()
                finalized.append(_runtime.current() is before)
        def leave_garbage():
            for _ in range(3):
                cycle = Cycle()
                with profilomatic.action('carrier'):
                    cycle.carried = _runtime.carry(lambda: None)
                cycle.kept = [cycle, wrapped({'PATH_INFO': '/x'}, None), inside(), steps(), _runtime.Action('open')]
                next(cycle.kept[2])
                next(cycle.kept[3])
                cycle.kept[4].begin()
        gc.disable()
        for turn in range(400):
            leave_garbage()
            gc.enable()
            gc.set_threshold(gc.get_count()[0] + turn % 8, 1, 1)
            variables[turn % 40].set(turn)
            gc.set_threshold(100_000)
            gc.disable()
        gc.collect()
        print([variable.get() for variable in variables] == list(range(360, 400)), len(finalized), all(finalized))
    """
    assert ended(script, tmp_path) == (0, 'True 1200 True\n', '')


@pytest.mark.skipif(sys.implementation.name != 'cpython', reason='its collector starts at allocations')
def test_what_a_finalizer_leaves_open_is_looked_past_once_it_has_ended(tmp_path):
    """Also where it was begun in the middle of a change to the context, which then knows nothing of it."""
    script = """
        import contextvars, gc, sys
        import profilomatic
        from profilomatic._switch import _runtime
        _runtime.enable(sys.argv[1], 'finalizers', None, None)
        variables = [contextvars.ContextVar('v%d' % n) for n in range(40)]
        left, seen = [], set()
        class Begins:
            def __init__(self):
                self.cycle = self
            def __del__(self):
                left.append(profilomatic.action('left open'))
                left[-1].__enter__()
        gc.disable()
        for turn in range(400):
            Begins()
            gc.enable()
            gc.set_threshold(gc.get_count()[0] + turn % 8, 1, 1)
            variables[turn % 40].set(turn)
            gc.set_threshold(100_000)
            gc.disable()
            while left:
                left.pop().__exit__(None, None, None)
            seen.add(profilomatic.current_task_uuid() is None)
            with profilomatic.action('outside') as action:
                seen.add(profilomatic.current_task_uuid() == action.task_uuid)
        print(seen, [variable.get() for variable in variables] == list(range(360, 400)))
    """
    assert ended(script, tmp_path) == (0, '{True} True\n', '')


def test_while_the_garbage_collector_waits_in_a_finalizer_other_threads_have_their_actions():
    collects, goes_on = threading.Event(), threading.Event()

    class Waits:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            collects.set()
            goes_on.wait(60)

    Waits()
    collector = threading.Thread(target=gc.collect)
    collector.start()
    try:
        assert collects.wait(60)
        with profilomatic.action('request') as action:
            uuid = action.task_uuid
            assert current() == uuid
            with profilomatic.action('part'):
                assert current() == uuid
            assert current() == uuid
        assert current() is None
    finally:
        goes_on.set()
        collector.join()
    with profilomatic.action('later') as action:
        assert current() == action.task_uuid


def test_one_action_object_may_be_entered_by_many_tasks_at_once():
    shared = profilomatic.action('shared')

    async def enter(first):
        with shared:
            uuid = current()
            await asyncio.sleep(0.001 if first else 0)
            assert current() == uuid
        return uuid

    async def many():
        return await asyncio.gather(*(enter(i % 2 == 0) for i in range(10)))

    assert len(set(asyncio.run(many()))) == 10 and current() is None


def test_decorating_works_where_nothing_may_be_profiled():
    script = """
        import asyncio, profilomatic
        @profilomatic.profiled('x')
        def steps():
            yield profilomatic.current_task_uuid()
        @profilomatic.profiled('x')
        async def waits():
            return 7
        print(list(steps()), asyncio.run(waits()))
    """
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script)],
        env={**os.environ, 'PROFILOMATIC_ENABLED': '0'},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ('[None] 7\n', '')
