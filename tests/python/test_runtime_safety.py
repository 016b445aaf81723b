"""Whatever is forbidden, closed, forked or ended while samples are taken: the application does not notice.

Each test is a script in a process of its own, beside a real aggregator; test_runtime_life.py has the gentler half.
"""

import contextlib
import ctypes
import errno
import itertools
import json
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import threading

import pytest
from _support import PROJECT, aggregator, ask, environment, free_port, get_while_it_reloads, server, uwsgis
from test_runtime_life import START, SUBINTERPRETER, X86_64

# System calls that fail with an errno of one's choice from now on, in this thread and those it starts; or in all.
FORBID = """
    import ctypes, errno, struct
    CALLS = {'pwritev': 296, 'process_vm_readv': 310, 'memfd_create': 319, 'close_range': 436}
    def forbid(error, *names, all_threads=False):
        numbers = [CALLS[name] for name in names]
        code = [(0x20, 0, 0, 0)]                                            # load the number
        for i, number in enumerate(numbers):
            code.append((0x15, len(numbers) - i, 0, number))                # equal: to the last instruction
        code += [(0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x00050000 | error)]  # allow; errno
        program = b''.join(struct.pack('HBBI', *line) for line in code)
        buffer = ctypes.create_string_buffer(program)
        filter = struct.pack('HxxxxxxQ', len(code), ctypes.addressof(buffer))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.syscall(317, 1, 1 if all_threads else 0, filter) == 0, ctypes.get_errno()
"""
# Work in an action that is profiled, however long it takes to be admitted; and what that brought.
SAMPLED = """
    profilomatic.configure(max_overhead=0.5, source_name='SOURCE')
    def in_action(name, work):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with profilomatic.action(name) as action:
                if action.profiled:
                    return work()
            time.sleep(0.02)
        raise AssertionError(_runtime.status())
    def sampled(work=until_sampled, name='works'):
        assert admitted()
        before = _runtime.status()
        in_action(name, work)
        after = _runtime.status()
        return {name: after[name] - before[name] for name in ('samples', 'unreadable', 'torn')}
"""
# A pool of its own, for what follows.
FAST = """
    profilomatic.configure(time_granularity=0.001, max_overhead=0.5, source_name='fast')
"""


SCRIPTS = itertools.count()


def script(*parts, **names):
    """The parts as one script; the names, in capitals, are replaced. Each has a pool of its own: what one process costs
    would coarsen what is seen of the next."""
    names.setdefault('SOURCE', f'safety-{next(SCRIPTS)}')
    text = '\n'.join(textwrap.dedent(part) for part in parts)
    for name, value in names.items():
        text = text.replace(name, str(value))
    return text


def ends(text, served):
    """Run the script in a process of its own; and in a group of its own, as each thing is told once a group."""
    known = environment(served, profiled=False, PYTHONWARNINGS='ignore::DeprecationWarning')  # 3.12: of a fork
    command = [sys.executable, '-c', textwrap.dedent(text)]
    return subprocess.run(command, env=known, capture_output=True, text=True, timeout=240, start_new_session=True)


def tells(text, served):
    """What the script prints as JSON; it must end well and quietly."""
    done = ends(text, served)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stderr == ''
    return json.loads(done.stdout)


@pytest.fixture(scope='module')
def served():
    """A directory with an aggregator, for all tests of this file."""
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as path, aggregator(path):
        yield path


