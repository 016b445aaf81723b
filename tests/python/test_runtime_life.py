"""The runtime in processes that fork, change, run out of things and die: each test is one script of its own."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap

import pytest
from _support import ADMITTED, BIN, aggregator, ask, environment, run

# Every action is profiled; waits until the aggregator admits.
START = (
    ADMITTED
    + """
    import json, os, sys, threading, time
    import profilomatic
    from profilomatic._switch import _runtime
    profilomatic.configure(max_actions_per_run=0, max_overhead=0.5, source_name='life')
    profilomatic.add_destination(profilomatic.file_destination(os.environ['PROFILOMATIC_DIR'] + '/out.log'))
    def spin(seconds):
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            sum(range(500))
    def until_sampled(count=8):
        goal = _runtime.status()['samples'] + count  # the interval may be ten times what was asked for
        until = time.monotonic() + 30
        while _runtime.status()['samples'] < goal and time.monotonic() < until:
            spin(0.02)
    def sampler_cpu():
        for task in os.listdir('/proc/self/task'):
            with open(f'/proc/self/task/{task}/comm') as file:
                if file.read().startswith('pom-sampler'):
                    with open(f'/proc/self/task/{task}/schedstat') as file:
                        return int(file.read().split()[0]) / 1e9
        raise AssertionError('no sampler thread')
