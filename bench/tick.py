"""What a sampler tick costs, against a bare timer thread in the same process.

    PYTHONPATH=build/python python3 bench/tick.py [--seconds 3] [--runs 9]

One thread computes, 32 frames deep, inside a profiled action, while the sampler and a bare timer thread (same
interval, same kind of deadlines) tick beside each other; each one's CPU time is read from its own clock. Bar: a tick
costs at most 1.5 times the bare tick, or the bare tick + 9 us, whichever is larger. Exit status 1 if it is missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile

BUILD = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'build')

CHILD = r"""
import ctypes, json, sys, time
import profilomatic
from profilomatic import _runtime

interval, seconds, library = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
profilomatic.configure(max_overhead=0.5, time_granularity=interval, max_actions_per_run=0)
profilomatic.add_destination(lambda message: None)
bare = ctypes.CDLL(library)


def spin(depth, until):
    if depth:
        return spin(depth - 1, until)
    total = 0
    while time.perf_counter() < until:
        for i in range(2000):
            total += i * i
    return total


with profilomatic.action('warm-up'):
    spin(2, time.perf_counter() + 0.1)
deadline = time.time() + 5
while time.time() < deadline:      # until the aggregator admits
    with profilomatic.action('probe') as action:
        spin(2, time.perf_counter() + 0.01)
        if getattr(action, 'profiled', True):
            break
bare.bare_start(ctypes.c_uint64(int(interval * 1e9)))
with profilomatic.action('bench') as action:
    spin(28, time.perf_counter() + 0.5)
    before = _runtime.status()
    spin(28, time.perf_counter() + seconds)
    after = _runtime.status()
ticks, cpu = ctypes.c_uint64(), ctypes.c_uint64()
bare.bare_stop(ctypes.byref(ticks), ctypes.byref(cpu))
print(json.dumps({'ticks': after['ticks'] - before['ticks'], 'cpu': after['sampler_cpu'] - before['sampler_cpu'],
                  'samples': after['samples'] - before['samples'], 'torn': after['torn'] - before['torn'],
                  'bare_ticks': ticks.value, 'bare_cpu': cpu.value / 1e9}))
"""


def run(interval, seconds, directory):
    import json

    env = dict(os.environ, PYTHONPATH=os.path.join(BUILD, 'python'), PROFILOMATIC_DIR=directory)
    out = subprocess.run(
        [sys.executable, '-c', CHILD, str(interval), str(seconds), os.path.join(BUILD, 'bench', 'bare_timer.so')],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(out.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=3.0)
    parser.add_argument('--runs', type=int, default=9)
    options = parser.parse_args()
    missed = False
    runs = {100: [], 1000: []}
    for _ in range(options.runs):  # interleaved, because the machine's speed drifts
        for hertz, rows in runs.items():
            with tempfile.TemporaryDirectory(dir='/dev/shm', prefix='pom-bench-') as directory:
                rows.append(run(1 / hertz, options.seconds, directory))
    for hertz, rows in runs.items():
        rows.sort(key=lambda r: r['cpu'] / r['ticks'] - r['bare_cpu'] / r['bare_ticks'])
        row = rows[len(rows) // 2]
        tick = row['cpu'] / row['ticks'] * 1e6
        bare = row['bare_cpu'] / row['bare_ticks'] * 1e6
        bar = max(1.5 * bare, bare + 9)
        missed |= tick > bar
        print(
            f'{hertz:5d} Hz: sampler tick {tick:6.1f} us, bare timer tick {bare:6.1f} us: ratio {tick / bare:.2f}, '
            f'difference {tick - bare:+.1f} us, bar {bar:.1f} us: {"missed" if tick > bar else "met"} '
            f'({row["ticks"]} ticks, {row["samples"]} samples, {row["torn"]} torn)'
        )
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
