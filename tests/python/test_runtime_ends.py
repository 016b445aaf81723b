"""Processes that fork, end, reload or become another program while samples are taken: they do so as without us."""

import signal
import sys
import textwrap

import pytest
from _sampled_scripts import FAST, SAMPLED, hot, hurried, script, tells
from _support import ask, environment, free_port, get_while_it_reloads, server, uwsgis
from test_runtime_life import START

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
