"""What the profiler does in the application's process is part of what it says that it costs: hooks, and what is done
beside them."""

import json

import pytest
from _support import ADMITTED, aggregator, needs_native, run

pytestmark = needs_native


@pytest.mark.parametrize('way', ['thread', 'pump'])
def test_the_cpu_of_delivery_to_callables_counts(tmp_path, way):
    script = f"""
    import json, time
    import profilomatic
    import profilomatic.delivery

    if {way!r} == 'pump':
        profilomatic.delivery.threads_run = lambda: False
    {ADMITTED}
    spent = [0.0]

    def burn(message):
        if message['action_type'] == 'burnt':
            start = time.thread_time()
            while time.thread_time() < start + 0.02:
                pass
            spent[0] += time.thread_time() - start

    profilomatic.configure(max_overhead=0.5, max_actions_per_run=0)
    profilomatic.add_destination(burn)
    assert admitted()
    for _ in range(5):
        with profilomatic.action('burnt'):
            pass
    until = time.monotonic() + 30
    cost = lambda: profilomatic._runtime.status()['hook_cpu']
    while time.monotonic() < until and (spent[0] < 0.08 or cost() < spent[0]):
        with profilomatic.action('probe'):  # at whose end the pump runs
            pass
        time.sleep(0.02)
    print(json.dumps([spent[0], cost()]))
    """
    with aggregator(tmp_path / 'rt'):
        out = run(script, tmp_path / 'rt', profiled=False)
    assert out.returncode == 0, out.stderr
    spent, cost = json.loads(out.stdout.splitlines()[-1])
    assert cost >= spent >= 0.08


def test_hooks_say_what_they_take_to_within_a_factor_of_two(tmp_path):
    """By the thread's CPU clock, which also sees what comes before and after a hook's own code."""
    script = f"""
    import json, time
    import profilomatic
    {ADMITTED}
    profilomatic.configure(max_overhead=0.5, max_actions_per_run=1)
    profilomatic.add_destination(profilomatic.file_destination('/dev/null'))
    assert admitted()
    def actions(number):
        start = time.thread_time()
        for _ in range(number):
            with profilomatic.action('work'):
                pass
        return time.thread_time() - start
    def nothing(number):
        start = time.thread_time()
        for _ in range(number):
            pass
        return time.thread_time() - start
    actions(5000)
    before = profilomatic._runtime.status()['hook_cpu']
    used = actions(100_000) - nothing(100_000)
    print(json.dumps([profilomatic._runtime.status()['hook_cpu'] - before, used]))
    """
    with aggregator(tmp_path / 'rt'):
        out = run(script, tmp_path / 'rt', profiled=False)
    assert out.returncode == 0, out.stderr
    told, used = json.loads(out.stdout.splitlines()[-1])
    assert used / 2 < told < 2 * used, (told, used)


def test_what_is_open_is_sampled_seldom_while_the_aggregator_is_silent(tmp_path):
    """Nobody weighs it against the budget then. The action goes on all the time; nothing new is profiled."""
    directory = tmp_path / 'rt'
    script = f"""
    import os, signal, sys, time
    import profilomatic
    {ADMITTED}
    ticks = lambda: profilomatic._runtime.status()['ticks']
    profilomatic.configure(max_overhead=0.5, max_actions_per_run=0, time_granularity=0.1)
    profilomatic.add_destination(profilomatic.file_destination('/dev/null'))
    assert admitted()
    with profilomatic.action('long') as action:
        while ticks() < 5:
            time.sleep(0.01)
        os.kill(int(sys.argv[1]), signal.SIGKILL)
        slow, until = False, time.monotonic() + 60
        while not slow and time.monotonic() < until:
            before, start = ticks(), time.monotonic()
            time.sleep(2)
            slow = 0 < ticks() - before <= time.monotonic() - start + 1
        print(action.profiled, slow)
    """
    with aggregator(directory) as process:
        out = run(script, directory, profiled=False, arguments=[str(process.pid)])
    assert out.returncode == 0, out.stderr
    assert out.stdout.split()[-2:] == ['True', 'True'], 'a tick a second'
