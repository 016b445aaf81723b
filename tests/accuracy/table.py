"""A program whose functions take known shares of CPU and of sleep.

    table.py SECONDS [--unit SECONDS] [--wait]

Eight functions take 1, 2, 4 and 8 units of computing and of sleep a round, in an order drawn anew for each round.
What each took is measured in here around every call: CPU by the thread's own clock, wall time by the monotonic one,
and how long it was ready without a core by the kernel's account. That is the truth, printed as one JSON object at the
end: {"cpu": {function: seconds}, "wall": {…}, "delay": {…}, "rounds": …}.

Each round is an action `table`, if profiling is on. With --wait it says `ready` and begins when a line comes on
stdin, so that a profiler can be attached before; such a profiler needs no actions, nor `profilomatic` to be there.
"""

import argparse
import json
import os
import random
import sys
import time

PARTS = (1, 2, 4, 8)


def work(rounds):
    total = 0
    for i in range(rounds):
        total += i * i % 7
    return total


def compute_1(table):
    work(table.loops)


def compute_2(table):
    work(2 * table.loops)


def compute_4(table):
    work(4 * table.loops)


def compute_8(table):
    work(8 * table.loops)


def sleep_1(table):
    time.sleep(table.unit)


def sleep_2(table):
    time.sleep(2 * table.unit)


def sleep_4(table):
    time.sleep(4 * table.unit)


def sleep_8(table):
    time.sleep(8 * table.unit)


FUNCTIONS = (compute_1, compute_2, compute_4, compute_8, sleep_1, sleep_2, sleep_4, sleep_8)


class Table:
    def __init__(self, unit):
        self.unit = unit
        self.loops = self.calibrated()
        self.cpu = {function.__name__: 0.0 for function in FUNCTIONS}
        self.wall = dict(self.cpu)
        self.delay = dict(self.cpu)
        self.rounds = 0
        try:
            self.account = os.open('/proc/thread-self/schedstat', os.O_RDONLY)
        except OSError:
            self.account = None

    def waited(self):
        """Seconds that this thread was ready without a core; 0 where the kernel has no account."""
        return int(os.pread(self.account, 64, 0).split()[1]) / 1e9 if self.account is not None else 0.0

    def calibrated(self):
        """How many turns of the loop take one unit: the fastest of some, since this only sets the scale."""
        best = float('inf')
        for _ in range(10):
            begin = time.thread_time()
            work(20000)
            best = min(best, time.thread_time() - begin)
        return max(1, int(20000 * self.unit / best))

    def round(self):
        order = list(FUNCTIONS)
        random.shuffle(order)
        for function in order:
            waited, wall, cpu = self.waited(), time.perf_counter(), time.thread_time()
            function(self)
            self.cpu[function.__name__] += time.thread_time() - cpu
            self.wall[function.__name__] += time.perf_counter() - wall
            self.delay[function.__name__] += self.waited() - waited
        self.rounds += 1

    def truth(self):
        return {'cpu': self.cpu, 'wall': self.wall, 'delay': self.delay, 'rounds': self.rounds}


def rounds_as_actions(table, seconds):
    """Only rounds that are profiled count, whether the aggregator was there from the first one or not."""
    import profilomatic

    until = time.monotonic() + 30
    while not admitted(profilomatic) and time.monotonic() < until:
        time.sleep(0.02)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with profilomatic.action('table') as action:
            if action.profiled:
                table.round()
            else:
                time.sleep(0.01)


def admitted(profilomatic):
    with profilomatic.action('warm-up') as action:
        work(100000)
        return action.profiled


def rounds(table, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        table.round()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('seconds', type=float)
    parser.add_argument('--unit', type=float, default=0.00125)
    parser.add_argument('--wait', action='store_true')
    options = parser.parse_args()
    table = Table(options.unit)
    if options.wait:
        print('ready', flush=True)
        sys.stdin.readline()
        rounds(table, options.seconds)
    else:
        rounds_as_actions(table, options.seconds)
    print(json.dumps(table.truth()), flush=True)


if __name__ == '__main__':
    main()