@contextlib.contextmanager
def hurried(served):
    """Workers of the pool 'fast' sample every 100 us for the time of the block, which nobody may ask for: whenever the
    aggregator has said something else (shm/rates.h), that is replaced."""
    path = os.path.join(served, f'{os.geteuid()}-fast', 'rates')
    with open(os.path.join(PROJECT, 'shm', 'strata.h')) as header:
        text = header.read()
    sets, ways = (int(re.search(rf'STRATA_{what} = (\d+),', text).group(1)) for what in ('SETS', 'WAYS'))
    size = 40 + 4 * (sets * ways + sets) + 12 * sets * ways  # of each of the two sets of limits
    stop = threading.Event()

    def hurry():
        while not os.path.exists(path):
            if stop.wait(0.01):
                return
        with open(path, 'r+b') as file, mmap.mmap(file.fileno(), 0) as page:
            while not stop.wait(0.002):
                (generation,) = struct.unpack_from('=Q', page, 16)
                slot = 64 + generation % 2 * size
                if struct.unpack_from('=Q', page, slot)[0] != 100_000:
                    other = 64 + (generation + 1) % 2 * size
                    page[other : other + size] = struct.pack('=Q', 100_000) + page[slot + 8 : slot + size]
                    page[16:24] = struct.pack('=Q', generation + 1)

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def hot(served, source, action_type):
    """What the report says of one type of action: function -> seconds in itself."""
    report = ask(served, verb='report', source=source, limit=100)
    found = {}
    for action in report['actions']:
        if action['action_type'] == action_type:
            for row in action['hot']:
                name = row['instruction'].split(':')[1:2] or [row['instruction']]  # where no Python runs
                found[name[0]] = found.get(name[0], 0) + row['self_time']
    return found


# ---- copies that are forbidden


@X86_64
@pytest.mark.parametrize('error', ['EPERM', 'ENOSYS'])
@pytest.mark.parametrize('call', ['process_vm_readv', 'memfd_create', 'pwritev', 'close_range'])
def test_samples_come_where_one_of_our_system_calls_is_forbidden(call, error, served):
    """From before anything of ours is loaded."""
    found = tells(
        script(
            FORBID,
            'forbid(errno.ERROR, "FORBIDDEN")',
            START,
            SAMPLED,
            'print(json.dumps(sampled()))',
            ERROR=error,
            FORBIDDEN=call,
        ),
        served,
    )
    assert found['samples'] > 5 and found['unreadable'] == 0, found


@X86_64
@pytest.mark.parametrize('error', ['EPERM', 'ENOSYS'])
@pytest.mark.parametrize('call', ['memfd_create', 'pwritev', 'close_range'])
def test_without_any_way_to_copy_the_application_runs_on_and_is_told_once(call, error, served):
    """A scratch that others could close is no way either. The sampler speaks by the hooks of later actions."""
    lines = tells(
        script(
            """
            import os, tempfile
            told = tempfile.NamedTemporaryFile()
            os.dup2(os.open(told.name, os.O_WRONLY | os.O_APPEND), 2)
            """,
            FORBID,
            'forbid(errno.ERROR, "process_vm_readv", "FORBIDDEN")',
            START,
            """
            until = time.monotonic() + 20
            again = 0
            while again < 3 and time.monotonic() < until:
                with profilomatic.action('works'):
                    spin(0.05)
                time.sleep(0.05)
                again += os.path.getsize(told.name) != 0
            print(json.dumps(told.read().decode().splitlines()))
            """,
            ERROR=error,
            FORBIDDEN=call,
        ),
        served,
    )
    assert len(lines) == 1 and 'process_vm_readv' in lines[0], lines
    assert 'the application runs on' in lines[0] or 'no stack is sampled' in lines[0]


@X86_64
@pytest.mark.parametrize('calls', [['pwritev'], ['process_vm_readv'], ['pwritev', 'process_vm_readv']])
def test_a_filter_that_comes_while_samples_are_taken_is_survived(calls, served):
    found = tells(
        script(
            FORBID,
            START,
            SAMPLED,
            """
            def work():
                until_sampled()
                forbid(errno.EPERM, *FORBIDDEN, all_threads=True)
                until_sampled()
            first = sampled(work)
            second = sampled()
            cpu = sampler_cpu()
            with profilomatic.action('sleeps'):
                time.sleep(0.5)
            print(json.dumps([first, second, sampler_cpu() - cpu]))
            """,
            FORBIDDEN=calls,
        ),
        served,
    )
    first, second, cpu = found
    assert first['samples'] > 5 and second['samples'] > 5, 'time is accounted for, with or without a stack'
    assert cpu < 0.25, found
    if len(calls) == 1:
        assert first['unreadable'] <= 1 and second['unreadable'] == 0, found
    else:
        assert second['unreadable'] == second['samples'], found


