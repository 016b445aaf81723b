"""The ASGI wrapper: what the server and the application see of each other through it, and what a request is called."""

import asyncio
import importlib.util
import inspect
import json
import os
import shutil
import sys
import tempfile
import textwrap

import profilomatic
import pytest
from _support import PROJECT, aggregator, environment, exported, free_port, get, needs_native, run, server

CALLS = """
    import asyncio, json
    import profilomatic
    from profilomatic._switch import _runtime
    profilomatic.configure(max_actions_per_run=0)
    profilomatic.add_destination([].append)

    def scope(path='/', headers=(), kind='http', **more):
        return {'type': kind, 'path': path, 'headers': list(headers), **more}

    async def receive():
        return {'type': 'http.request'}

    sent = []
    async def send(message):
        sent.append(message)
        return len(sent)

    def call(app, scope):
        return asyncio.run(app(scope, receive, send))

    def say(what):
        print(json.dumps(what))
"""


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as path:
        yield path


def says(script, directory):
    done = run(textwrap.dedent(CALLS) + textwrap.dedent(script), directory, profiled=False)
    assert done.returncode == 0 and done.stderr == '', done.stderr
    return json.loads(done.stdout)


def test_the_wrapper_is_a_coroutine_function_with_the_attributes_of_the_application():
    async def app(scope, receive, send):
        return scope

    app.color = 'blue'
    wrapped = profilomatic.asgi.wrap(app)
    assert inspect.iscoroutinefunction(wrapped.__call__)
    assert wrapped.__name__ == 'app' and wrapped.color == 'blue' and wrapped.application is app
    assert inspect.signature(wrapped) == inspect.signature(app)
    wrapped.size = 3
    assert app.size == 3
    assert profilomatic.asgi.wrap(wrapped) is wrapped
    with pytest.raises(TypeError):
        profilomatic.asgi.wrap(3)
    with pytest.raises(AttributeError):
        _ = wrapped.nothing
    scope = {'type': 'http', 'path': '/'}
    assert asyncio.run(wrapped(scope, None, None)) is scope


def test_the_application_is_inside_its_request_and_a_response_names_the_task(directory):
    uuids, headers, returned, told = says(
        """
        @profilomatic.asgi.wrap
        async def app(scope, receive, send):
            inside = profilomatic.current_task_uuid()
            child = await asyncio.create_task(asyncio.to_thread(profilomatic.current_task_uuid))
            told = await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'a', b'b')]})
            await send({'type': 'http.response.body'})
            return [inside, child, scope['profilomatic.task_uuid'], told]

        *uuids, told = call(app, scope(headers=[(b'x-task-uuid', b'01234567-89ab-cdef-0123-456789abcdef')]))
        headers = [[k.decode(), v.decode()] for k, v in sent[0]['headers']]
        lifespan = call(app, scope(kind='lifespan', path=None, **{'profilomatic.task_uuid': None}))[:2]
        say([uuids, headers, lifespan, told])
        """,
        directory,
    )
    given = '01234567-89ab-cdef-0123-456789abcdef'
    assert uuids == [given] * 3
    assert headers == [['a', 'b'], ['x-task-uuid', given]]
    assert told == 1, 'what the server answers to a message comes back'
    assert returned == [None, None], 'a lifespan is no request'


def test_what_the_application_raises_goes_through_with_one_frame_more(directory):
    plain, wrapped, still = says(
        """
        import traceback
        async def app(scope, receive, send):
            raise KeyError('mine')

        def depth(app):
            try:
                call(app, scope())
            except KeyError as error:
                return len(traceback.extract_tb(error.__traceback__))

        say([depth(app), depth(profilomatic.asgi.wrap(app)), profilomatic.current_task_uuid()])
        """,
        directory,
    )
    assert wrapped == plain + 1 and still is None


def test_anything_that_is_no_request_goes_through_untouched(directory):
    assert says(
        """
        async def app(scope, receive, send):
            return [scope, receive is receive_, send is send_, profilomatic.current_task_uuid()]
        receive_, send_ = receive, send
        wrapped = profilomatic.asgi.wrap(app)
        odd = [None, 7, {}, {'type': 5}, {'type': 'lifespan'}, {'type': 'http', 'profilomatic.task_uuid': 'outer'}]
        say([call(wrapped, scope) for scope in odd] == [[scope, True, True, None] for scope in odd])
        """,
        directory,
    )


def test_messages_of_any_shape_reach_the_server(directory):
    assert says(
        """
        shapes = [
            {'type': 'http.response.start'},
            {'type': 'http.response.start', 'status': 'x', 'headers': ((b'a', b'b'),)},
            {'type': 'http.response.start', 'status': 2**70, 'headers': iter([(b'a', b'b')])},
            {'type': 'http.response.start', 'headers': [(b'X-Task-UUID', b'own')]},
            {'type': 3}, {}, None,
        ]
        @profilomatic.asgi.wrap
        async def app(scope, receive, send):
            for shape in shapes:
                await send(shape)
        call(app, scope(path='/\\ud800', headers=[[b'a', b'b'], 3, (1, 2)], root_path=7))
        own = sent[3]['headers'] == [(b'X-Task-UUID', b'own')]
        added = [sent[0]['headers'][0][0], sent[1]['headers'][1][0]] == 2 * [b'x-task-uuid']
        same = all(a is b for a, b in zip(shapes[2:], sent[2:]))
        say(own and added and same and 'headers' not in shapes[0])
        """,
        directory,
    )


# ---- real servers and frameworks

