"""Several interpreters in one process, and interpreters without a GIL."""

import ctypes
import errno
import os
import subprocess
import sys
import sysconfig

import pytest
from _sampled_scripts import SAMPLED, ends, hot, script, tells
from _support import PROJECT
from test_runtime_life import START, SUBINTERPRETER

# ---- several interpreters in one process


def test_interpreters_that_share_the_gil_are_sampled_each_with_its_own_names(served):
    """In turn and at the same time, each on a thread; the code objects of one that ended are forgotten."""
    found = tells(
        script(
            START,
            SAMPLED,
            SUBINTERPRETER,
            """
            code = '''if True:
                import os, time
                import profilomatic
                from profilomatic._switch import _runtime
                profilomatic.configure(max_actions_per_run=0, max_overhead=0.5, source_name='SOURCE')
                profilomatic.add_destination(profilomatic.no_flush_destination('/dev/null'))
                def in_NAME():
                    goal = _runtime.status()['samples'] + 16
                    until = time.monotonic() + 20
                    while _runtime.status()['samples'] < goal and time.monotonic() < until:
                        sum(range(5000))
                until = time.monotonic() + 20
                while time.monotonic() < until:
                    with profilomatic.action('of NAME') as action:
                        if action.profiled:
                            in_NAME()
                            break
                    time.sleep(0.02)
            '''
            def run(name):
                inner = new()
                interpreters.run_string(inner, code.replace('NAME', name))
                interpreters.destroy(inner)
            assert admitted()
            before = _runtime.status()
            for name in ('first', 'second'):
                run(name)
            threads = [threading.Thread(target=run, args=(name,)) for name in ('third', 'fourth')]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            in_action('of outer', until_sampled)
            after = _runtime.status()
            print(json.dumps([after[name] - before[name] for name in ('samples', 'unreadable')]))
            """,
            SOURCE='inner',
        ),
        served,
    )
    assert found[0] > 20 and found[1] <= 1, found
    for name in ('first', 'second', 'third', 'fourth'):
        seen = hot(served, 'inner', f'of {name}')
        assert seen.pop(f'in_{name}', 0) > 0.02, (name, seen)
        assert not any(function.startswith('in_') or function == 'spin' for function in seen), (name, seen)
    assert hot(served, 'inner', 'of outer').get('spin', 0) > 0.02


@pytest.mark.skipif(sys.version_info < (3, 12), reason='an interpreter has a GIL of its own from 3.12 on')
def test_an_interpreter_with_a_gil_of_its_own_is_refused_and_does_not_disturb(served):
    """It runs, and makes and frees code, while the main one is sampled, with scope 'process'."""
    found = tells(
        script(
            START,
            SAMPLED,
            """
            profilomatic.configure(scope='process')
            try:
                import _interpreters as interpreters
                own = interpreters.create('isolated')
            except ImportError:
                import _xxsubinterpreters as interpreters
                own = interpreters.create(isolated=True)
            told = os.environ['PROFILOMATIC_DIR'] + '/own-gil'
            code = '''if True:
                import time
                said = []
                import profilomatic
                with profilomatic.action('of own') as action:
                    said.append(action.profiled)
                said.append(profilomatic.status()['reason'])
                open(TOLD, 'w').write(repr(said))
                until = time.monotonic() + 0.6
                def in_own():
                    exec(compile('def f(): pass', 'x', 'exec'), {})
                while time.monotonic() < until:
                    in_own()
            '''
            thread = threading.Thread(target=interpreters.run_string, args=(own, code.replace('TOLD', repr(told))))
            thread.start()
            found = sampled(lambda: [spin(0.5), until_sampled(20)], 'of main')
            thread.join()
            interpreters.destroy(own)
            found['told'] = eval(open(told).read())
            print(json.dumps(found))
            """,
            SOURCE='own-gil',
        ),
        served,
    )
    assert found['samples'] > 10, found
    profiled, reason = found['told']
    assert profiled is False and 'does not support loading in subinterpreters' in reason, found['told']
    assert 'scons' not in reason, 'as if building it helped'
    seen = {name for kind in ('of main', '(outside any action)') for name in hot(served, 'own-gil', kind)}
    assert 'spin' in seen and 'in_own' not in seen, seen


# ---- free-threaded builds


def test_a_free_threaded_build_is_profiled_in_pure_python_and_says_so(served):
    """As such an interpreter does not load the extension of another, it says so about itself."""
    done = ends(
        """
        import sys
        sys.abiflags += 't'
        sys.modules['profilomatic._runtime'] = None
        import profilomatic
        told = []
        profilomatic.add_destination(told.append)
        with profilomatic.action('works') as action:
            print(action.profiled, profilomatic.implementation)
        """,
        served,
    )
    assert (done.returncode, done.stdout) == (0, 'True python\n'), done.stderr
    assert done.stderr.startswith(
        'profilomatic: free-threaded builds of CPython are not supported by the native extension'
    )
    assert done.stderr.count('\n') == 1, done.stderr


@pytest.mark.skipif(sys.version_info < (3, 13), reason='headers know of free-threaded builds from 3.13 on')
def test_the_start_up_check_of_a_free_threaded_build_refuses(tmp_path):
    """Compiled as for one; nothing of its structures is looked at."""
    library = tmp_path / 'check.so'
    sources = [os.path.join(PROJECT, source) for source in ('runtime/cpython/check.c', 'shm/fault.c')]
    command = ['gcc', '-std=c17', '-D_GNU_SOURCE', '-DPy_GIL_DISABLED=1', '-I' + PROJECT, '-shared', '-fPIC']
    command += ['-isystem', sysconfig.get_paths()['include'], '-o', str(library), *sources]
    subprocess.run(command, check=True)
    check = ctypes.CDLL(str(library))
    check.fault_text.restype = ctypes.c_char_p
    assert check.reader_check() == -errno.ENOTSUP
    assert check.fault_text().startswith(b'free-threaded builds of CPython are not supported')