# ---- limits


@pytest.mark.parametrize('kib', [1, 64, 256])
def test_a_small_limit_on_files_brings_no_signal(kib, served):
    """SIGXFSZ would end the process here. Where not even the smallest segment fits there is none."""
    done = ends(
        script(
            """
            import resource, signal
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (KIB << 10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            """,
            START,
            SAMPLED,
            """
            if KIB < 256:
                with profilomatic.action('works'):
                    spin(0.05)
                print(json.dumps(_runtime.status()['reason']))
            else:
                print(json.dumps(sampled()))
            """,
            KIB=kib,
        ),
        served,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    if kib < 256:
        assert 'File too large' in done.stdout
        assert done.stderr.count('\n') == 1 and 'the application runs on' in done.stderr, done.stderr
    else:
        assert done.stderr == '' and json.loads(done.stdout)['samples'] > 5


@pytest.mark.parametrize('kib', [1, 64])
def test_a_limit_on_files_that_comes_while_samples_are_taken_changes_the_way_they_are(kib, served):
    """A write that is cut short at the limit must not be taken for memory that cannot be read."""
    found = tells(
        script(
            'import resource, signal',
            START,
            SAMPLED,
            """
            sys.setrecursionlimit(5000)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            def deep(depth):
                return until_sampled() if depth == 0 else deep(depth - 1)
            def work():
                deep(900)
                resource.setrlimit(resource.RLIMIT_FSIZE, (KIB << 10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
                deep(900)
            found = sampled(work, 'deep')
            pending = 0
            for task in os.listdir('/proc/self/task'):
                for line in open(f'/proc/self/task/{task}/status'):
                    if line.startswith(('SigPnd', 'ShdPnd')):
                        pending |= int(line.split()[1], 16)
            found['pending'] = bool(pending & 1 << signal.SIGXFSZ - 1)
            print(json.dumps(found))
            """,
            KIB=kib,
            SOURCE=f'deep-{kib}',
        ),
        served,
    )
    assert found['samples'] > 10 and found['unreadable'] + found['torn'] <= 1 and not found['pending'], found
    shares = hot(served, f'deep-{kib}', 'deep')
    assert shares.get('spin', 0) + shares.get('until_sampled', 0) > 0.9 * sum(shares.values()), shares


# ---- descriptors

# Every descriptor but the first three becomes one of the application's own file; what they are at the end.
OCCUPY = """
    import resource
    most = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100)
    mine = os.environ['PROFILOMATIC_DIR'] + f'/mine-{os.getpid()}'
    def occupy():
        os.closerange(3, 65536)
        with open(mine, 'wb') as file:
            file.write(b'mine' * 1000)
        own = os.open(mine, os.O_RDWR)
        for number in range(3, most):
            if number != own:
                os.dup2(own, number)
    def occupied():
        theirs = os.stat(mine)
        still = all(os.path.samestat(os.fstat(number), theirs) for number in range(3, most))
        with open(mine, 'rb') as file:
            return still and file.read() == b'mine' * 1000
"""


@X86_64
@pytest.mark.parametrize('forbidden', [[], ['close_range']])
def test_descriptors_that_the_application_closes_and_opens_are_never_touched(forbidden, served):
    """Before the first action, while samples are taken, and after; also where the sampler cannot have a table of its
    own."""
    found = tells(
        script(
            FORBID,
            START,
            SAMPLED,
            OCCUPY,
            """
            if FORBIDDEN:
                forbid(errno.ENOSYS, *FORBIDDEN)
            occupy()
            first = sampled()
            untouched = [occupied()]
            def work():
                for _ in range(6):
                    until_sampled(2)
                    untouched.append(occupied())
                    occupy()
            second = sampled(work)
            untouched.append(occupied())
            occupy()
            pid = os.fork()
            if pid == 0:
                ok = sampled()['samples'] > 5 and occupied()
                os._exit(0 if ok else 1)
            untouched.append(os.waitpid(pid, 0)[1] == 0)
            untouched.append(occupied())
            print(json.dumps([first, second, untouched]))
            """,
            FORBIDDEN=forbidden,
        ),
        served,
    )
    first, second, untouched = found
    assert untouched == [True] * len(untouched), untouched
    assert first['samples'] > 5 and second['samples'] > 5, found
    assert first['unreadable'] == second['unreadable'] == 0, found


def test_a_message_never_goes_into_a_file_that_took_the_place_of_stderr(served):
    """closefrom(0), and the application's next files have the numbers of the standard streams."""
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as folder:
        done = ends(
            script(
                START,
                """
                import resource
                folder = FOLDER
                os.closerange(0, 65536)
                for number in range(3):
                    assert os.open(f'{folder}/{number}', os.O_RDWR | os.O_CREAT) == number
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
                with profilomatic.action('works'):
                    pass
                reason = _runtime.status()['reason']
                os.close(2)
                assert os.open(f'{folder}/log', os.O_WRONLY | os.O_CREAT | os.O_APPEND) == 2
                os._exit(0 if 'File too large' in reason else 1)
                """,
                FOLDER=repr(folder),
            ),
            served,
        )
        assert done.returncode == 0
        assert [os.path.getsize(f'{folder}/{number}') for number in range(3)] == [0, 0, 0]


# ---- forks


def test_a_fork_in_a_thread_that_is_sampled_leaves_two_that_are(served):
    """The parent goes on in its action and the child in one of its own; nobody is seen on another's stack."""
    found = tells(
        script(
            START,
            SAMPLED,
            """
            def in_parent():
                goal = _runtime.status()['samples'] + 16
                until = time.monotonic() + 20
                while _runtime.status()['samples'] < goal and time.monotonic() < until:
                    sum(range(5000))
            def in_child():
                goal = _runtime.status()['samples'] + 16
                until = time.monotonic() + 20
                while _runtime.status()['samples'] < goal and time.monotonic() < until:
                    sum(range(5000))
            def in_main(thread):
                while thread.is_alive():
                    sum(range(500))
            found = []
            def fork():
                in_parent()
                pid = os.fork()
                if pid == 0:
                    status = 1
                    try:
                        assert admitted()
                        in_action('of child', in_child)
                        state = _runtime.status()
                        status = 0 if state['samples'] > 5 and state['unreadable'] == 0 else 2
                    finally:
                        os._exit(status)
                in_parent()
                found.append(os.waitpid(pid, 0)[1])
            assert admitted()
            before = _runtime.status()
            thread = threading.Thread(target=in_action, args=('of parent', fork))
            in_action('of main', lambda: [thread.start(), in_main(thread)])
            after = _runtime.status()
            print(json.dumps([found, *[after[name] - before[name] for name in ('samples', 'unreadable')]]))
            """,
            SOURCE='forks',
        ),
        served,
    )
    assert found[0] == [0] and found[1] > 10 and found[2] == 0, found
    for name in ('parent', 'child', 'main'):
        seen = hot(served, 'forks', f'of {name}')
        assert seen.get(f'in_{name}', 0) > 0.02, (name, seen)
        assert not set(seen) & {f'in_{other}' for other in ('parent', 'child', 'main') if other != name}, (name, seen)


# ---- ends

ENDS = {
    'sys.exit(3)': 3,
    'os._exit(4)': 4,
    'raise RuntimeError("as it should be")': 1,
    'os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)': -signal.SIGTERM,
    'os.abort()': -signal.SIGABRT,
    'from_thread(lambda: os._exit(5))': 5,
    'from_thread(lambda: sys.exit(6))': 0,
    'from_thread(lambda: os.kill(os.getpid(), signal.SIGTERM)); time.sleep(60)': -signal.SIGTERM,
    'daemons(); sys.exit(7)': 7,
    'daemons(); raise SystemExit("bye")': 1,
    'action.__exit__(None, None, None)': 0,
    'os.execv("/bin/sh", ["sh", "-c", "exit 8"])': 8,
}
# Children that end in one of these ways, in the middle of an action, at different moments of a sampler's life.
END = """
    import resource, signal
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    def from_thread(function):
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()
    def daemon():
        with profilomatic.action('daemon'):
            while True:
                spin(0.001)
    def daemons():
        for _ in range(3):
            threading.Thread(target=daemon, daemon=True).start()
    assert admitted()
    statuses = {}
    ends = ENDS_
    for turn in range(TURNS):
        for end in ends:
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                action = profilomatic.action('ends')
                action.__enter__()
                spin(0.002 * (turn % 8))
                exec(end)
                sys.exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            statuses.setdefault(end, {}).setdefault(status, 0)
            statuses[end][status] += 1
    print(json.dumps(statuses))
"""


@pytest.mark.parametrize('half', [0, 1])
def test_ends_while_samples_are_taken_at_10_khz_are_as_without(half, served):
    turns = 6
    wanted = dict(list(ENDS.items())[half::2])
    if sys.version_info < (3, 11):  # one in some hundred exits of 3.10 with daemon threads ends in SIGSEGV by itself
        wanted = {end: status for end, status in wanted.items() if 'daemons' not in end}
    with hurried(served):
        found = tells(script(START, FAST, END, ENDS_=list(wanted), TURNS=turns), served)
    assert found == {end: {str(status): turns} for end, status in wanted.items()}, found
    report = ask(served, verb='report', source='fast')
    assert report['samples'] > turns * len(wanted), report['samples']


@pytest.mark.parametrize(
    ('which', 'options', 'stop'),
    [('pypi', [], signal.SIGINT), ('debian', ['--enable-threads', '--threads', '2'], signal.SIGTERM)],
)
def test_uwsgi_recycles_reloads_and_ends_as_without_while_it_is_sampled_at_10_khz(
    which, options, stop, served, tmp_path
):
    """Py_Finalize in workers one of whose threads never stops; the answers are whole."""
    if which not in uwsgis():
        pytest.skip(f'no uWSGI ({which}) for this version')
    (tmp_path / 'app.py').write_text(
        textwrap.dedent(
            """
            import threading
            import profilomatic
            profilomatic.configure(max_actions_per_run=0, max_overhead=0.5, source_name='fast', time_granularity=0.001)
            profilomatic.add_destination(profilomatic.no_flush_destination('/dev/null'))
            def forever():
                with profilomatic.action('forever'):
                    while True:
                        sum(range(500))
            @profilomatic.wsgi.wrap
            def application(environ, start_response):
                if not any(thread.name == 'forever' for thread in threading.enumerate()):
                    threading.Thread(target=forever, name='forever', daemon=True).start()
                sum(range(20000))
                start_response('200 OK', [])
                return [b'whole']
            """
        )
    )
    port = free_port()
    command = [*uwsgis()[which], '--http-socket', f'127.0.0.1:{port}', '--master', '-p', '2', '--die-on-term']
    command += ['--wsgi-file', 'app.py', '--max-requests', '5', '--worker-reload-mercy', '20', *options]
    with hurried(served), server(command, port, environment(served, profiled=False), tmp_path, stop) as process:
        answers = [get_while_it_reloads(port)[2] for _ in range(20)]
        process.send_signal(signal.SIGHUP)
        answers += [get_while_it_reloads(port)[2] for _ in range(20)]
    assert set(answers) == {b'whole'}, process.output
    assert process.status == 0, (process.status, process.output)
    for bad in ('egmentation', 'Fatal Python error', 'killed by signal', 'MERCY', 'aborted'):
        assert bad not in process.output, process.output


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