"""
)


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as path:
        yield path


def says(script, directory, **options):
    """What the script prints as JSON; it must end well and quietly."""
    options.setdefault('PYTHONWARNINGS', 'ignore::DeprecationWarning')  # 3.12: of a fork while we have a thread
    done = run(textwrap.dedent(START) + textwrap.dedent(script), directory, profiled=False, **options)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stderr == ''
    return json.loads(done.stdout)


# ---- actions


def test_the_outer_action_stays_current_when_inner_ones_end_out_of_order(directory):
    found = says(
        """
        a, b, c = (_runtime.Action(name) for name in 'abc')
        a.begin(), b.begin(), c.begin()
        b.end()
        c.end()
        inner = _runtime.Action('d').begin()
        print(json.dumps([profilomatic.current_task_uuid() == a.task_uuid, inner.task_uuid == a.task_uuid]))
        inner.end(), a.end()
        """,
        directory,
    )
    assert found == [True, True]


def test_actions_that_are_begun_again_inside_each_other_end_all_the_same(directory):
    found = says(
        """
        a, b = _runtime.Action('a'), _runtime.Action('b')
        for _ in range(5):
            b.begin(), a.begin(), b.end(), b.begin(), a.end(), b.end()
        print(json.dumps(profilomatic.current_task_uuid()))
        """,
        directory,
    )
    assert found is None


def test_a_long_line_of_actions_that_nobody_ends_can_be_freed(directory):
    found = says(
        """
        threading.stack_size(256 << 10)
        def leak():
            for _ in range(100000):
                _runtime.Action('leak').begin()
        thread = threading.Thread(target=leak)
        thread.start()
        thread.join()
        print(json.dumps(profilomatic.current_task_uuid()))
        """,
        directory,
    )
    assert found is None


def test_uuids_differ_also_where_nothing_is_profiled_and_in_children(directory):
    found = says(
        """
        profilomatic.remove_destination(profilomatic._switch.switch.destinations[0])
        before = _runtime.Action('x').task_uuid
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, _runtime.Action('x').task_uuid.encode())
            os._exit(0)
        child = os.read(reader, 36).decode()
        print(json.dumps([before, _runtime.Action('x').task_uuid, child]))
        """,
        directory,
    )
    assert len(set(found)) == 3, found


def test_a_thread_that_dies_inside_an_action_gives_its_slot_back(directory):
    with aggregator(directory):
        found = says(
            """
            assert admitted()
            kept = []
            def die():
                kept.append(_runtime.Action('dies').begin())
            for _ in range(300):
                thread = threading.Thread(target=die)
                thread.start()
                thread.join()
                time.sleep(0.001)
            assert any(action.profiled for action in kept)
            parked, until = False, time.monotonic() + 30
            while not parked and time.monotonic() < until:
                ticks = _runtime.status()['ticks']
                time.sleep(0.5)
                parked = _runtime.status()['ticks'] == ticks
            with profilomatic.action('after') as after:
                spin(0.05)
            for action in kept:
                action.end()
            again = _runtime.Action('again').begin()
            print(json.dumps([parked, after.profiled, again.profiled]))
            """,
            directory,
        )
    assert found == [True, True, True]


# ---- attaching


def test_a_source_that_changes_too_late_leaves_the_process_in_its_pool(directory):
    found = says(
        """
        with profilomatic.action('first'):
            pass
        try:
            _runtime.enable(os.environ['PROFILOMATIC_DIR'], 'elsewhere', None, None)
            raised = None
        except RuntimeError as error:
            raised = str(error)
        with profilomatic.action('second'):
            pass
        rings = sorted(pool for pool in os.listdir(os.environ['PROFILOMATIC_DIR']) if '-' in pool)
        print(json.dumps([raised, rings, _runtime.enabled()]))
        """,
        directory,
    )
    assert 'life' in found[0] and found[1] == [f'{os.geteuid()}-life'] and found[2] is True


def test_a_child_made_without_the_c_librarys_fork_can_be_enabled_anew(directory):
    found = says(
        """
        import ctypes
        with profilomatic.action('parent'):
            pass
        libc = ctypes.PyDLL(None)
        pid = libc._Fork()
        if pid == 0:
            try:
                _runtime.enable(os.environ['PROFILOMATIC_DIR'], 'child', None, None)
                with _runtime.Action('child'):
                    pass
                os._exit(0 if _runtime.status()['attached'] else 3)
            except BaseException:
                os._exit(4)
        print(json.dumps(os.waitpid(pid, 0)[1]))
        """,
        directory,
    )
    assert found == 0
    assert {f'{os.geteuid()}-{name}' for name in ('life', 'child')} <= set(os.listdir(directory))


def test_what_is_called_at_the_attachment_may_begin_actions_and_is_called_once(directory):
    found = says(
        """
        calls = []
        def attached():
            calls.append(os.getpid())
            with _runtime.Action('within'):
                pass
        _runtime.enable(os.environ['PROFILOMATIC_DIR'], 'life', None, attached)
        for _ in range(3):
            with _runtime.Action('x'):
                pass
        pid = os.fork()
        if pid == 0:
            with _runtime.Action('x'):
                os._exit(0 if calls[1:] == [os.getpid()] else 3)
        print(json.dumps([len(calls), os.waitpid(pid, 0)[1]]))
        """,
        directory,
    )
    assert found == [1, 0]


@pytest.mark.parametrize('destination', ['print', 'profilomatic.RestDestination("127.0.0.1", 9)'])
def test_the_first_action_imports_nothing(directory, destination):
    """Else a child that is forked at that moment by another thread waits for an import lock for ever."""
    done = run(
        f"""
        import sys
        import profilomatic
        class Spy:
            def find_spec(self, name, path=None, target=None):
                print(name)
        profilomatic.add_destination({destination})
        sys.meta_path.insert(0, Spy())
        with profilomatic.action('first'):
            pass
        sys.meta_path.pop(0)
        """,
        directory,
        profiled=False,
    )
    assert (done.returncode, done.stdout) == (0, ''), done.stdout + done.stderr


SUBINTERPRETER = """
    try:
        import _interpreters as interpreters            # 3.13
        new = lambda: interpreters.create('legacy')
    except ImportError:
        import _xxsubinterpreters as interpreters
        new = lambda: interpreters.create(isolated=False)
