"""The WSGI wrapper at its edges: what an application or a server does that PEP 3333 does not say. Run by
test_runtime_wsgi.py, in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
import weakref

import profilomatic
import pytest
from _support import environment, free_port, get, server, uwsgis
from profilomatic._switch import _runtime


@pytest.fixture(scope='module', autouse=True)
def enabled():
    """Actions are counted; nothing is profiled, since no aggregator is there."""
    _runtime.enable(os.environ['PROFILOMATIC_DIR'], 'wsgi', None, None)
    yield
    _runtime.disable()


def call(body_or_app, headers=(), **environ):
    def app(env, start_response):
        start_response('200 OK', list(headers))
        return body_or_app

    return profilomatic.wsgi.wrap(app)(dict({'PATH_INFO': '/'}, **environ), lambda status, headers, exc_info=None: None)


def test_a_name_that_is_no_utf8_harms_nobody():
    app = profilomatic.wsgi.wrap(lambda env, start_response: [b'a'], name='\ud800')
    body = app({'PATH_INFO': '/'}, lambda status, headers, exc_info=None: None)
    assert list(body) == [b'a']
    body.close()


def test_a_body_without_a_length_has_none():
    body = call(x for x in [b'a'])
    assert not hasattr(body, '__len__') and body, 'waitress looks for __len__, others for truth'
    assert list(body) == [b'a']
    body.close()
    body = call([b'a', b'b'])
    assert len(body) == 2
    body.close()


@pytest.mark.parametrize('result', [b'plain', bytearray(b'plain'), 'text', None, 7])
def test_what_is_no_iterable_of_chunks_goes_to_the_server_as_it_is(result):
    assert call(result) is result
    assert profilomatic.current_task_uuid() is None, 'the action has ended'


@pytest.mark.parametrize('name', sorted(uwsgis()))
def test_uwsgi_sends_plain_bytes_whole(name, tmp_path):
    (tmp_path / 'plain.py').write_text(
        "def application(environ, start_response):\n    start_response('200 OK', [])\n    return b'plain'\n"
    )
    port = free_port()
    command = [*uwsgis()[name], '--http-socket', f'127.0.0.1:{port}', '--module', 'plain', '--master', '--die-on-term']
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory:
        with server(command, port, environment(directory, extra_path=[tmp_path]), tmp_path):
            status, headers, data = get(port)
    assert (status, data) == (200, b'plain') and 'x-task-uuid' in headers


def test_attributes_are_set_on_the_application():
    class App:
        def __call__(self, environ, start_response):
            return []

    app = App()
    wrapped = profilomatic.wsgi.wrap(app)
    wrapped.debug = True
    assert app.debug is True
    del wrapped.debug
    assert not hasattr(app, 'debug')
    assert weakref.ref(wrapped)() is wrapped


def test_a_header_that_cannot_be_encoded_is_the_servers_to_refuse():
    seen = []

    def app(env, start_response):
        start_response('200 OK', [('Content-\udc80\udc80\udc80', 'x')])
        return []

    body = profilomatic.wsgi.wrap(app)({'PATH_INFO': '/'}, lambda status, headers: seen.append(headers))
    body.close()
    assert seen[0][0] == ('Content-\udc80\udc80\udc80', 'x') and seen[0][1][0] == 'X-Task-UUID'


def test_keys_that_cannot_be_compared_do_not_disturb():
    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            raise ZeroDivisionError

    def app(env, start_response):
        start_response('200 OK', [])
        return [b'x']

    names = ('PATH_INFO', 'SCRIPT_NAME', 'HTTP_X_TASK_UUID', 'HTTP_TRACEPARENT', 'wsgi.file_wrapper')
    for name in (*names, 'werkzeug.request', 'profilomatic.route', 'bottle.route'):
        body = profilomatic.wsgi.wrap(app)({Key(name): 'x'}, lambda status, headers: None)
        assert list(body) == [b'x']
        getattr(body, 'close', list)()


def test_ctrl_c_during_our_own_calls_is_not_lost():
    def interrupted(env):
        _runtime.set_template(None)
        raise KeyboardInterrupt

    _runtime.set_template(interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            call([b'x']).close()
            for _ in range(1000):
                time.sleep(0.001)
    finally:
        _runtime.set_template(None)


def test_a_file_wrapper_is_freed_without_the_garbage_collector():
    class Wrapper:
        def __init__(self):
            self.closed = 0

        def __iter__(self):
            return iter([b'x'])

        def close(self):
            self.closed += 1

    result = call(Wrapper(), **{'wsgi.file_wrapper': Wrapper})  # the type is what matters
    assert type(result) is Wrapper
    reference = weakref.ref(result)
    result.close()
    assert result.closed == 1
    del result
    assert reference() is None


def test_a_body_may_be_closed_while_another_thread_is_in_it():
    script = """
        import json, sys, threading, time
        from profilomatic._switch import _runtime
        _runtime.enable(sys.argv[1], 'x', None, None)
        class Slow:
            def __iter__(self):
                return Iterator()
        class Iterator:
            def __next__(self):
                time.sleep(0.01)
                return b'x' * len(str(self.__dict__))
        for _ in range(20):
            body = _runtime.wrap(lambda env, sr: Slow())({}, None)
            thread = threading.Thread(target=next, args=(body,))
            thread.start()
            time.sleep(0.002)
            body.close()
            thread.join()
        print(json.dumps('alive'))
    """
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory:
        done = subprocess.run(
            [sys.executable, '-c', textwrap.dedent(script), directory], capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, json.dumps('alive') + '\n', '')
