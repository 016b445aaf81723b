"""Actions and the WSGI wrapper, in one process with a private aggregator: what comes out is what went in."""

import concurrent.futures
import contextvars
import gc
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import profilomatic
import pytest
from _support import arrived, needs_native, needs_stacks

pytestmark = pytest.mark.usefixtures('messages')


def instructions(node):
    for child in node.get('children', []):
        if 'instruction' in child:
            yield child['instruction']
        yield from instructions(child)


def spin(seconds):
    """Compute for that much CPU time, however busy the machine is."""
    until = time.thread_time() + seconds
    total = 0
    while time.thread_time() < until:
        for i in range(500):
            total += i * i
    return total


# ---- actions


@needs_stacks
def test_an_action_becomes_a_message_that_names_its_code(messages):
    before = time.time()
    with profilomatic.action('report:build', customer=7) as action:
        assert profilomatic.current_task_uuid() == action.task_uuid
        spin(0.3)
    assert profilomatic.current_task_uuid() is None
    message = arrived(messages, action.task_uuid)
    assert message['action_type'] == 'report:build' and message['source'] == 'tests'
    assert message['kind'] == 'action' and message['action_status'] == 'succeeded'
    assert message['pid'] == os.getpid() and message['weight'] == 1.0 and message['code_granularity'] == 'line'
    assert 0.3 <= message['cpu_time'] <= message['time'] + 0.001
    assert any(i.startswith('test_actions.py:spin:') for i in instructions(message)), list(instructions(message))
    from datetime import datetime

    start = datetime.fromisoformat(message['start_time'].replace('Z', '+00:00')).timestamp()
    assert before - 0.05 <= start <= before + 1


def test_an_exception_counts_as_an_error_and_passes_through(messages):
    action = profilomatic.action('fails')
    with pytest.raises(KeyError), action:
        raise KeyError('x')
    assert arrived(messages, action.task_uuid)['action_status'] == 'failed'


@needs_stacks
def test_nested_actions_share_the_task_and_only_the_root_is_told(messages):
    with profilomatic.action('outer') as outer:
        with profilomatic.action('inner') as inner:
            assert inner.task_uuid == outer.task_uuid == profilomatic.current_task_uuid()
            spin(0.15)
        assert profilomatic.current_task_uuid() == outer.task_uuid
    message = arrived(messages, outer.task_uuid)
    time.sleep(0.3)
    assert [m['action_type'] for m in messages if m['task_uuid'] == outer.task_uuid] == ['outer']
    assert any(':spin:' in i for i in instructions(message)), "the inner action's samples belong to the outer one too"


def test_ending_twice_out_of_order_and_on_another_thread_is_harmless(messages):
    a = profilomatic._switch._runtime.Action('a').begin()
    b = profilomatic._switch._runtime.Action('b').begin()
    a.end()
    a.end(error=True)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(b.end).result()
    b.end()
    assert arrived(messages, a.task_uuid)['action_status'] == 'succeeded'
    assert len([m for m in messages if m['task_uuid'] == a.task_uuid]) == 1


def test_what_was_left_open_inside_an_action_is_not_what_comes_later_is_inside():
    native = profilomatic._switch._runtime
    with native.Action('request'):
        left_open = [native.Action('forgotten').begin(), native.Action('forgotten too').begin()]
    assert profilomatic.current_task_uuid() is None
    with native.Action('next') as following:
        assert following.task_uuid not in (action.task_uuid for action in left_open)
        for action in left_open:
            action.end()
        assert profilomatic.current_task_uuid() == following.task_uuid
    assert profilomatic.current_task_uuid() is None


def test_an_action_that_is_dropped_open_is_ended(messages):
    action = profilomatic._switch._runtime.Action('dropped')
    context = contextvars.copy_context()
    context.run(action.begin)
    uuid = action.task_uuid
    del action, context
    gc.collect()
    assert arrived(messages, uuid)['action_type'] == 'dropped'


def test_a_given_task_uuid_is_kept_and_nonsense_is_replaced():
    given = '12345678-1234-4234-8234-123456789abc'
    native = profilomatic._switch._runtime
    with native.Action('given', given) as action:
        assert action.task_uuid == given
    with native.Action('nonsense', 'robert"); drop') as action:
        assert len(action.task_uuid) == 36 and action.task_uuid[14] == '4'


def test_the_child_of_a_fork_does_not_end_its_parents_action(messages):
    with profilomatic.action('forks') as action:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert profilomatic.current_task_uuid() is None
                action.__exit__(None, None, None)
                with profilomatic.action('in the child') as own:
                    assert own.task_uuid != action.task_uuid
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        spin(0.05)
    arrived(messages, action.task_uuid)
    time.sleep(0.3)
    assert len([m for m in messages if m['task_uuid'] == action.task_uuid]) == 1


