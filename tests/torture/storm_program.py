"""What the storm samples: threads that live a millisecond, deep recursion, code made and destroyed, generators, forks.

    python storm_program.py SECONDS FILE [unwatched]

Prints one JSON object a line: how much was done so far and this process's memory, and the last one with what went
wrong. Messages about its actions go to FILE. Everything that is made has its number in its file, its name and its
line, and numbers only grow within an action; see `storm` for what follows from that.

`unwatched` takes the wrapper of the code type's deallocator out again: deaths of code objects are not told, and the
storm must notice.
"""

import ctypes
import json
import os
import random
import sys
import threading
import time
import types
import warnings

import profilomatic
from profilomatic._switch import _runtime, switch

INTERVAL = 0.0001
LINES = 5000
PERIOD = 20  # actions until numbers come again: names that are interned for ever would else look like a leak
REPORTS = 24

warnings.simplefilter('ignore')  # of forks among threads


def dealloc_of_codes():
    return ctypes.c_void_p.from_address(id(types.CodeType) + 48)  # tp_dealloc, in all versions


def burn(rounds):
    total = 0
    for i in range(rounds):
        total += i
    return total


def make(number):
    """Three functions of that number: outer calls inner, and a generator."""
    space = {}
    for text in (
        'def outer_%d(inner, generator, burn, rounds): burn(rounds); inner(burn, rounds); sum(generator(burn, rounds))',
        'def inner_%d(burn, rounds): return burn(rounds)',
        'def generator_%d(burn, rounds): yield burn(rounds); yield burn(rounds)',
    ):
        exec(compile('\n' * (number % LINES) + text % number, 'made_%d.py' % number, 'exec'), space)
    return [space['%s_%d' % (name, number)] for name in ('outer', 'inner', 'generator')]


class Maker:
    """Makes code, runs it, destroys it. The previous pieces die after the next are made, so that these lie where the
    ones before those did."""

    def __init__(self, first):
        self.number = first
        self.previous = None

    def turn(self, milliseconds):
        self.number += 1
        outer, inner, generator = make(self.number)
        self.previous = None
        end = time.thread_time() + milliseconds / 1000
        while time.thread_time() < end:
            outer(inner, generator, burn, 100)
        waiting = generator(burn, 50)
        next(waiting)
        del waiting  # runs once more, to be closed
        self.previous = outer, inner, generator


class Storm:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds
        self.done = dict.fromkeys(('codes', 'threads', 'dives', 'children'), 0)
        self.wrong = []

    def running(self):
        return time.monotonic() < self.end

    def make_codes(self, first):
        maker, actions = Maker(first), 0
        while self.running():
            maker.number = first + actions % PERIOD * 20
            actions += 1
            with profilomatic.action('made'):
                for _ in range(20):
                    maker.turn(2)
                    self.done['codes'] += 3

    def start_threads(self):
        def brief(number):
            if number % 8 == 0:
                with profilomatic.action('brief'):
                    Maker(number).turn(0.5)
            else:
                burn(500)

        first, number = 3 * 10**9, 0
        while self.running():
            threads = [threading.Thread(target=brief, args=(first + number + i,)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            number = (number + 4) % (20 * PERIOD)
            self.done['threads'] += 4

    def dive(self):
        def narrow(depth):
            return burn(300) if depth == 0 else wide(depth - 1)

        def wide(depth, a=1, b=2, c=3, d=4, e=5, f=6, g=7, h=8):
            i, j, k, l, m, n = a, b, c, d, e, f  # noqa: E741, F841
            return burn(300) if depth == 0 else narrow(depth - 1)

        while self.running():
            narrow(random.randrange(20, 900))
            self.done['dives'] += 1
            time.sleep(0.002)

    def fork(self):
        first, number = 4 * 10**9, 0
        while self.running():
            number = number % (PERIOD * 1000) + 1000
            child = os.fork()
            if child == 0:
                self.child(first + number)
                if number % 2000 == 0:
                    os._exit(0)
                return  # the process ends with this thread, its first
            self.await_child(child)
            self.done['children'] += 1
            time.sleep(0.05)

    def child(self, number):
        maker = Maker(number)
        for _ in range(3):
            with profilomatic.action('child'):
                for _ in range(8):
                    maker.turn(1)

    def await_child(self, child):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                if status != 0:
                    self.wrong.append('a child ended with %d' % os.waitstatus_to_exitcode(status))
                return
            time.sleep(0.002)
        self.wrong.append('a child did not end')
        self.end = 0
        os.kill(child, 9)
        os.waitpid(child, 0)

    def guarded(self, work, *arguments):
        try:
            work(*arguments)
        except BaseException as error:
            self.wrong.append('%s: %r' % (work.__name__, error))

    def run(self):
        threads = [
            threading.Thread(target=self.guarded, args=arguments)
            for arguments in (
                (self.make_codes, 10**9),
                (self.make_codes, 2 * 10**9),
                (self.start_threads,),
                (self.dive,),
                (self.fork,),
            )
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for report in range(1, REPORTS + 1):
            while self.running() and time.monotonic() < began + (self.end - began) * report / REPORTS:
                time.sleep(0.05)
            self.report()
        for thread in threads:
            thread.join()
        self.report()

    def report(self):
        with open('/proc/self/statm') as file:
            pages = int(file.read().split()[1])
        told = _runtime.status()
        process = {name: told.get(name) for name in ('ticks', 'samples', 'torn', 'unreadable', 'dropped')}
        print(
            json.dumps({**self.done, **process, 'rss_bytes': pages * os.sysconf('SC_PAGESIZE'), 'wrong': self.wrong}),
            flush=True,
        )


def main():
    original = dealloc_of_codes().value
    sys.setswitchinterval(0.0005)
    profilomatic.configure(scope='process', max_overhead=0.5, max_actions_per_run=0, source_name='storm')
    switch.settings.code['time_granularity'] = INTERVAL  # finer than an application may ask for
    profilomatic.add_destination(profilomatic.file_destination(sys.argv[2]))
    if 'unwatched' in sys.argv[3:]:
        assert dealloc_of_codes().value != original
        dealloc_of_codes().value = original
    Storm(float(sys.argv[1])).run()


if __name__ == '__main__':
    main()
