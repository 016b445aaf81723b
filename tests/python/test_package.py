"""The package's face: options, destinations, requests, starting, and staying out of the way."""

import glob
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import textwrap

import profilomatic
import pytest
from _support import PACKAGE, PROJECT, PYTHON_DIR, SITE, aggregator, ask, environment, requests_of, run
from profilomatic import requests
from profilomatic.settings import OPTIONS, Settings, check


def told():
    lines = []
    return lines, lines.append


# ---- options


@pytest.mark.parametrize('wrong, right', [('max_overheads', 'max_overhead'), ('code_granularty', 'code_granularity')])
def test_an_unknown_option_names_the_nearest_valid_one(wrong, right):
    with pytest.raises(TypeError, match=repr(right)):
        profilomatic.configure(**{wrong: 1})


@pytest.mark.parametrize(
    'options',
    [
        {'max_overhead': 0.00049},
        {'max_overhead': 0.501},
        {'max_overhead': float('nan')},
        {'max_overhead': '200%'},
        {'max_overhead': 'little'},
        {'max_overhead': True},
        {'time_granularity': 0},
        {'time_granularity': float('nan')},
        {'time_granularity': '1ms'},
        {'code_granularity': 'word'},
        {'max_actions_per_run': -1},
        {'max_actions_per_run': 2.5},
        {'max_action_types': 0},
        {'max_action_types': 1001},
        {'max_action_types': 10.0},
        {'source_name': ''},
        {'source_name': 'x' * 65},
        {'source_name': 'a\0b'},
        {'scope': 'thread'},
        {'store_all_logs': 'perhaps'},
    ],
)
def test_a_bad_value_raises_ValueError_that_names_the_option(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        profilomatic.configure(**options)


def test_a_percentage_is_a_fraction():
    assert check({'max_overhead': '2%'}) == {'max_overhead': 0.02}
    assert check({'max_overhead': '0.5 %'}) == {'max_overhead': 0.005}


def test_the_ends_of_each_range_are_in_it():
    for option, ends in {'max_overhead': (0.0005, 0.5), 'max_action_types': (1, 1000)}.items():
        for value in ends:
            assert check({option: value}) == {option: value}
            assert check({option: str(value)}) == {option: value}, 'as the environment has it'


def test_one_bad_option_changes_nothing():
    lines, tell = told()
    settings = Settings(tell, {})
    with pytest.raises(ValueError):
        settings.configure({'max_actions_per_run': 3, 'max_overhead': 7})
    assert settings['max_actions_per_run'] == 10


def test_code_comes_before_the_environment_before_the_file_before_the_default(tmp_path):
    pytest.importorskip('tomllib')
    config = tmp_path / 'x.toml'
    config.write_text('max_overhead = "1%"\ntime_granularity = 0.05\ncode_granularity = "file"\n')
    lines, tell = told()
    settings = Settings(
        tell,
        {
            'PROFILOMATIC_CONFIG': str(config),
            'PROFILOMATIC_MAX_OVERHEAD': '3%',
            'PROFILOMATIC_CODE_GRANULARITY': 'method',
        },
    )
    settings.configure({'max_overhead': 0.04})
    assert {name: (settings[name], settings.origin(name)) for name in OPTIONS if name != 'source_name'} == {
        'max_overhead': (0.04, 'code'),
        'code_granularity': ('method', 'environment'),
        'time_granularity': (0.05, 'file'),
        'store_all_logs': (False, 'default'),
        'max_actions_per_run': (10, 'default'),
        'max_action_types': (1000, 'default'),
        'scope': ('actions', 'default'),
    }
    assert lines == []


def test_the_project_file_may_hold_the_options(tmp_path):
    pytest.importorskip('tomllib')
    config = tmp_path / 'pyproject.toml'
    config.write_text('[tool.profilomatic]\nmax_actions_per_run = 4\n')
    assert Settings(print, {'PROFILOMATIC_CONFIG': str(config)})['max_actions_per_run'] == 4


def test_a_slip_in_the_environment_is_told_and_left_out():
    lines, tell = told()
    settings = Settings(
        tell,
        {
            'PROFILOMATIC_MAX_OVERHEAD': 'much',
            'PROFILOMATIC_MAX_ACTION_PER_RUN': '3',
            'PROFILOMATIC_SCOPE': 'process',
            'PROFILOMATIC_DIR': '/nowhere',
        },
    )
    assert settings['max_overhead'] == 0.02
    assert settings['scope'] == 'process'
    assert len(lines) == 2
    assert any('PROFILOMATIC_MAX_OVERHEAD' in line and 'much' in line for line in lines)
    assert any('max_actions_per_run' in line for line in lines)


def test_the_source_name_is_the_host_name_by_default():
    assert Settings(print, {})['source_name'] == os.uname().nodename[:64]


# ---- nothing happens before it is asked for


def test_importing_the_package_starts_nothing_and_loads_little(tmp_path):
    result = run(
        """
        import sys
        before = set(sys.modules)
        import profilomatic, os, threading
        heavy = {'json', 'ssl', 'socket', 'logging', 'asyncio', 'hashlib', 'inspect'} & (set(sys.modules) - before)
        print(sorted(heavy), threading.active_count(), len(os.listdir('/proc/self/task')))
        """,
        tmp_path / 'run',
        profiled=False,
    )
    assert result.stdout == '[] 1 1\n' and result.stderr == ''
    assert not (tmp_path / 'run').exists()


def test_without_a_destination_actions_are_accepted_and_nothing_is_made(tmp_path):
    result = run(
        """
        import profilomatic
        with profilomatic.action('a', customer=7) as action:
            assert action.fields == {'customer': 7}
        @profilomatic.action('b')
        def f(x): return x + 1
        print(f(1), f.__name__, profilomatic.status()['enabled'], profilomatic.current_task_uuid())
        """,
        tmp_path / 'run',
        profiled=False,
    )
    assert (result.stdout, result.stderr) == ('2 f False None\n', '')
    assert not (tmp_path / 'run').exists()


def test_PROFILOMATIC_ENABLED_0_switches_everything_off(tmp_path):
    result = run(
        """
        import profilomatic
        profilomatic.add_destination(profilomatic.file_destination('x.log'))
        app = lambda environ, start_response: []
        with profilomatic.action('a'):
            print(profilomatic.current_task_uuid(), profilomatic.wsgi.wrap(app) is app)
        print(profilomatic.status()['reason'])
        """,
        tmp_path / 'run',
        cwd=str(tmp_path),
        PROFILOMATIC_ENABLED='0',
    )
    assert result.stdout == 'None True\nPROFILOMATIC_ENABLED=0\n' and result.stderr == ''
    assert not (tmp_path / 'run').exists()


def test_an_action_has_a_task_uuid_inside_and_hands_exceptions_on(tmp_path):
    result = run(
        """
        import asyncio, profilomatic
        profilomatic.add_destination(lambda message: None)
        with profilomatic.action('outer') as outer:
            assert profilomatic.current_task_uuid() == outer.task_uuid
            with profilomatic.action('inner'):
                assert profilomatic.current_task_uuid() == outer.task_uuid
        assert profilomatic.current_task_uuid() is None
        given = '7b1d6d2e-3b0c-4c66-9a1e-0a8b5a3e9d10'
        with profilomatic.action('joined', given):
            assert profilomatic.current_task_uuid() == given
        try:
            with profilomatic.action('fails'):
                raise KeyError('mine')
        except KeyError as error:
            print(error)
        @profilomatic.action('coroutine')
        async def f():
            await asyncio.sleep(0)
            return profilomatic.current_task_uuid()
        print(len(asyncio.run(f())))
        """,
        tmp_path / 'run',
        profiled=False,
    )
    assert (result.stdout, result.stderr) == ("'mine'\n36\n", '')


# ---- destinations


def test_a_path_and_an_open_file_of_that_path_are_the_same_destination(tmp_path):
    path = tmp_path / 'profile.log'
    with open(path, 'a') as file:
        by_file = profilomatic.file_destination(file)
        by_path = profilomatic.FileDestination(path)
        assert by_file == by_path and hash(by_file) == hash(by_path)
        assert by_path != profilomatic.no_flush_destination(path)
        assert by_path.profilomatic_request() == {
            'kind': 'file',
            'path': str(path),
            'form': 'classic',
            'flush': True,
            'profiles': False,
        }


def test_a_file_object_that_no_path_names_is_written_to_by_the_process(tmp_path):
    import io

    for file in (io.StringIO(), io.BytesIO()):
        destination = profilomatic.file_destination(file)
        assert destination.profilomatic_request() is None
        destination({'kind': 'action'})
        assert json.loads(file.getvalue()) == {'kind': 'action'}
    path = tmp_path / 'gone.log'
    with open(path, 'w') as file:
        os.unlink(path)
        assert profilomatic.file_destination(file).profilomatic_request() is None
    with open(os.devnull, 'w') as file:
        assert profilomatic.file_destination(file).profilomatic_request() is None


def test_a_rest_destination_is_https_with_a_context_or_on_port_443_else_http(capfd):
    def url(*args, **kwargs):
        return profilomatic.RestDestination(*args, **kwargs).profilomatic_request()['url']

    assert url('127.0.0.1', 8080) == 'http://127.0.0.1:8080/api/data'
    assert url('localhost') == 'http://localhost:80/api/data'
    assert url('::1', 99) == 'http://[::1]:99/api/data'
    assert url('collector.example', 443) == 'https://collector.example:443/api/data'
    assert (
        url('collector.example', ssl_context=ssl.create_default_context()) == 'https://collector.example:443/api/data'
    )
    assert capfd.readouterr().err == ''
    assert url('plain.example', 8080) == 'http://plain.example:8080/api/data'
    url('plain.example', 8080)
    warning = capfd.readouterr().err
    assert warning.count('\n') == 1 and 'plain.example' in warning


def test_what_an_ssl_context_says_of_verification_is_taken_over(tmp_path):
    subprocess.run(
        ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=private', '-days', '2']
        + ['-keyout', str(tmp_path / 'key.pem'), '-out', str(tmp_path / 'ca.pem')],
        check=True,
        capture_output=True,
    )
    private = ssl.create_default_context(cafile=str(tmp_path / 'ca.pem'))
    request = profilomatic.RestDestination('localhost', 9, ssl_context=private).profilomatic_request()
    pem = (tmp_path / 'ca.pem').read_text()
    assert ssl.PEM_cert_to_DER_cert(request['ca_pem'].strip()) == ssl.PEM_cert_to_DER_cert(pem.strip())
    assert (request['verify'], request['check_hostname']) == (True, True)

    system = profilomatic.RestDestination('localhost', 9, ssl_context=ssl.create_default_context())
    assert system.profilomatic_request()['ca_pem'] is None

    careless = ssl.create_default_context()
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    request = profilomatic.RestDestination('localhost', 9, ssl_context=careless).profilomatic_request()
    assert (request['verify'], request['check_hostname']) == (False, False)


@pytest.mark.parametrize(
    'arguments', [('',), ('a/b',), ('user@host',), ('http://host',), ('host', 0), ('host', 70000), ('host', 80, 0)]
)
def test_a_senseless_server_is_refused(arguments):
    with pytest.raises(ValueError):
        profilomatic.RestDestination(*arguments)


def test_only_what_can_be_called_or_requested_is_a_destination():
    with pytest.raises(TypeError):
        profilomatic.add_destination('profile.log')
    with pytest.raises(TypeError):
        profilomatic.file_destination(17)
    with pytest.raises(ValueError, match='form'):
        profilomatic.file_destination('x', form='xml')
    with pytest.raises(ValueError, match='was not added'):
        profilomatic.remove_destination(print)


# ---- requests


def test_a_request_file_is_named_by_its_content_private_and_whole(tmp_path):
    (tmp_path / 'requests').mkdir()
    request = {'kind': 'limits', 'max_overhead': 0.02, 'b': None}
    name = requests.write(str(tmp_path), request)
    assert requests.write(str(tmp_path), dict(reversed(list(request.items())))) == name
    path = tmp_path / 'requests' / name
    assert os.listdir(tmp_path / 'requests') == [name]
    assert path.read_bytes() == b'{"b":null,"kind":"limits","max_overhead":0.02}'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert name == requests.file_name(path.read_bytes()) and len(name) == 32 + len('.json')
    requests.remove(str(tmp_path), name)
    requests.remove(str(tmp_path), name)
    assert os.listdir(tmp_path / 'requests') == []


ASKING = """
    import os, sys, profilomatic
    profilomatic.configure(source_name='web 1', max_overhead='1%')
    profilomatic.add_destination(profilomatic.file_destination('/tmp/never-written.log'))
    children = []
    for _ in range(int(sys.argv[1])):
        pid = os.fork()
        if pid == 0:
            with profilomatic.action('a'):
                pass
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
"""


def test_nothing_is_asked_before_the_first_action(tmp_path):
    result = run(ASKING, tmp_path / 'run', profiled=False, arguments=['0'])
    assert (result.returncode, result.stderr) == (0, '')
    assert requests_of(tmp_path / 'run') == {}


def test_many_workers_that_ask_the_same_make_one_file_each_kind(tmp_path):
    result = run(ASKING, tmp_path / 'run', profiled=False, arguments=['5'])
    assert (result.returncode, result.stderr) == (0, '')
    found = requests_of(tmp_path / 'run')
    assert sorted(request['kind'] for request in found.values()) == ['file', 'limits']
    assert all('/%d-web%%201/requests/' % os.geteuid() in path for path in found)
    limits = next(request for request in found.values() if request['kind'] == 'limits')
    assert limits == {
        'kind': 'limits',
        'max_overhead': 0.01,
        'time_granularity': 0.01,
        'code_granularity': 'line',
        'max_actions_per_run': 10,
        'max_action_types': 1000,
        'store_all_logs': False,
        'scope': 'actions',
    }


def test_later_changes_replace_what_was_asked(tmp_path):
    result = run(
        """
        import os, sys, profilomatic, json, glob
        def asked():
            files = glob.glob(os.environ['PROFILOMATIC_DIR'] + '/*/requests/*')
            loaded = [json.load(open(f)) for f in files]
            return sorted((r['kind'], r.get('max_actions_per_run'), r.get('path')) for r in loaded)
        first, second = profilomatic.file_destination('/tmp/1'), profilomatic.file_destination('/tmp/2')
        profilomatic.add_destination(first)
        with profilomatic.action('a'): pass
        print(asked())
        profilomatic.configure(max_actions_per_run=3)
        profilomatic.add_destination(second)
        profilomatic.add_destination(profilomatic.file_destination('/tmp/2'))
        print(asked())
        profilomatic.remove_destination(first)
        print(asked(), profilomatic.status()['enabled'])
        profilomatic.remove_destination(profilomatic.file_destination('/tmp/2'))
        print(asked(), profilomatic.status()['enabled'])
        """,
        tmp_path / 'run',
        profiled=False,
    )
    assert result.stderr == ''
    assert result.stdout.splitlines() == [
        "[('file', None, '/tmp/1'), ('limits', 10, None)]",
        "[('file', None, '/tmp/1'), ('file', None, '/tmp/2'), ('limits', 3, None)]",
        "[('file', None, '/tmp/2'), ('limits', 3, None)] True",
        "[('limits', 3, None)] False",
    ]


# ---- counting


def test_every_action_is_counted_under_its_name(tmp_path):
    script = """
        import profilomatic
        profilomatic.configure(source_name='counting')
        profilomatic.add_destination(lambda message: None)
        for n in range(50):
            try:
                with profilomatic.action('even' if n % 2 == 0 else 'odd'):
                    if n % 10 == 0:
                        raise ValueError
            except ValueError:
                pass
        """
    with aggregator(tmp_path / 'run'):
        assert run(script, tmp_path / 'run', profiled=False).stderr == ''
        report = ask(
            tmp_path / 'run', verb='report', source='counting', seconds=None, action=None, limit=5, stacks=False
        )
    assert {(a['action_type'], a['count'], a['errors']) for a in report['actions']} == {('even', 25, 5), ('odd', 25, 0)}


# ---- without the extension


@pytest.fixture
def bare(tmp_path):
    """A folder to import the package from, without its extension."""
    shutil.copytree(
        PACKAGE, tmp_path / 'bare' / 'profilomatic', ignore=shutil.ignore_patterns('_runtime*', '__pycache__')
    )
    return tmp_path / 'bare'


USING = """
    import json, profilomatic, sys
    received = []
    profilomatic.configure(max_overhead=0.5)
    profilomatic.add_destination(received.append)
    profilomatic.add_destination(profilomatic.file_destination(sys.argv[1]))
    app = lambda environ, start_response: []
    with profilomatic.action('a') as a, profilomatic.action('b') as b:
        assert a.task_uuid == b.task_uuid == profilomatic.current_task_uuid()
    list(profilomatic.wsgi.wrap(app)({}, None))
    profilomatic.remove_destination(received.append)
    print(json.dumps([profilomatic.status(), received]))
"""


def test_without_the_extension_one_process_is_profiled_in_python_and_that_is_said_once(tmp_path, bare):
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(USING), str(tmp_path / 'file')],
        env=dict(environment(tmp_path / 'run', profiled=False), PYTHONPATH=str(bare)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count('\n') == 1 and 'no native extension for this cpython' in result.stderr
    status, received = json.loads(result.stdout)
    assert (status['implementation'], status['enabled'], status['reason']) == ('python', True, None)
    assert status['not_native'].startswith('no native extension') and not (tmp_path / 'run').exists()
    assert [message['action_type'] for message in received] == ['a', '/']
    assert [json.loads(line) for line in (tmp_path / 'file').read_text().splitlines()] == received


def test_without_the_extension_one_line_is_told_in_a_tree_of_processes(tmp_path, bare):
    script = tmp_path / 'tree.py'
    script.write_text(
        'import subprocess, sys\n'
        'print("runs", flush=True)\n'
        'again = [sys.executable, *sys.argv, "x"]\n'
        'sys.exit(subprocess.run(again).returncode if len(sys.argv) < 3 else 7)\n'
    )
    site = str(bare / 'profilomatic' / '_site')
    result = subprocess.run(
        [sys.executable, str(script)],
        env=dict(environment(tmp_path / 'run'), PYTHONPATH=os.pathsep.join([site, str(bare)])),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 7 and result.stdout == 'runs\n' * 3
    assert result.stderr.count('\n') == 1 and 'cannot profile' in result.stderr


def old_pythons():
    found = glob.glob(os.path.expanduser('~/.pyenv/versions/*/bin/python'))
    found += filter(None, map(shutil.which, ['python2', 'python2.7', 'python3.6', 'python3.7', 'python3.10', 'pypy3']))
    extension = set(glob.glob(os.path.join(PACKAGE, '_runtime.*')))
    old = []
    for python in sorted(set(found)):
        suffix = subprocess.run(
            [python, '-c', 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'],
            capture_output=True,
            text=True,
            env=environment('/nonexistent', profiled=False),
        ).stdout.strip()
        if suffix and os.path.join(PACKAGE, '_runtime' + suffix) not in extension:
            old.append(python)
    return old


def test_an_interpreter_that_the_extension_was_not_built_for_runs_on_with_one_line(tmp_path):
    pythons = old_pythons()
    if not pythons:
        pytest.skip('no other interpreter here')
    for python in pythons:
        result = run('print("runs")', tmp_path / 'run', python=python)
        assert (result.returncode, result.stdout) == (0, 'runs\n'), python
        assert result.stderr.count('\n') == 1 and 'cannot profile' in result.stderr, (python, result.stderr)


# ---- sitecustomize


def test_the_users_own_sitecustomize_runs_under_its_name(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text('import sys\nsys.mark = 5\nwhere = __file__\n')
    result = run(
        'import sys, sitecustomize; print(sys.mark, sitecustomize.where, "profilomatic.auto" in sys.modules)',
        tmp_path / 'run',
        extra_path=[tmp_path],
    )
    assert result.stdout == '5 %s True\n' % (tmp_path / 'sitecustomize.py') and result.stderr == ''


def test_a_failing_sitecustomize_fails_as_it_does_without_us(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text('raise ValueError("mine")\n')
    with_us = run('print(1)', tmp_path / 'run', extra_path=[tmp_path])
    without = run('print(1)', tmp_path / 'run', extra_path=[tmp_path], profiled=False)
    assert (with_us.returncode, with_us.stdout) == (without.returncode, without.stdout) == (0, '1\n')
    assert with_us.stderr == without.stderr and 'mine' in without.stderr


@pytest.mark.parametrize('value', ['0', ''])
def test_sitecustomize_does_nothing_unless_it_is_switched_on(tmp_path, value):
    result = run(
        'import sys; print([m for m in sys.modules if "profilomatic" in m])',
        tmp_path / 'run',
        PROFILOMATIC_ENABLED=value,
    )
    assert (result.stdout, result.stderr) == ('[]\n', '')


def test_a_process_that_has_no_action_leaves_no_trace(tmp_path):
    result = run('import os; print(len(os.listdir("/proc/self/task")))', tmp_path / 'run')
    assert (result.stdout, result.stderr) == ('1\n', '')
    assert not (tmp_path / 'run').exists()


def test_it_is_the_built_package_that_is_tested():
    assert profilomatic.implementation == 'native', profilomatic.status()['reason']
    assert SITE.startswith(PYTHON_DIR) and os.path.exists(os.path.join(SITE, 'sitecustomize.py'))


# ---- the example


def test_the_shops_readme_names_the_planted_lines():
    shop = os.path.join(PROJECT, 'examples', 'shop')
    with open(os.path.join(shop, 'README.md')) as file:
        named = re.findall(r'`(shop/\w+\.py):(\w+):(\d+)` \| `(\w+)`', file.read())
    assert [state for *_, state in named] == ['cpu', 'blocked', 'blocked']
    for path, function, line, _ in named:
        with open(os.path.join(shop, path)) as file:
            lines = file.read().splitlines()
        before = [text for text in lines[: int(line)] if text.startswith('def ')]
        assert '# SLOW' in lines[int(line) - 1] and before[-1].startswith('def %s(' % function)
