"""Whatever is forbidden, full or closed while samples are taken: the application does not notice.

Each test is a script in a process of its own, beside a real aggregator; test_runtime_life.py has the gentler half.
"""

import json
import os
import tempfile

import pytest
from _sampled_scripts import SAMPLED, ends, hot, script, tells
from test_runtime_life import START, X86_64

# System calls that fail with an errno of one's choice from now on, in this thread and those it starts; or in all; or
# that are answered as SECCOMP_RET_... says.
FORBID = """
    import ctypes, errno, struct
    CALLS = {
        'pwritev': 296, 'process_vm_readv': 310, 'memfd_create': 319, 'close_range': 436, 'sched_setaffinity': 203,
        'sched_setattr': 314,
    }
    def forbid(error, *names, all_threads=False, answer=0x00050000):
        numbers = [CALLS[name] for name in names]
        code = [(0x20, 0, 0, 0)]                                            # load the number
        for i, number in enumerate(numbers):
            code.append((0x15, len(numbers) - i, 0, number))                # equal: to the last instruction
        code += [(0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, answer | error)]       # allow; errno
        program = b''.join(struct.pack('HBBI', *line) for line in code)
        buffer = ctypes.create_string_buffer(program)
        filter = struct.pack('HxxxxxxQ', len(code), ctypes.addressof(buffer))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.syscall(317, 1, 1 if all_threads else 0, filter) == 0, ctypes.get_errno()
"""


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
