"""Many threads, and threads that come and go."""

import threading
import time

from . import harness
from .harness import TORN, Sampled, burn, marks, oracle


@oracle
def gil():
    """Who holds the GIL, and who waits for it."""
    probe = harness.probe
    held = harness.sample(lambda: burn(1000), 3000)
    assert held.told['holds_gil'] > held.reads * 0.9, held.told
    free = harness.sample(lambda: time.sleep(0.01), 2000)
    assert free.told['holds_gil'] < free.reads * 0.2, free.told
    assert probe.waits(threading.get_native_id()) == 0  # it is in a read
    stop = False

    def spin():
        while not stop:
            burn(100)

    tids = {}

    def rest(name, wait):
        tids[name] = threading.get_native_id()
        wait()

    done = threading.Event()
    sleeper = threading.Thread(target=rest, args=('sleeper', done.wait))
    sleeper.start()
    while 'sleeper' not in tids or probe.waits(tids['sleeper']) != 0:  # a bound is the test's own time limit
        time.sleep(0.005)
    spinners = [threading.Thread(target=rest, args=(n, spin)) for n in range(2)]
    for thread in spinners:
        thread.start()
    seen = set()
    for _ in range(200):
        seen |= {probe.waits(tids[n]) for n in range(2) if n in tids}
        time.sleep(0.001)
    stop = True
    done.set()
    for thread in [*spinners, sleeper]:
        thread.join()
    assert seen >= {1, 2} and 0 not in seen, seen
    assert probe.waits(2**22 + 1) == -1


@oracle
def listed():
    """All threads are listed with their native ids."""
    probe = harness.probe
    done = threading.Event()
    others = [threading.Thread(target=done.wait) for _ in range(5)]
    for other in others:
        other.start()
    wanted = {t.native_id for t in others} | {threading.get_native_id()}
    told = probe.threads()
    assert {tid for tid, _ in told} == wanted, (told, wanted)
    assert len({number for _, number in told}) == len(told)
    done.set()
    for other in others:
        other.join()
    assert [tid for tid, _ in probe.threads()] == [threading.get_native_id()]


@oracle
def hundred_threads():
    """A hundred threads, each in a function of its own: each is seen there, and nobody anywhere else."""
    probe = harness.probe
    space = {'done': threading.Event()}
    ready = threading.Semaphore(0)
    for n in range(100):
        exec(compile(f'def inner_{n}():\n    done.wait()\ndef outer_{n}():\n    inner_{n}()\n', 'made', 'exec'), space)

    def life(outer):
        ready.release()
        outer()

    others = [threading.Thread(target=life, args=(space[f'outer_{n}'],)) for n in range(100)]
    for other in others:
        other.start()
    for _ in others:
        ready.acquire()
    probe.start(harness.KHZ_10, 'threads')
    seen = set()
    end = time.monotonic() + harness.SECONDS_MOST
    while probe.reads() < 6000 and time.monotonic() < end:
        burn(100)
    got = Sampled(probe.stop(), [])
    space['done'].set()
    for other in others:
        other.join()
    for stack in got.stacks:
        if 'life' not in stack.path:
            continue
        path = stack.path[stack.path.index('life') + 1 :]
        if path and path[0].startswith('outer_'):
            n = path[0].removeprefix('outer_')
            assert path[1:2] in ((), (f'inner_{n}',)), path
            seen.add(n) if path[1:3] == (f'inner_{n}', 'wait') else None
    assert len(seen) == 100, (len(seen), got.told)
    got.names_are_right()
    got.is_complete(0.01)


@oracle
def ended_thread():
    """A thread that ends while it is sampled: nothing is read of it afterwards, and nothing crashes."""
    probe = harness.probe
    gone = 0
    for n in range(60):

        def life(rounds):
            probe.start(0)
            burn(rounds)

        thread = threading.Thread(target=life, args=(300 * (n % 5),))
        thread.start()
        thread.join()
        time.sleep(0.002)
        others = [threading.Thread(target=burn, args=(100,)) for _ in range(3)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        got = Sampled(probe.stop(), ['_bootstrap'])
        for stack in got.stacks:
            assert stack.flags & TORN or stack.path is not None, stack
        gone += got.unreadable
    assert gone > 60, gone


@oracle
def short_lives():
    """Threads that come and go every millisecond, all of them sampled: each is seen in its own function alone."""
    probe = harness.probe
    mark = harness.mark
    space = {'burn': burn}
    for n in range(8):
        exec(compile(f'def life_{n}():\n    for _ in range(9):\n        burn(1000)\n', 'made', 'exec'), space)
    lives = [space[f'life_{n}'] for n in range(8)]
    probe.start(harness.KHZ_10, 'threads')
    end = time.monotonic() + harness.SECONDS_MOST
    started = 0
    while (probe.reads() < 20_000 or started < 500) and time.monotonic() < end:
        mark[0] = marks()
        thread = threading.Thread(target=lives[started % 8])
        thread.start()
        started += 1
        if started % 4 == 0:
            thread.join()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join()
    got = Sampled(probe.stop(), [])
    seen = set()
    for stack in got.stacks:
        mine = [name for name in stack.path if name.startswith('life_')]
        if mine:
            assert len(mine) == 1, stack
            if not stack.flags & TORN:
                assert stack.path[: stack.path.index(mine[0])] == ('_bootstrap', '_bootstrap_inner', 'run'), stack
            assert stack.path[stack.path.index(mine[0]) + 1 :] in ((), ('burn',)), stack
            seen.add(mine[0])
    assert len(seen) == 8, (seen, got.told)
    got.names_are_right()
