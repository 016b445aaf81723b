"""Scripts that run in processes of their own beside a real aggregator, and are sampled."""

import contextlib
import itertools
import json
import mmap
import os
import struct
import subprocess
import sys
import textwrap
import threading

from _rates import GENERATION_AT, SLOT, SLOTS_AT
from _support import ask, environment

# Work in an action that is profiled, however long it takes to be admitted; and what that brought.
SAMPLED = """
    profilomatic.configure(max_overhead=0.5, source_name='SOURCE')
    def in_action(name, work):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with profilomatic.action(name) as action:
                if action.profiled:
                    return work()
            time.sleep(0.02)
        raise AssertionError(_runtime.status())
    def sampled(work=until_sampled, name='works'):
        assert admitted()
        before = _runtime.status()
        in_action(name, work)
        after = _runtime.status()
        return {name: after[name] - before[name] for name in ('samples', 'unreadable', 'torn')}
"""
# A pool of its own, for what follows.
FAST = """
    profilomatic.configure(time_granularity=0.001, max_overhead=0.5, source_name='fast')
"""


SCRIPTS = itertools.count()


def script(*parts, **names):
    """The parts as one script; the names, in capitals, are replaced. Each has a pool of its own: what one process costs
    would coarsen what is seen of the next."""
    names.setdefault('SOURCE', f'safety-{next(SCRIPTS)}')
    text = '\n'.join(textwrap.dedent(part) for part in parts)
    for name, value in names.items():
        text = text.replace(name, str(value))
    return text


def ends(text, served):
    """Run the script in a process of its own; and in a group of its own, as each thing is told once a group."""
    known = environment(served, profiled=False, PYTHONWARNINGS='ignore::DeprecationWarning')  # 3.12: of a fork
    command = [sys.executable, '-c', textwrap.dedent(text)]
    return subprocess.run(command, env=known, capture_output=True, text=True, timeout=240, start_new_session=True)


def tells(text, served):
    """What the script prints as JSON; it must end well and quietly."""
    done = ends(text, served)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stderr == ''
    return json.loads(done.stdout)


@contextlib.contextmanager
def hurried(served):
    """Workers of the pool 'fast' sample every 100 us for the time of the block, which nobody may ask for: whenever the
    aggregator has said something else (shm/rates.h), that is replaced."""
    path = os.path.join(served, f'{os.geteuid()}-fast', 'rates')
    stop = threading.Event()

    def hurry():
        while not os.path.exists(path):
            if stop.wait(0.01):
                return
        with open(path, 'r+b') as file, mmap.mmap(file.fileno(), 0) as page:
            while not stop.wait(0.002):
                (generation,) = struct.unpack_from('=Q', page, GENERATION_AT)
                slot = SLOTS_AT + generation % 2 * SLOT.size
                if struct.unpack_from('=Q', page, slot)[0] != 100_000:
                    other = SLOTS_AT + (generation + 1) % 2 * SLOT.size
                    page[other : other + SLOT.size] = struct.pack('=Q', 100_000) + page[slot + 8 : slot + SLOT.size]
                    page[GENERATION_AT : GENERATION_AT + 8] = struct.pack('=Q', generation + 1)

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def hot(served, source, action_type):
    """What the report says of one type of action: function -> seconds in itself."""
    report = ask(served, verb='report', source=source, limit=100)
    found = {}
    for action in report['actions']:
        if action['action_type'] == action_type:
            for row in action['hot']:
                name = row['instruction'].split(':')[1:2] or [row['instruction']]  # where no Python runs
                found[name[0]] = found.get(name[0], 0) + row['self_time']
    return found
