"""Threads of ours beside the application's: they keep no process alive, and break no rule that its allocator checks."""

import tempfile

import pytest
from _support import aggregator, run

# A thread forks, and in the child returns from its function, as a server's may whose child is done.
FORK_IN_A_THREAD = """
    import os, sys, threading, time, warnings
    warnings.simplefilter('ignore')
    import profilomatic
    if sys.argv[1] == 'callable':
        profilomatic.add_destination(print)
    else:
        profilomatic.add_destination(profilomatic.file_destination('/dev/null'))
    with profilomatic.action('parent'):
        pass
    def later():
        time.sleep(0.2)
        with profilomatic.action('later'):
            pass
    def work():
        child = os.fork()
        if child == 0:
            if sys.argv[2] != 'unattached':
                with profilomatic.action('child'):
                    sum(range(100000))
            if sys.argv[2] != 'alone':
                threading.Thread(target=later).start()
            return  # the child's first thread, and perhaps its only one
        until = time.monotonic() + 20
        while time.monotonic() < until:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                os._exit(os.waitstatus_to_exitcode(status))
            time.sleep(0.01)
        os.kill(child, 9)
        os.waitpid(child, 0)
        os._exit(99)  # it did not end
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


@pytest.mark.parametrize(
    'destination,child',
    [('file', 'alone'), ('file', 'outlived'), ('file', 'unattached'), ('callable', 'alone'), ('callable', 'outlived')],
)
def test_a_child_whose_forking_thread_returns_ends(destination, child):
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory, aggregator(directory):
        done = run(FORK_IN_A_THREAD, directory, profiled=False, arguments=[destination, child])
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    if child == 'unattached':  # the thread that outlives the first one has the first action
        assert 'first thread has ended' in done.stderr
    else:
        assert done.stderr == ''


@pytest.mark.parametrize('switch', ['PYTHONDEVMODE', 'PYTHONMALLOC'])
def test_profiling_starts_where_the_allocators_check_who_holds_the_gil(switch):
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory, aggregator(directory):
        done = run(
            """
            import profilomatic, threading, time
            from profilomatic._switch import _runtime
            profilomatic.configure(scope='process', time_granularity=0.001, max_overhead=0.5)
            profilomatic.add_destination(print)
            until = time.monotonic() + 20
            while _runtime.status()['samples'] < 100 and time.monotonic() < until:
                thread = threading.Thread(target=sorted, args=([3, 2, 1],))
                thread.start()
                thread.join()
            print(_runtime.status()['samples'] >= 100)
            """,
            directory,
            profiled=False,
            **{switch: '1' if switch == 'PYTHONDEVMODE' else 'debug'},
        )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, 'True', '')
