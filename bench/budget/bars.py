"""What being counted and being admitted costs, in the runtime itself (bench/budget_bars.c)."""

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time

from places import BENCH, BUILD, PROJECT, figure


def load(name):
    """A module of the library that holds both the runtime and the bars."""
    file = str(BENCH / ('_budget_bars' + importlib.machinery.EXTENSION_SUFFIXES[0]))
    loader = importlib.machinery.ExtensionFileLoader(name, file)
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, file, loader=loader))
    loader.exec_module(module)
    sys.modules[name] = module
    return module


def child(cap, repetitions):
    """In a process of its own: the figures with that cap, as JSON."""
    load('profilomatic._runtime')
    bars = load('_budget_bars')
    import profilomatic

    profilomatic.configure(max_actions_per_run=cap, max_overhead=0.5)
    profilomatic.add_destination(lambda message: None)
    profiled = False
    until = time.monotonic() + 30
    while not profiled and time.monotonic() < until:
        with profilomatic.action('probe') as action:
            profiled = action.profiled
        time.sleep(0.02)
    assert profiled, 'no aggregator'
    if cap != 0:
        bars.pairs(repetitions)  # the lottery learns of the demand
        time.sleep(2)
        print(json.dumps({'pair': min(bars.pairs(repetitions) for _ in range(5))}))
        return
    figures = {'profiled': min(bars.pairs(100) for _ in range(3)), 'bare_wake': bars.bare_wakes(300)}
    figures['wake'] = bars.wakes(300)
    with profilomatic.action('armed'):
        figures['admission'] = min(bars.admissions(repetitions) for _ in range(5))
    print(json.dumps(figures))


def measure(cap, repetitions):
    with tempfile.TemporaryDirectory(dir='/dev/shm', prefix='pom-bench-', ignore_cleanup_errors=True) as directory:
        environ = dict(os.environ, PYTHONPATH=str(BUILD / 'python'), PROFILOMATIC_DIR=directory)
        words = [sys.executable, __file__, str(cap), str(repetitions)]
        done = subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def wsgi(requests):
    """Microseconds that the WSGI wrapper adds to a request that is not admitted."""
    words = [sys.executable, str(PROJECT / 'bench' / 'wsgi_hook.py'), '--requests', str(requests)]
    environ = dict(os.environ, PYTHONPATH=str(BUILD / 'python'))
    text = subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True, timeout=300).stdout
    return float(re.search(r'the wrapper adds ([\d.]+) us', text)[1])


def run(options):
    repetitions = 20000 if options.quick else 200000
    shed, all_in = measure(1, repetitions), measure(0, repetitions)
    kept = figure('an action that is not admitted, in C', shed['pair'] * 1e9, 150, 'ns')
    kept &= figure('a WSGI request that is not admitted', wsgi(repetitions), 2, 'us')
    kept &= figure('an admission, sampler armed', all_in['admission'] * 1e9, 200, 'ns')
    print(f'  a profiled action: {all_in["profiled"] * 1e6:.1f} us in hooks')
    ratio = all_in['wake'] / all_in['bare_wake']
    print(f'  the wake of a parked sampler: {all_in["wake"] * 1e6:.2f} us, {ratio:.2f} times a bare futex wake')
    step = float(subprocess.run([BENCH / 'budget_sim', '--step'], capture_output=True, text=True, check=True).stdout)
    return kept & figure('a decision for 10,000 workers', step / 1e3, 5, 'ms')


if __name__ == '__main__':
    child(int(sys.argv[1]), int(sys.argv[2]))
