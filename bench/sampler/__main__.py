"""What sampling costs, beside references that ran in the same minutes. Prints ratios, each with its bar.

    python3 bench/sampler [--quick] [PART…]

parts:
  tick       CPU of a sampler tick against a bare timer thread's, one running thread, 32 frames, 100 Hz and 1 kHz
  crowd      what each further running and each further blocked thread adds to a tick
  idle       wake-ups of a worker that serves nothing
  slowdown   what the sampled thread itself loses, at 1 kHz and at 100 Hz
  rivals     CPU of the whole profiler against py-spy's, austin's and, on 3.15, profiling.sampling's
  accuracy   the table of tests/accuracy as each of them shows it

What is measured is taken from build/ (`scons`). The rivals are installed from PyPI into build/venv-bench; what needs
3.15 runs in build/unstable, which `tests/versions` makes, and is skipped without it. Exit status 0, with --check 1
if a bar is missed.
"""

import argparse
import json
import os
import sys

import accuracy
import rivals
import slowdown
import ticks
from common import PROJECT, Bench

PARTS = {
    'tick': ticks.tick,
    'crowd': ticks.crowd,
    'idle': ticks.idle,
    'slowdown': slowdown.slowdown,
    'rivals': rivals.rivals,
    'accuracy': accuracy.accuracy,
}


def parse():
    parser = argparse.ArgumentParser(
        prog='bench/sampler', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', metavar='PART', help='default: all of them')
    parser.add_argument('--quick', action='store_true', help='fewer and shorter runs')
    parser.add_argument('--json', metavar='FILE', help='write the figures there too (- for stdout, at the end)')
    parser.add_argument('--check', action='store_true', help='exit status 1 if a bar is missed')
    parser.add_argument('--runs', type=int, help='interleaved runs of each figure')
    parser.add_argument('--seconds', type=float, help='length of each run')
    parser.add_argument('--python', default=sys.executable, help='interpreter of the programs under test')
    parser.add_argument('--build', default=os.path.join(PROJECT, 'build'), help='what scons built')
    parser.add_argument('--against', metavar='BUILD', help='another build, whose tick is measured in turn with it')
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f'no part {part!r} ({" ".join(PARTS)})')
    return options


def main():
    options = parse()
    bench = Bench(options)
    load, cores = os.getloadavg()[0], os.cpu_count()
    bench.say(
        f'{cores} cores, load average {load:.1f}'
        + (': others work here too, caches are cold and ticks late; see docs/cost.md' if load > cores / 2 else '')
    )
    for name in options.parts or PARTS:
        PARTS[name](bench)
    missed = [figure['name'] for figure in bench.figures if figure.get('ok') is False]
    bench.say(f'\nmissed: {", ".join(missed)}' if missed else '\nevery bar is met')
    if options.json:
        text = json.dumps(
            {'quick': options.quick, 'cores': cores, 'load': load, 'figures': bench.figures, 'missed': missed}, indent=1
        )
        if options.json == '-':
            print(text)
        else:
            with open(options.json, 'w') as file:
                file.write(text + '\n')
    return 1 if missed and options.check else 0


if __name__ == '__main__':
    sys.exit(main())