APP = """
    import asyncio
    import fastapi, starlette.applications, starlette.responses, starlette.routing

    app = fastapi.FastAPI()
    inner = fastapi.FastAPI()

    @app.get('/item/{item}')
    async def item(item: int):
        await asyncio.sleep(0.001)
        return item

    @app.get('/plain/{name}')
    def plain(name: str):
        return name

    @inner.get('/deep/{x}')
    async def deep(x: str):
        return x

    async def homepage(request):
        return starlette.responses.PlainTextResponse('hello')

    async def broken(request):
        raise ValueError

    app.mount('/sub', inner)
    app.mount('/star', starlette.applications.Starlette(routes=[
        starlette.routing.Route('/page/{n}', homepage), starlette.routing.Route('/broken', broken)]))
"""


@needs_native
@pytest.mark.parametrize('how', ['uvicorn', 'gunicorn', 'gunicorn-asgi'])
def test_zero_code_under_uvicorn_and_gunicorn(directory, tmp_path, how):
    pytest.importorskip('fastapi')
    pytest.importorskip('uvicorn_worker')
    if how == 'gunicorn-asgi' and importlib.util.find_spec('gunicorn.workers.gasgi') is None:
        pytest.skip('this gunicorn has no ASGI worker')
    (tmp_path / 'shop.py').write_text(textwrap.dedent(APP))
    port = free_port()
    command = {
        'uvicorn': ['-m', 'uvicorn', 'shop:app', '--port', str(port), '--workers', '2'],
        'gunicorn-asgi': ['-m', 'gunicorn', '-k', 'asgi', '-b', f'127.0.0.1:{port}', 'shop:app'],
        'gunicorn': ['-m', 'gunicorn', '-k', 'uvicorn_worker.UvicornWorker', '-b', f'127.0.0.1:{port}', 'shop:app'],
    }[how]
    with aggregator(directory):
        with server(
            [sys.executable, *command], port, environment(directory, extra_path=[tmp_path]), tmp_path
        ) as process:
            for n in range(3):
                assert get(port, f'/item/{n}')[2] == str(n).encode()
                assert get(port, f'/plain/{n}')[2] == f'"{n}"'.encode()
                assert get(port, f'/sub/deep/{n}')[2] == f'"{n}"'.encode()
                status, headers, body = get(port, f'/star/page/{n}')
                assert (status, body) == (200, b'hello') and len(headers['x-task-uuid']) == 36
                assert get(port, '/star/broken')[0] == 500
                assert get(port, f'/nothing/{n}')[0] == 404
        assert process.status in (0, -15), process.output
        rows = {row['action_type']: row for row in exported(directory)['actions']}
    expected = ['/item/{item}', '/plain/{name}', '/sub/deep/{x}', '/star/page/{n}', '/star/broken', '/nothing/<int>']
    assert {name: rows[name]['count'] for name in expected if name in rows} == dict.fromkeys(expected, 3), rows.keys()
    assert rows['/star/broken']['errors'] == 3 and rows['/item/{item}']['errors'] == 0


DJANGO = """
    import asyncio
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(DEBUG=False, ALLOWED_HOSTS=['*'], ROOT_URLCONF=__name__, SECRET_KEY='x', LOGGING_CONFIG=None)

    async def item(request, item):
        await asyncio.sleep(0.001)
        return HttpResponse(str(item))

    def plain(request, name):
        return HttpResponse(name)

    urlpatterns = [path('item/<int:item>/', item), path('plain/<name>/', plain)]
    app = get_asgi_application()
"""


def served(directory, tmp_path, command, paths, **more):
    """What the server answers to each path under zero-code profiling, and the report's rows."""
    port = free_port()
    env = environment(directory, extra_path=[tmp_path], **more)
    with aggregator(directory):
        with server([sys.executable, '-m', *command(port)], port, env, tmp_path) as process:
            answers = [get(port, path) for path in paths]
        assert process.status in (0, -15), process.output
        return answers, {row['action_type']: row for row in exported(directory)['actions']}


def test_django_s_routes_name_its_asynchronous_requests(directory, tmp_path):
    pytest.importorskip('django')
    pytest.importorskip('uvicorn')
    (tmp_path / 'site_app.py').write_text(textwrap.dedent(DJANGO))
    paths = ['/item/7/', '/plain/x/', '/item/8/']
    answers, rows = served(
        directory, tmp_path, lambda port: ['uvicorn', 'site_app:app', '--port', str(port), '--lifespan', 'off'], paths
    )
    assert [answer[2] for answer in answers] == [b'7', b'x', b'8']
    assert rows['/item/<int:item>/']['count'] == 2 and rows['/plain/<name>/']['count'] == 1, rows.keys()


EXAMPLES = os.path.join(PROJECT, 'examples', 'async')


@pytest.mark.parametrize(
    ('command', 'path', 'kinds'),
    [
        (lambda port: ['uvicorn', 'fastapi_app:app', '--port', str(port)], '/both', ['/both']),
        (lambda port: ['gunicorn', '-k', 'gevent', '-b', f'127.0.0.1:{port}', 'gevent_app'], '/x', ['/x']),
        (lambda port: ['uvicorn', 'plain_asgi:app', '--port', str(port)], '/', ['/', 'answer:make']),
    ],
    ids=['fastapi', 'gevent', 'plain'],
)
def test_the_examples_run(directory, tmp_path, command, path, kinds):
    for module in (command(0)[0], 'fastapi', 'gevent'):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'there is no {module}')
    env = {'PROFILOMATIC_MAX_ACTIONS_PER_RUN': '0'}
    folder = shutil.copytree(EXAMPLES, tmp_path / 'async')
    answers, rows = served(directory, folder, command, [path, path], **env)
    assert [answer[0] for answer in answers] == [200, 200]
    assert [rows[kind]['count'] for kind in kinds] == [2] * len(kinds)
