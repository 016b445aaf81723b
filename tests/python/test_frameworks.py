"""Requests to real frameworks are named by the templates of their routes, and nothing else about them changes."""

import sys
import time
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import profilomatic
import pytest
from _support import aggregator, ask, needs_native, run

pytestmark = pytest.mark.usefixtures('messages')


def environ(path, **more):
    env = {'SCRIPT_NAME': '', 'PATH_INFO': path, 'REQUEST_METHOD': 'GET', 'QUERY_STRING': ''}
    setup_testing_defaults(env)
    env.update(more)
    return env


def serve(app, env):
    """Status, headers and body, as a server would get them."""
    answers = []
    body = app(env, lambda status, headers, exc_info=None: answers.append((status, headers)) or (lambda data: None))
    try:
        data = b''.join(body)
    finally:
        if hasattr(body, 'close'):
            body.close()
    return (*answers[-1], data)


def named(messages, task_uuid, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for message in list(messages):
            if message['task_uuid'] == task_uuid:
                return message['action_type'], message['action_status']
        time.sleep(0.02)
    raise AssertionError(f'no message of {task_uuid}')


# ---- one application of each framework: an item, a failing page, and nothing else


def flask():
    import flask

    app = flask.Flask('shop')

    @app.route('/item/<int:n>')
    def item(n):
        return 'item %d' % n

    @app.route('/fails/<name>')
    def fails(name):
        raise ZeroDivisionError(name)

    return app


def bottle():
    import bottle

    app = bottle.Bottle()
    app.route('/item/<n:int>', callback=lambda n: 'item %d' % n)

    @app.route('/fails/<name>')
    def fails(name):
        raise ZeroDivisionError(name)

    return app


def pyramid():
    from pyramid.config import Configurator
    from pyramid.response import Response

    def item(request):
        return Response('item %s' % request.matchdict['n'])

    def fails(request):
        raise ZeroDivisionError

    def failed(error, request):
        return Response('sorry', status=500)

    with Configurator() as config:
        config.add_route('item', '/item/{n}')
        config.add_view(item, route_name='item')
        config.add_route('fails', '/fails/{name}')
        config.add_view(fails, route_name='fails')
        config.add_exception_view(failed, context=ZeroDivisionError)
        return config.make_wsgi_app()


def falcon():
    import falcon

    class Item:
        def on_get(self, request, response, n):
            response.text = 'item %d' % n

    class Fails:
        def on_get(self, request, response, name):
            raise falcon.HTTPInternalServerError

    app = falcon.App()
    app.add_route('/item/{n:int}', Item())
    app.add_route('/fails/{name}', Fails())
    return app


def django():
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            ROOT_URLCONF='django_urls', ALLOWED_HOSTS=['*'], SECRET_KEY='x', LOGGING_CONFIG=None, DATABASES={}
        )
        from types import ModuleType

        from django.http import HttpResponse
        from django.urls import include, path, re_path

        def fails(request, name):
            raise ZeroDivisionError

        module = sys.modules['django_urls'] = ModuleType('django_urls')
        deeper = [re_path(r'^(?P<year>[0-9]{4})/$', lambda request, year: HttpResponse('year ' + year))]
        module.urlpatterns = [
            path('', lambda request: HttpResponse('root')),
            path('item/<int:n>', lambda request, n: HttpResponse('item %d' % n)),
            path('fails/<str:name>', fails),
            re_path(r'^archive/', include(deeper)),
        ]
        django.setup()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


APPLICATIONS = {
    'flask': (flask, '/item/<int:n>', '/fails/<name>'),
    'bottle': (bottle, '/item/<n:int>', '/fails/<name>'),
    'pyramid': (pyramid, '/item/{n}', '/fails/{name}'),
    'falcon': (falcon, '/item/{n:int}', '/fails/{name}'),
    'django': (django, '/item/<int:n>', '/fails/<str:name>'),
}


@pytest.fixture(params=APPLICATIONS)
def framework(request):
    pytest.importorskip(request.param)
    make, item, fails = APPLICATIONS[request.param]
    return make(), item, fails


def test_a_request_is_named_by_its_route_and_answered_as_without_us(messages, framework):
    app, item, fails = framework
    wrapped = profilomatic.wsgi.wrap(app)
    expected = {
        '/item/17': ('200', item, 'succeeded'),
        '/fails/once': ('500', fails, 'failed'),
        '/nowhere/17': ('404', '/nowhere/<int>', 'succeeded'),
    }
    for path, (status, name, outcome) in expected.items():
        bare = serve(app, environ(path))
        answer = serve(wrapped, environ(path))
        headers = [header for header in answer[1] if header[0] != 'X-Task-UUID']
        assert answer[0].startswith(status)
        assert (answer[0], headers, answer[2]) == bare
        assert named(messages, dict(answer[1])['X-Task-UUID']) == (name, outcome)


def test_what_a_framework_does_passes_the_validator(framework):
    app = validator(profilomatic.wsgi.wrap(validator(framework[0])))
    body = app(environ('/item/17'), lambda status, headers, exc_info=None: lambda data: None)
    assert b''.join(body) == b'item 17'
    body.close()


def test_djangos_patterns_and_its_root(messages):
    pytest.importorskip('django')
    app = profilomatic.wsgi.wrap(django())
    for path, name in (('/', '/'), ('/archive/2026/', '/archive/(?P<year>[0-9]{4})/$')):
        _, headers, _ = serve(app, environ(path))
        assert named(messages, dict(headers)['X-Task-UUID'])[0] == name


