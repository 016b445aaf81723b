"""Programs that make processes in every way there is: `python processes.py WAY`. Each process does actions of a name of
its own for a while and says how many, one JSON object a line."""

import json
import multiprocessing
import os
import sys
import threading
import time

import profilomatic
from profilomatic._switch import _runtime

SECONDS = 1.2


def compute():
    total = 0
    for i in range(40000):
        total += i * i % 7
    return total


def samples():
    return _runtime.status().get('samples', 0)


def work(name, seconds=SECONDS, patience=30):
    """At least for so long, and until it has been sampled, which may take a while where others are busy too."""
    before, count, begun = samples(), 0, time.monotonic()
    while time.monotonic() < begun + seconds or (
        (count < 50 or samples() < before + 20) and time.monotonic() < begun + patience
    ):
        with profilomatic.action(name):
            compute()
        count += 1
    os.write(1, json.dumps({name: count}).encode() + b'\n')


def multiprocess(method):
    context = multiprocessing.get_context(method)
    children = [context.Process(target=work, args=(f'child {n}',)) for n in range(2)]
    work('before', 0.4)
    for child in children:
        child.start()
    work('parent')
    for child in children:
        child.join()
        assert child.exitcode == 0


def executor():
    """As Celery and the like do: children that are forked while threads work, and end by os._exit."""
    threads = [threading.Thread(target=work, args=(f'thread {n}',)) for n in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            compute()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    child = os.fork()
    if child == 0:
        work('last child')
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for thread in threads:
        thread.join()


def exit_at_once():
    work('work')
    os._exit(3)


def daemon():
    """Forks twice, leaves its session and its terminal; the first process only waits to be told of the end."""
    readable, writable = os.pipe()
    work('before', 0.4)
    if os.fork() == 0:
        os.close(readable)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os.chdir('/')
        os.umask(0)
        work('daemon')
        os._exit(0)
    os.close(writable)
    assert os.wait()[1] == 0
    assert os.read(readable, 1) == b''
    try:
        os.wait()
        raise AssertionError('a child that this program did not make')
    except ChildProcessError:
        pass


def closed():
    """Closes whatever is open, in the middle of its actions, and opens files of its own."""
    work('before', 0.4)
    with profilomatic.action('around'):
        os.closerange(3, 4096)
        ours = [os.open('/dev/null', os.O_RDWR) for _ in range(50)]
        compute()
        compute()
    assert ours == list(range(3, 53)), 'nothing was open but what the program opened'
    os.write(1, b'{"around": 1}\n')
    work('after')
    assert all(os.fstat(fd) for fd in ours)


def become():
    """Becomes another program, the same one with another argument, without an end."""
    work('before', 0.6)
    os.execv(sys.executable, [sys.executable, __file__, 'became'])


def became():
    work('after')


def endless():
    while True:
        with profilomatic.action('work'):
            compute()
        os.write(1, b'.')


def greedy():
    """Takes memory until it is killed for it."""
    work('work')
    held = []
    while True:
        held.append(b'x' * (8 << 20))


def many():
    """As many processes as is said, at once."""
    for n in range(int(sys.argv[2])):
        if os.fork() == 0:
            work('work', 2 + n % 3 / 10, patience=0)
            os._exit(0)
    while True:
        try:
            assert os.wait()[1] == 0
        except ChildProcessError:
            break


def timed():
    """Steadily for as long as it is told, whether it is sampled or not."""
    count, until = 0, time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until:
        with profilomatic.action('work'):
            time.sleep(0.005)
        count += 1
    os.write(1, json.dumps({'work': count}).encode() + b'\n')


WAYS = {
    'many': many,
    'timed': timed,
    'greedy': greedy,
    'endless': endless,
    'fork': lambda: multiprocess('fork'),
    'forkserver': lambda: multiprocess('forkserver'),
    'spawn': lambda: multiprocess('spawn'),
    'executor': executor,
    'exit': exit_at_once,
    'daemon': daemon,
    'closed': closed,
    'become': become,
    'became': became,
}

if __name__ == '__main__':
    WAYS[sys.argv[1]]()