"""


def test_each_interpreter_is_told_of_the_attachment_and_may_go_away(directory):
    found = says(
        textwrap.dedent(SUBINTERPRETER)
        + textwrap.dedent(
            """
            told = []
            _runtime.enable(os.environ['PROFILOMATIC_DIR'], 'life', None, lambda: told.append('main'))
            script = '''if True:
                import os
                from profilomatic import _runtime
                told = []
                _runtime.enable(os.environ['PROFILOMATIC_DIR'], 'life', None, lambda: told.append('sub'))
                for _ in range(2):
                    with _runtime.Action('x'):
                        pass
                open(os.environ['PROFILOMATIC_DIR'] + '/told', 'a').write(' '.join(told) + ',')
            '''
            for _ in range(2):
                inner = new()
                interpreters.run_string(inner, script)
                interpreters.destroy(inner)
            with _runtime.Action('x'):
                pass
            print(json.dumps([told, open(os.environ['PROFILOMATIC_DIR'] + '/told').read()]))
            """
        ),
        directory,
    )
    assert found == [['main'], 'sub,sub,']


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can become somebody else')
def test_a_worker_that_becomes_another_user_has_a_pool_of_that_user(tmp_path):
    script = """
        import os, sys
        from profilomatic._switch import _runtime
        _runtime.enable(_runtime.directory_default(), 'life', None, None)
        os.setuid(65534)
        with _runtime.Action('x'):
            pass
        status = _runtime.status()
        sys.exit(0 if status['attached'] else status['reason'])
    """
    theirs = '/dev/shm/profilomatic-65534'
    existed = os.path.exists(theirs)
    known = environment('')
    del known['PROFILOMATIC_DIR']
    try:
        done = subprocess.run(
            [sys.executable, '-c', textwrap.dedent(script)], env=known, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert os.path.exists('/run/profilomatic') or os.path.isdir(theirs + '/65534-life')
    finally:
        if not existed:
            subprocess.run(['rm', '-rf', theirs], check=True)


def test_without_descriptors_the_application_runs_on_and_is_told_why(directory):
    done = run(
        """
        import os, resource
        from profilomatic._switch import _runtime
        _runtime.enable(os.environ['PROFILOMATIC_DIR'], 'life', None, None)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with _runtime.Action('x'):
            pass
        print(_runtime.status()['reason'])
        """,
        directory,
        profiled=False,
    )
    assert done.returncode == 0 and 'Too many open files' in done.stdout
    assert done.stderr.count('\n') == 1 and 'the application runs on' in done.stderr


# ---- the sampler

SECCOMP = """
    import ctypes, struct
    def forbid(*numbers):
        '''These system calls fail with EPERM from now on (a seccomp filter on all threads to come).'''
        code = [(0x20, 0, 0, 0)]                                     # load the number
        for i, number in enumerate(numbers):
            code.append((0x15, len(numbers) - i, 0, number))         # equal: to the last instruction
        code += [(0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x00050001)] # allow; EPERM
        program = b''.join(struct.pack('HBBI', *line) for line in code)
        buffer = ctypes.create_string_buffer(program)
        filter = struct.pack('HxxxxxxQ', len(code), ctypes.addressof(buffer))
        libc = ctypes.CDLL(None)
        assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0