@needs_stacks
def test_samples_go_to_the_right_one_of_two_threads(messages):
    def wait():
        with profilomatic.action('waits') as action:
            time.sleep(0.4)
        return action.task_uuid

    def work():
        with profilomatic.action('works') as action:
            spin(0.4)
        return action.task_uuid

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waits, works = pool.submit(wait), pool.submit(work)
        waits, works = arrived(messages, waits.result()), arrived(messages, works.result())
    assert not any(':spin:' in i for i in instructions(waits))
    assert any(':spin:' in i for i in instructions(works))
    assert waits['cpu_time'] < 0.05 < 0.4 <= works['cpu_time']


# ---- WSGI


def environ(path='/', **more):
    from wsgiref.util import setup_testing_defaults

    env = {'SCRIPT_NAME': '', 'PATH_INFO': path, 'REQUEST_METHOD': 'GET', 'QUERY_STRING': ''}
    setup_testing_defaults(env)
    env.update(more)
    return env


class Server:
    """start_response of a server, and what it got."""

    def __init__(self):
        self.calls = []
        self.written = []

    def __call__(self, status, headers, exc_info=None):
        self.calls.append((status, headers, exc_info))
        return self.written.append

    def uuid(self):
        return dict(self.calls[-1][1])['X-Task-UUID']


def serve(app, env=None):
    server = Server()
    body = app(env or environ(), server)
    try:
        data = b''.join(body)
    finally:
        if hasattr(body, 'close'):
            body.close()
    return server, data


def hello(env, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'hello']


def test_a_request_lasts_until_close_and_has_its_uuid_in_the_answer(messages):
    app = profilomatic.wsgi.wrap(hello)
    server, data = serve(app, environ('/item/17'))
    assert data == b'hello'
    assert server.calls[0][0] == '200 OK'
    message = arrived(messages, server.uuid())
    assert message['action_type'] == '/item/<int>' and message['action_status'] == 'succeeded'


def test_headers_are_not_changed_in_the_applications_own_list():
    headers = [('Content-Type', 'text/plain')]

    def app(env, start_response):
        start_response('200 OK', headers)
        return []

    server, _ = serve(profilomatic.wsgi.wrap(app))
    assert headers == [('Content-Type', 'text/plain')]
    assert server.calls[0][1][:1] == headers and len(server.calls[0][1]) == 2


def test_an_incoming_uuid_is_taken_over(messages):
    given = 'abcdefab-1234-4234-8234-123456789abc'
    seen = []

    def app(env, start_response):
        seen.append((env['HTTP_X_TASK_UUID'], profilomatic.current_task_uuid()))
        return hello(env, start_response)

    server, _ = serve(profilomatic.wsgi.wrap(app), environ(HTTP_X_TASK_UUID=given))
    assert seen == [(given, given)] and server.uuid() == given
    arrived(messages, given)


def test_the_wrapper_passes_the_wsgi_validator(recwarn):
    app = validator(profilomatic.wsgi.wrap(validator(hello)))
    server = Server()
    body = app(environ(), lambda status, headers, exc_info=None: server(status, headers, exc_info))
    assert list(body) == [b'hello']
    body.close()


@needs_stacks
def test_a_stream_is_sampled_while_it_is_made_and_closed_once(messages):
    closed = []

    class Stream:
        def __iter__(self):
            for _ in range(3):
                spin(0.05)
                yield b'x'

        def close(self):
            closed.append(profilomatic.current_task_uuid())

    def app(env, start_response):
        start_response('200 OK', [])
        return Stream()

    server, data = serve(profilomatic.wsgi.wrap(app), environ('/stream'))
    assert data == b'xxx'
    assert closed == [server.uuid()]
    message = arrived(messages, server.uuid())
    assert message['time'] >= 0.15
    # CPython 3.10 knows no qualified names.
    name = 'Stream.__iter__' if sys.version_info >= (3, 11) else ':__iter__:'
    assert any(name in i for i in instructions(message)), list(instructions(message))


def test_a_body_that_is_never_iterated_is_closed_all_the_same(messages):
    server = Server()
    body = profilomatic.wsgi.wrap(hello)(environ('/head', REQUEST_METHOD='HEAD'), server)
    body.close()
    body.close()
    assert arrived(messages, server.uuid())['action_type'] == '/head'


def test_exceptions_pass_through_and_count(messages):
    def broken(env, start_response):
        raise ZeroDivisionError('planted')

    def late(env, start_response):
        start_response('200 OK', [])
        yield b'x'
        raise ZeroDivisionError('late')

    env = environ('/broken')
    with pytest.raises(ZeroDivisionError, match='planted'):
        profilomatic.wsgi.wrap(broken)(env, Server())
    assert arrived(messages, env['HTTP_X_TASK_UUID'])['action_status'] == 'failed'
    env = environ('/late')
    with pytest.raises(ZeroDivisionError, match='late'):
        serve(profilomatic.wsgi.wrap(late), env)
    assert arrived(messages, env['HTTP_X_TASK_UUID'])['action_status'] == 'failed'
    assert profilomatic.current_task_uuid() is None


