"""Applications are wrapped by their servers without a change to their code, and nothing else about them changes.

A wrapped application answers with an X-Task-UUID header once profiling is on; that is how these tests see it.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import profilomatic
import pytest
from _support import aggregator, ask, environment, free_port, get, get_while_it_reloads, run, server, uwsgis
from profilomatic import uwsgi

APPLICATION = """
    def application(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [environ['PATH_INFO'].encode()]

    def site(environ, start_response):
        start_response('201 Created', [])
        return [b'site']

    def make():
        return site
"""
CLASS_APPLICATION = """
    import colorsys

    class Application:
        answer = b'class'
        def __call__(self, environ, start_response):
            start_response('200 OK', [])
            return [self.answer]

    application = Application()
"""


@pytest.fixture
def apps(tmp_path):
    folder = tmp_path / 'apps'
    folder.mkdir()
    (folder / 'plain.py').write_text(textwrap.dedent(APPLICATION))
    (folder / 'classy.py').write_text(textwrap.dedent(CLASS_APPLICATION))
    (folder / 'pack').mkdir()
    (folder / 'pack' / '__init__.py').write_text('application = None\n')
    (folder / 'pack' / 'wsgi.py').write_text(textwrap.dedent(APPLICATION))
    (folder / 'mounted.py').write_text(textwrap.dedent(APPLICATION) + "\napplications = {b'/': site}\n")
    (folder / 'flasky.py').write_text(
        'from flask import Flask\napp = Flask(__name__)\n@app.get("/item/<int:n>")\ndef item(n): return str(n)\n'
    )
    (folder / 'broken.py').write_text('raise RuntimeError("the application is broken")\n')
    return folder


def serves(command, port, tmp_path, apps, stop=signal.SIGTERM, status=200, body=b'/hello', **more):
    """Run the server once with us and check that its answers are whole and wrapped; gives its output."""
    with server(command, port, environment(tmp_path / 'run', **more), apps, stop) as process:
        answers = [get(port, '/hello') for _ in range(6)]
    assert [(answer[0], answer[2]) for answer in answers] == [(status, body)] * 6, process.output
    assert all('x-task-uuid' in answer[1] for answer in answers), process.output
    assert len({answer[1]['x-task-uuid'] for answer in answers}) == 6
    assert process.status == 0, process.output
    assert 'profilomatic:' not in process.output
    return process.output


# ---- gunicorn


@pytest.mark.parametrize(
    'options', [[], ['--preload'], ['-k', 'gthread', '--threads', '4'], ['-k', 'gthread', '--preload']], ids=' '.join
)
def test_gunicorn(options, tmp_path, apps):
    pytest.importorskip('gunicorn')
    port = free_port()
    command = [sys.executable, '-m', 'gunicorn', '-w', '2', '-b', '127.0.0.1:%d' % port, *options]
    serves([*command, 'plain:application'], port, tmp_path, apps)
    serves([*command, 'classy'], port, tmp_path, apps, body=b'class')


def test_a_gunicorn_configuration_may_use_the_hook_without_run(tmp_path, apps):
    pytest.importorskip('gunicorn')
    (apps / 'gunicorn.conf.py').write_text(
        'import profilomatic\n'
        'from profilomatic.gunicorn import post_worker_init\n'
        'profilomatic.add_destination(profilomatic.file_destination(%r))\n' % str(tmp_path / 'profile.log')
    )
    port = free_port()
    command = [sys.executable, '-m', 'gunicorn', '-w', '2', '-b', '127.0.0.1:%d' % port, 'plain:application']
    serves(command, port, tmp_path, apps, profiled=False)


def test_an_application_that_gunicorn_cannot_load_fails_as_it_does_without_us(tmp_path, apps):
    pytest.importorskip('gunicorn')

    def ends(profiled):
        return subprocess.run(
            [sys.executable, '-m', 'gunicorn', '-b', '127.0.0.1:%d' % free_port(), 'broken'],
            env=environment(tmp_path / 'run', profiled=profiled),
            cwd=str(apps),
            capture_output=True,
            timeout=60,
        )

    assert ends(True).returncode == ends(False).returncode == 3


def test_an_asgi_worker_is_left_alone():
    from profilomatic.servers import wrap_gunicorn_worker

    async def asgi(scope, receive, send):
        pass

    class UvicornWorker:
        wsgi = staticmethod(len)

    class Sync:
        wsgi = staticmethod(asgi)

    for kind, application in ((UvicornWorker, len), (Sync, asgi)):
        worker = kind()
        wrap_gunicorn_worker(worker)
        assert worker.wsgi is application


# ---- uWSGI

UWSGI_OPTIONS = {
    'module': (['-w', 'plain'], 200, b'/hello'),
    'module:callable': (['-w', 'plain:site'], 201, b'site'),
    'package': (['--module', 'pack.wsgi:application'], 200, b'/hello'),
    'callable': (['--module', 'plain', '--callable', 'site'], 201, b'site'),
    'factory': (['-w', 'plain:make()'], 201, b'site'),
    'applications': (['-w', 'mounted'], 201, b'site'),
    'class': (['-w', 'classy'], 200, b'class'),
    'lazy': (['-w', 'plain', '--lazy-apps'], 200, b'/hello'),
    'file': (['--wsgi-file', 'plain.py'], 200, b'/hello'),
    'file with imports': (['--wsgi-file', 'classy.py'], 200, b'class'),
    'file:callable': (['--wsgi-file', 'plain.py', '--callable', 'site'], 201, b'site'),
    'mount of a file': (['--mount', '/=plain.py'], 200, b'/hello'),
    'mount of a module': (['--mount', '/=plain:site'], 201, b'site'),
    'eval': (['--eval', 'from plain import site as application'], 201, b'site'),
}


@pytest.mark.parametrize('case', UWSGI_OPTIONS)
@pytest.mark.parametrize('which', ['pypi', 'debian'])
def test_uwsgi_with_no_further_option(which, case, tmp_path, apps):
    if which not in uwsgis():
        pytest.skip('no such uWSGI for this interpreter')
    options, status, body = UWSGI_OPTIONS[case]
    port = free_port()
    command = [*uwsgis()[which], '--http-socket', '127.0.0.1:%d' % port, '--master', '-p', '2', *options]
    serves(command, port, tmp_path, apps, signal.SIGINT, status, body)


@pytest.mark.parametrize('which', ['pypi', 'debian'])
def test_an_ini_file_and_a_reload_of_uwsgi(which, tmp_path, apps):
    if which not in uwsgis():
        pytest.skip('no such uWSGI for this interpreter')
    port = free_port()
    (apps / 'uwsgi.ini').write_text(
        '[uwsgi]\nmaster = true\nprocesses = 2\nhttp-socket = 127.0.0.1:%d\nwsgi-file = plain.py\n' % port
    )
    with server(
        [*uwsgis()[which], str(apps / 'uwsgi.ini')], port, environment(tmp_path / 'run'), apps, signal.SIGINT
    ) as process:
        assert 'x-task-uuid' in get(port)[1]
        process.send_signal(signal.SIGHUP)
        time.sleep(2)
        assert 'x-task-uuid' in get_while_it_reloads(port)[1]
    assert process.status == 0


def test_a_missing_callable_is_uwsgis_to_report(tmp_path, apps):
    found = uwsgis()
    if not found:
        pytest.skip('no uWSGI for this interpreter')
    command = next(iter(found.values()))
    for options in (['-w', 'plain:nothing'], ['--wsgi-file', 'plain.py', '--callable', 'nothing'], ['-w', 'broken']):
        ends = [
            subprocess.run(
                [*command, '--http-socket', '127.0.0.1:%d' % free_port(), '--need-app', *options],
                env=environment(tmp_path / 'run', profiled=profiled),
                cwd=str(apps),
                capture_output=True,
                timeout=60,
            ).returncode
            for profiled in (True, False)
        ]
        assert ends[0] == ends[1] != 0


def test_a_callable_is_served_in_uwsgi_workers_whether_threads_run_or_not(tmp_path, apps):
    (apps / 'listening.py').write_text(
        'import os, profilomatic\n'
        'from plain import application as plain\n'
        'profilomatic.configure(source_name="listening", max_actions_per_run=0)\n'
        'received = []\n'
        'profilomatic.add_destination(received.append)\n'
        'def application(environ, start_response):\n'
        '    if environ["PATH_INFO"] != "/received": return plain(environ, start_response)\n'
        '    start_response("200 OK", [])\n'
        '    return [b"%d %d" % (len(received), all(m["pid"] == os.getpid() for m in received))]\n'
    )
    for command in uwsgis().values():
        port = free_port()
        command = [*command, '--http-socket', '127.0.0.1:%d' % port, '--master', '-p', '1', '-w', 'listening']
        with aggregator(tmp_path / 'run'):
            with server(command, port, environment(tmp_path / 'run'), apps, signal.SIGINT) as process:
                count, until = 0, time.monotonic() + 60
                while count < 5 and time.monotonic() < until:
                    get(port, '/hello')
                    time.sleep(0.05)
                    count, own = map(int, get(port, '/received')[2].split())
        assert count >= 5 and own == 1 and process.status == 0, process.output
        assert 'profilomatic:' not in process.output


def test_the_names_uwsgi_will_look_for_come_from_its_options():
    names = uwsgi.applications
    assert names({}) == ({}, 'application')
    assert names({'module': b'shop'}) == ({'shop': ['application']}, 'application')
    assert names({'module': b'shop:app', 'callable': b'other'}) == ({'shop': ['app']}, 'other')
    assert names({'module': [b'a', b'b:c'], 'master': True}) == ({'a': ['application'], 'b': ['c']}, 'application')
    assert names({'mount': [b'/a=one:app', b'/b=two.py'], b'callable': b'x'})[0]['one'] == ['app']


# ---- servers in Python

SERVERS = {
    'wsgiref': """
        from wsgiref.simple_server import make_server
        server = make_server('127.0.0.1', 0, application)
        port, run = server.server_port, server.serve_forever
    """,
    'werkzeug': """
        from werkzeug.serving import make_server
        server = make_server('127.0.0.1', 0, application)
        port, run = server.server_port, server.serve_forever
    """,
    'werkzeug threaded': """
        from werkzeug.serving import make_server
        server = make_server('127.0.0.1', 0, application, threaded=True)
        port, run = server.server_port, server.serve_forever
    """,
    'waitress': """
        from waitress import create_server
        server = create_server(application, host='127.0.0.1', port=0)
        port, run = int(server.effective_port), server.run
    """,
}
ASKING = """
    import json, threading, urllib.request
    threading.Thread(target=run, daemon=True).start()
    answer = urllib.request.urlopen('http://127.0.0.1:%d/hello' % port)
    print(json.dumps([answer.status, 'X-Task-UUID' in answer.headers, answer.read().decode()]))
"""


@pytest.mark.parametrize('which', SERVERS)
@pytest.mark.parametrize('early', [False, True], ids=['imported after us', 'imported before us'])
def test_servers_in_python(which, early, tmp_path, apps):
    pytest.importorskip(which.split()[0])
    lines = textwrap.dedent(SERVERS[which]).strip().splitlines()
    start = lines[0] + '\nimport profilomatic.auto\n' + '\n'.join(lines[1:]) if early else '\n'.join(lines)
    script = 'from plain import application\n' + start + textwrap.dedent(ASKING)
    result = run(script, tmp_path / 'run', profiled=not early, extra_path=[apps])
    assert json.loads(result.stdout) == [200, True, '/hello'], result.stderr
    assert 'profilomatic:' not in result.stderr


def test_the_flask_development_server(tmp_path, apps):
    pytest.importorskip('flask')
    port = free_port()
    command = [sys.executable, '-m', 'flask', '--app', 'flasky', 'run', '--port', str(port)]
    with server(command, port, environment(tmp_path / 'run'), apps, signal.SIGINT) as process:
        status, headers, body = get(port, '/item/3')
    assert (status, body, 'x-task-uuid' in headers) == (200, b'3', True)
    assert 'profilomatic:' not in process.output


def test_requests_are_counted_and_named_by_their_route(tmp_path, apps):
    pytest.importorskip('gunicorn')
    pytest.importorskip('flask')
    port = free_port()
    command = [sys.executable, '-m', 'gunicorn', '-w', '2', '-b', '127.0.0.1:%d' % port, 'flasky:app']
    with aggregator(tmp_path / 'run'):
        env = environment(tmp_path / 'run', PROFILOMATIC_SOURCE_NAME='routes')
        with server(command, port, env, apps) as process:
            assert [get(port, '/item/%d' % n)[2] for n in range(20)] == [b'%d' % n for n in range(20)]
            assert get(port, '/missing/17')[0] == 404
        assert process.status == 0
        report = ask(tmp_path / 'run', verb='report', source='routes', seconds=None, action=None, limit=5, stacks=False)
    assert {a['action_type']: a['count'] for a in report['actions']} == {'/item/<int:n>': 20, '/missing/<int>': 1}


# ---- nothing else changes


def test_wrapping_twice_is_wrapping_once_and_attributes_can_be_reached():
    def app(environ, start_response):
        return []

    app.config = {'a': 1}
    wrapped = profilomatic.wsgi.wrap(app)
    assert wrapped is not app and profilomatic.wsgi.wrap(wrapped) is wrapped
    assert wrapped.application is app and wrapped.config == {'a': 1}
    with pytest.raises(AttributeError):
        wrapped.nothing  # noqa: B018
    with pytest.raises(TypeError):
        profilomatic.wsgi.wrap(17)


def test_modules_keep_their_loader_and_their_resources(tmp_path):
    result = run(
        """
        import importlib.machinery, inspect, pkgutil, wsgiref.simple_server as module
        loader = module.__spec__.loader
        assert type(loader) is importlib.machinery.SourceFileLoader
        assert 'class WSGIServer' in inspect.getsource(module)
        assert pkgutil.get_data('wsgiref', 'simple_server.py')
        import importlib
        assert importlib.reload(module).WSGIServer
        print('fine')
        """,
        tmp_path / 'run',
    )
    assert (result.stdout, result.stderr) == ('fine\n', '')


def test_a_server_that_is_not_the_version_we_know_runs_unwrapped_with_one_line(tmp_path):
    (tmp_path / 'waitress').mkdir()
    (tmp_path / 'waitress' / '__init__.py').write_text('')
    (tmp_path / 'waitress' / 'server.py').write_text('class Server: pass\n')
    result = run('import waitress.server; print(waitress.server.Server)', tmp_path / 'run', extra_path=[tmp_path])
    assert result.stdout == "<class 'waitress.server.Server'>\n"
    assert result.stderr.count('\n') == 1 and 'waitress.server' in result.stderr


def test_a_server_that_is_not_installed_is_as_missing_as_before(tmp_path):
    script = """
        try:
            import gunicorn.workers.base
        except ModuleNotFoundError as error:
            print(error.name)
        """
    (tmp_path / 'gunicorn').mkdir()
    (tmp_path / 'gunicorn' / '__init__.py').write_text('')
    result = run(script, tmp_path / 'run', extra_path=[tmp_path])
    assert (result.stdout, result.stderr) == ('gunicorn.workers\n', '')


def test_files_that_uwsgi_would_run_are_wrapped_after_their_code_whatever_the_profiler(tmp_path):
    """The mechanism alone, with the interpreter's own PyImport_ExecCodeModule."""
    result = run(
        """
        import ctypes, sys, types
        fake = types.ModuleType('uwsgi')
        fake.opt = {'wsgi-file': b'site.py', 'callable': b'site', 'python-raw': b'raw.py'}
        sys.modules['uwsgi'] = fake
        execute = ctypes.pythonapi.PyImport_ExecCodeModule
        execute.restype, execute.argtypes = ctypes.py_object, [ctypes.c_char_p, ctypes.py_object]
        calls = []
        def profiler(frame, event, argument):
            calls.append(event)
        sys.setprofile(profiler)
        def load(name, path):
            module = execute(name, compile('def site(e, s): return []\\nkept = [site]', path, 'exec'))
            return type(module.site).__name__
        paths = {b'uwsgi_file_site_py': 'site.py', b'uwsgi_file_raw_py': 'raw.py', b'other': 'other.py'}
        names = [load(*item) for item in paths.items()]
        same = sys.getprofile() is profiler
        sys.setprofile(None)
        print(names, same, 'call' in calls)
        """,
        tmp_path / 'run',
    )
    assert (result.stdout, result.stderr) == ("['WsgiApplication', 'function', 'function'] True True\n", '')


def test_the_tests_cover_a_uwsgi_where_the_project_promises_it():
    if os.environ.get('PROFILOMATIC_REQUIRE_SERVERS') == '1':
        assert uwsgis(), 'no uWSGI was found'