def test_an_application_may_name_its_requests_itself(messages):
    def app(env, start_response):
        env['profilomatic.route'] = '/mine'
        start_response('200 OK', [])
        return [b'x']

    _, headers, _ = serve(profilomatic.wsgi.wrap(app), environ('/item/17'))
    assert named(messages, dict(headers)['X-Task-UUID'])[0] == '/mine'


@pytest.mark.parametrize('value', [None, 7, 'no slash', '', '/' + 'x' * 100_000, '/\udc80'])
def test_odd_names_do_no_harm(messages, value):
    def app(env, start_response):
        env['profilomatic.route'] = value
        start_response('200 OK', [])
        return [b'x']

    status, headers, data = serve(profilomatic.wsgi.wrap(app), environ('/odd'))
    assert (status, data) == ('200 OK', b'x')
    named(messages, dict(headers)['X-Task-UUID'])


@needs_native
def test_names_without_end_are_counted_as_other_and_none_is_lost(tmp_path):
    script = """
        import profilomatic
        profilomatic.configure(source_name='names')
        profilomatic.add_destination(lambda message: None)
        @profilomatic.wsgi.wrap
        def app(env, start_response):
            env['profilomatic.route'] = env['PATH_INFO']
            start_response('200 OK', [])
            return []
        for n in range(600):
            for _ in range(2):
                app({'PATH_INFO': '/page-%s' % ''.join(chr(97 + int(d)) for d in str(n))}, lambda *args: None).close()
        print('fine')
        """
    with aggregator(tmp_path / 'run'):
        done = run(script, tmp_path / 'run', profiled=False)
        assert (done.stdout, done.stderr) == ('fine\n', '')
        deadline, counts = time.monotonic() + 30, {}
        while time.monotonic() < deadline and sum(counts.values()) < 1200:
            report = ask(
                tmp_path / 'run', verb='report', source='names', seconds=None, action=None, limit=9999, stacks=False
            )
            counts = {action['action_type']: action['count'] for action in report['actions']}
            time.sleep(0.05)
    assert sum(counts.values()) == 1200 and len(counts) == 256
    assert counts.pop('(other)') == 2 * (600 - 255) and set(counts.values()) == {2}


TRACE = '0af7651916cd43dd8448eb211c80319c'


def hello(env, start_response):
    start_response('200 OK', [('Seen', env['HTTP_X_TASK_UUID'])])
    return [str(profilomatic.current_task_uuid()).encode()]


def test_a_trace_of_the_caller_is_the_task(messages):
    uuid = '0af76519-16cd-43dd-8448-eb211c80319c'
    env = environ('/trace', HTTP_TRACEPARENT='00-%s-b7ad6b7169203331-01' % TRACE)
    _, headers, data = serve(profilomatic.wsgi.wrap(hello), env)
    assert dict(headers) == {'Seen': uuid, 'X-Task-UUID': uuid} and data == uuid.encode()
    assert named(messages, uuid)[0] == '/trace'


def test_a_task_uuid_comes_before_a_trace_and_a_broken_trace_is_none():
    given = '12345678-1234-4234-8234-123456789abc'
    good = '00-%s-b7ad6b7169203331-01' % TRACE
    _, headers, _ = serve(profilomatic.wsgi.wrap(hello), environ('/', HTTP_TRACEPARENT=good, HTTP_X_TASK_UUID=given))
    assert dict(headers)['X-Task-UUID'] == given
    for broken in (good[:-1], good.upper(), '', 'x' * 10_000, '00-' + '0' * 32 + good[35:], good + '\u20ac'):
        _, headers, _ = serve(profilomatic.wsgi.wrap(hello), environ('/', HTTP_TRACEPARENT=broken))
        uuid = dict(headers)['X-Task-UUID']
        assert uuid[14] == '4' and uuid.replace('-', '') != TRACE


def test_frameworks_may_be_imported_before_or_after_the_wrapping(tmp_path):
    pytest.importorskip('falcon')
    script = """
        import sys
        if %r:
            import falcon.app
        import profilomatic
        @profilomatic.wsgi.wrap
        def app(env, start_response):
            import falcon.app
            assert falcon.app.App._get_responder.__profilomatic__
            return []
        list(app({}, None)); print('fine')
        """
    for early in (False, True):
        done = run(script % early, tmp_path / 'run', profiled=False)
        assert (done.stdout, done.stderr) == ('fine\n', '')


@needs_native
def test_without_a_change_to_the_application_routes_are_told_too(tmp_path):
    pytest.importorskip('falcon')
    done = run('import falcon.app; print(falcon.app.App._get_responder.__profilomatic__)', tmp_path / 'run')
    assert (done.stdout, done.stderr) == ('True\n', '')


def test_a_framework_of_another_version_is_told_once_and_works(tmp_path):
    (tmp_path / 'falcon').mkdir()
    (tmp_path / 'falcon' / '__init__.py').write_text('')
    (tmp_path / 'falcon' / 'app.py').write_text('class API: pass\n')
    script = 'import profilomatic; profilomatic.wsgi.wrap(print); import falcon.app; print(falcon.app.API.__name__)'
    done = run(script, tmp_path / 'run', profiled=False, extra_path=[tmp_path])
    assert done.stdout == 'API\n'
    assert done.stderr.count('\n') == 1 and 'falcon.app' in done.stderr