def test_a_status_of_500_is_an_error_and_exc_info_passes_through(messages):
    def app(env, start_response):
        start_response('200 OK', [])
        try:
            raise ValueError('recovered')
        except ValueError:
            write = start_response('503 Busy', [('A', 'b')], sys.exc_info())
            write(b'early ')
        return [b'late']

    server, data = serve(profilomatic.wsgi.wrap(app))
    assert data == b'late' and server.written == [b'early ']
    assert server.calls[1][0] == '503 Busy' and server.calls[1][2][0] is ValueError
    assert arrived(messages, server.uuid())['action_status'] == 'failed'


def test_a_file_wrapper_stays_one_and_ends_the_action_at_its_close(messages, tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'content')

    def app(env, start_response):
        start_response('200 OK', [])
        return env['wsgi.file_wrapper'](open(path, 'rb'))

    server = Server()
    body = profilomatic.wsgi.wrap(app)(environ('/file', **{'wsgi.file_wrapper': FileWrapper}), server)
    assert isinstance(body, FileWrapper)
    assert profilomatic.current_task_uuid() == server.uuid(), 'still open'
    assert b''.join(body) == b'content'
    body.close()
    assert body.filelike.closed
    assert arrived(messages, server.uuid())['action_type'] == '/file'


def test_length_is_that_of_the_applications_body():
    app = profilomatic.wsgi.wrap(hello)
    body = app(environ(), Server())
    assert len(body) == 1
    body.close()
    body = profilomatic.wsgi.wrap(lambda env, sr: (sr('200 OK', []), iter([b'x']))[1])(environ(), Server())
    with pytest.raises(TypeError):
        len(body)
    body.close()


def test_what_the_application_returned_shows_through_the_body():
    class Response(list):
        status_code = 200

        def __bytes__(self):
            return b'all'

    def app(env, start_response):
        start_response('200 OK', [])
        return Response([b'x'])

    body = profilomatic.wsgi.wrap(app)(environ(), Server())
    assert body.status_code == 200 and bytes(body) == b'all' and not hasattr(body, 'nothing')
    body.close()
    assert not hasattr(body, 'status_code')


def test_wrapping_twice_counts_once(messages):
    inner = profilomatic.wsgi.wrap(hello)
    assert profilomatic.wsgi.wrap(inner) is inner

    def middleware(env, start_response):
        return inner(env, start_response)

    server, _ = serve(profilomatic.wsgi.wrap(middleware), environ('/twice'))
    arrived(messages, server.uuid())
    time.sleep(0.3)
    assert len([m for m in messages if m['task_uuid'] == server.uuid()]) == 1
    assert [name for name, _ in server.calls[0][1]].count('X-Task-UUID') == 1


def test_attributes_of_the_application_are_still_there():
    class App:
        config = {'a': 1}

        def __call__(self, env, start_response):
            return hello(env, start_response)

    app = App()
    wrapped = profilomatic.wsgi.wrap(app)
    assert wrapped.config == {'a': 1} and wrapped.application is app
    with pytest.raises(AttributeError):
        _ = wrapped.nothing
    with pytest.raises(TypeError, match='callable'):
        profilomatic.wsgi.wrap(3)


def test_a_flask_request_is_named_by_its_route(messages):
    flask = pytest.importorskip('flask')
    app = flask.Flask('shop')

    @app.route('/checkout/<int:id>')
    def checkout(id):
        return 'ok'

    server, _ = serve(profilomatic.wsgi.wrap(app), environ('/checkout/7'))
    assert arrived(messages, server.uuid())['action_type'] == '/checkout/<int:id>'


@needs_native
def test_requests_leave_no_objects_behind():
    script = textwrap.dedent("""
        import gc, sys
        import profilomatic
        from profilomatic._switch import _runtime
        _runtime.enable(sys.argv[1], 'leaks', None, None)
        def app(environ, start_response):
            start_response('200 OK', [])
            return [b'x']
        wrapped = profilomatic.wsgi.wrap(app)
        def serve(times):
            for _ in range(times):
                body = wrapped({'PATH_INFO': '/x'}, lambda *args: None)
                list(body)
                body.close()
                with _runtime.Action('a'):
                    pass
            gc.collect()
            return sys.getallocatedblocks()
        serve(1000)
        before = serve(1000)
        print(serve(20000) - before)
    """)
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory:
        grown = subprocess.run([sys.executable, '-c', script, directory], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 200, 'blocks after 20,000 requests'


def test_exit_while_an_action_is_open_is_quick_and_clean(tmp_path):
    script = textwrap.dedent("""
        import sys, threading, time
        import profilomatic
        profilomatic.configure(max_actions_per_run=0)
        profilomatic.add_destination(lambda message: None)
        def work():
            while True:
                with profilomatic.action('busy'):
                    sum(range(1000))
        threading.Thread(target=work, daemon=True).start()
        time.sleep(1)
        with profilomatic.action('open'):
            sys.exit(4)
    """)
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory:
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, '-c', script],
            env=dict(os.environ, PROFILOMATIC_DIR=directory),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 4, done.stderr
    assert done.stderr == ''
    assert time.monotonic() - start < 12
    assert done.stdout == ''