"""
X86_64 = pytest.mark.skipif(os.uname().machine != 'x86_64', reason='numbers of system calls')


@X86_64
def test_without_memfd_create_samples_are_taken_all_the_same(directory):
    with aggregator(directory):
        found = says(
            textwrap.dedent(SECCOMP)
            + 'forbid(319)\nassert admitted()\nwith profilomatic.action("works"):\n    until_sampled()\n'
            + 'print(json.dumps([_runtime.status()[name] for name in ("samples", "unreadable")]))',
            directory,
        )
    assert found[0] >= 8 and found[1] == 0, found


@X86_64
def test_where_no_stack_can_be_read_the_sampler_does_not_spin(directory):
    with aggregator(directory):
        done = run(
            textwrap.dedent(START)
            + textwrap.dedent(SECCOMP)
            + textwrap.dedent(
                """
                forbid(319, 310)
                assert admitted()
                with profilomatic.action('works'):
                    before = sampler_cpu()
                    time.sleep(1)
                    print(sampler_cpu() - before)
                """
            ),
            directory,
            profiled=False,
        )
    assert done.returncode == 0 and 'no stack is sampled' in done.stderr, done.stderr
    assert float(done.stdout) < 0.1


def test_an_application_that_closes_all_descriptors_is_still_sampled(directory):
    with aggregator(directory):
        found = says(
            """
            assert admitted()
            with profilomatic.action('works'):
                until_sampled()
                os.closerange(3, 65536)
                before = _runtime.status()
                until_sampled()
                after = _runtime.status()
            print(json.dumps([after[name] - before[name] for name in ('samples', 'unreadable')]))
            """,
            directory,
        )
    assert found[0] >= 8 and found[1] == 0, found


@pytest.mark.parametrize('threads', [1, 4])
def test_definitions_that_are_full_are_followed_by_a_fresh_segment(directory, threads):
    """Thousands of functions; with several threads there is always an action open, so some must be kept from being
    profiled for a moment."""
    with aggregator(directory):
        found = says(
            """
            assert admitted()
            first = _runtime.status()['segment']
            profilomatic.configure(time_granularity=0.005)
            until = time.monotonic() + 25
            def burst(thread):
                i = 0
                while time.monotonic() < until and _runtime.status()['segment'] == first:
                    with profilomatic.action('burst'):
                        for i in range(i, i + 40):
                            space = {'spin': spin}
                            code = compile('def f(): spin(0.0002)', f'/srv/{"x" * 180}/{thread}/{i}.py', 'exec')
                            exec(code, space)
                            space['f']()
            threads = [threading.Thread(target=burst, args=(i,)) for i in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            renewed = _runtime.status()
            again = admitted()
            with profilomatic.action('after'):
                until_sampled()
            status = _runtime.status()
            taken = status['samples'] - renewed['samples']
            print(json.dumps([renewed['segment'] != first, again, taken, renewed['denied'], status['denied']]))
            """.replace('THREADS', str(threads)),
            directory,
        )
    assert found[0] and found[1] and found[2] >= 8, found


def test_scope_process_needs_no_action_and_follows_forks(directory):
    script = """
        import os, time
        from profilomatic import _runtime
        def goes_on(until):
            return _runtime.status().get('samples', 0) < 40 and time.monotonic() < until
        def in_parent(until):
            while goes_on(until):
                for _ in range(500):
                    sum(range(500))
        def in_child(until):
            while goes_on(until):
                for _ in range(500):
                    sum(range(500))
        in_parent(time.monotonic() + 20)
        pid = os.fork()
        if pid == 0:
            in_child(time.monotonic() + 20)
            os._exit(0)
        os.waitpid(pid, 0)
    """
    out = os.path.join(directory, 'profile.json')
    command = [os.path.join(BIN, 'profilomatic'), 'run', '--scope', 'process', '--max-overhead', '20%']
    program = os.path.join(directory, 'program.py')
    with open(program, 'w') as file:
        file.write(textwrap.dedent(script))
    command += ['-o', out, '-F', 'json', '--', sys.executable, program]
    known = {name: value for name, value in os.environ.items() if not name.startswith('PROFILOMATIC_')}
    done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and '(outside any action)' in done.stderr, done.stderr
    with open(out) as file:
        report = json.load(file)
    (outside,) = [a for a in report['actions'] if a['action_type'] == '(outside any action)']
    for name in ('in_parent', 'in_child'):
        rows = [row for row in outside['hot'] if f'program.py:{name}' in row['instruction']]
        assert sum(row['self_time'] for row in rows) > 0.2, outside['hot']
        assert all(row['instruction'].startswith('program.py:') for row in rows), 'as seen from its own folder'


def test_a_worker_whose_lane_fills_rings_for_the_aggregator(directory):
    """While it sleeps it is stopped, so that nothing but the ring can be what is seen afterwards."""
    with aggregator(directory) as process:
        done = says(
            """
            import glob, mmap, signal
            assert admitted()
            with open(glob.glob(os.environ['PROFILOMATIC_DIR'] + '/*/budget')[0], 'r+b') as file:
                budget = mmap.mmap(file.fileno(), 4096)
            def listening():
                return budget[132]  # shm/budget.h
            def fill():
                os.kill(int(os.environ['AGGREGATOR']), signal.SIGSTOP)
                listened = listening()
                until = time.monotonic() + 2  # after 3 s of silence nothing is profiled
                while listening() and time.monotonic() < until:
                    with profilomatic.action('fills'):
                        pass
                rang = listened and not listening()
                os.kill(int(os.environ['AGGREGATOR']), signal.SIGCONT)
                return rang
            until = time.monotonic() + 40
            while not (rang := fill()) and time.monotonic() < until:
                admitted()
            print(json.dumps(bool(rang)))
            """,
            directory,
            AGGREGATOR=str(process.pid),
        )
        assert done
        assert ask(directory, verb='status')['aggregator']['rings'] >= 1
