"""The budget: what it promises, shown by simulation and from outside, and what being counted costs.

    python3 bench/budget [--quick] PART…

parts:
  sim        simulated pools of 1 to 10,000 workers (build/bench/budget_sim), with pictures in build/bench/budget/*.svg
  outside    overhead of gunicorn's eight workers by the kernel's account, in every window, at 5 %, 2 % and 0.5 %
  ab         CPU a request with profiling on, off, and off again, interleaved: what hooks cost beside what they say
  bars       an action that is not admitted, an admission, a wake, a decision for 10,000 workers

`outside` and `ab` need gunicorn in the interpreter's environment, all need `scons`. Exit status 1 if a promise is
broken or a bar is missed.
"""

import argparse
import sys

import ab
import bars
import outside_runs
import sim

PARTS = {'sim': sim.run, 'outside': outside_runs.run, 'ab': ab.run, 'bars': bars.run}


def main():
    parser = argparse.ArgumentParser(
        prog='bench/budget', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', metavar='PART', help=f'default: {", ".join(PARTS)}')
    parser.add_argument('--quick', action='store_true', help='fewer and shorter runs')
    parser.add_argument('--pairs', type=int, help='interleaved pairs of `ab` (default 20, quick 4)')
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f'no part {unknown[0]!r} ({", ".join(PARTS)})')
    kept = True
    for part in options.parts or PARTS:
        print(f'{part}:', flush=True)
        kept &= PARTS[part](options)
    return 0 if kept else 1


if __name__ == '__main__':
    sys.exit(main())
