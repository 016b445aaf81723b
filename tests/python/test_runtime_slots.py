"""Slots: who gets one gives it back, whatever becomes of its thread or of a candidate for late admission."""

import json
import pathlib
import tempfile
import textwrap

from _support import needs_native, run

pytestmark = needs_native

START = """
    import json, os, threading, time
    import profilomatic
    from profilomatic._switch import _runtime
    from _late_pool import Pool
    directory = os.environ['PROFILOMATIC_DIR']
    pool = Pool(_runtime.pool_path(directory, 'late'))
    pool.admit()
    profilomatic.configure(source_name='late')
    profilomatic.add_destination(profilomatic.file_destination(directory + '/out.log'))
    def until(true):
        end = time.monotonic() + 40
        while not true():
            assert time.monotonic() < end, 'it did not come true'
            time.sleep(0.01)
    def admitted():
        with profilomatic.action('other') as action:
            pass
        return action.profiled
    def wake_ups():
        for task in os.listdir('/proc/self/task'):
            with open(f'/proc/self/task/{task}/status') as file:
                status = dict(line.split(':', 1) for line in file)
            if status['Name'].strip() == 'pom-sampler':
                return int(status['voluntary_ctxt_switches'])
        raise AssertionError('no sampler thread')
    def is_idle():
        before = wake_ups()
        time.sleep(0.5)
        return wake_ups() == before
    until(admitted)
"""


def says(script, **options):
    """What the script prints as JSON; it must end well and quietly."""
    with tempfile.TemporaryDirectory(prefix='pom-test-', dir='/dev/shm') as directory:
        here = pathlib.Path(__file__).parent
        text = textwrap.dedent(START) + textwrap.dedent(script)
        done = run(text, directory, profiled=False, extra_path=[here], **options)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stderr == ''
    return json.loads(done.stdout)


# Renewal is refused while any slot is in use, for a second, and then not tried for a minute.
UNTIL_RENEWED = """
    def until_renewed():
        pool.admit(interval=0.0005)
        first, i = _runtime.status()['segment'], 0
        def burst():
            nonlocal i
            with profilomatic.action('burst'):
                for i in range(i, i + 40):
                    space = {}
                    exec(compile('def f(): sum(range(40000))', f'/srv/{"x" * 180}/{i}.py', 'exec'), space)
                    space['f']()
            return _runtime.status()['segment'] != first
        until(burst)
"""


def test_threads_that_end_inside_an_action_leave_nothing_behind():
    """The actions go on, as somebody holds on to them; yet the sampler rests, and the segment can be renewed."""
    script = """
        kept = []
        def leaves(kind):
            samples = _runtime.status()['samples']
            kept.append(_runtime.Action('work').begin())
            if kind in ('late', 'admitted'):
                until(lambda: _runtime.status()['samples'] > samples)
            elif kind == 'refused':
                time.sleep(0.1)
        for kind in ('waits', 'refused', 'late', 'admitted') * 2:
            after = 3600 if kind == 'waits' else 0.02
            pool.admit(at_begin=kind == 'admitted', late_after=after, tokens=kind != 'refused')
            thread = threading.Thread(target=leaves, args=(kind,))
            thread.start()
            thread.join()
        until(is_idle)
        until_renewed()
        until(is_idle)
        for action in kept:
            action.end()
        print(json.dumps([_runtime.status()['denied']['no_slot'], [action.profiled for action in kept]]))
    """
    no_slot, profiled = says(textwrap.dedent(UNTIL_RENEWED) + textwrap.dedent(script))
    assert (no_slot, profiled) == (0, [False, False, False, True] * 2)
