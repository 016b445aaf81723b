"""CPU a request of real workers with profiling on, off, and off again, in turn: what it costs beside what it says."""

import http.client
import math
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from places import SYSTEM, figure

BUDGET, WORKERS, THREADS, REQUESTS = 0.02, 2, 4, 400
# One-sided 95 % points of Student's t, by degrees of freedom.
T95 = {3: 2.353, 4: 2.132, 9: 1.833, 14: 1.761, 19: 1.729, 29: 1.699, 39: 1.685}


def t95(freedom):
    return T95[max((f for f in T95 if f <= freedom), default=3)]


def upper(differences):
    """Upper 95 % bound of the mean."""
    n = len(differences)
    return statistics.mean(differences) + t95(n - 1) * statistics.stdev(differences) / math.sqrt(n)


class Server:
    """gunicorn with or without profiling; `block` has it serve, and says what that took."""

    def __init__(self, place, profiled):
        from harness import Profiled, free_port, wait_for_port
        from outside import gunicorn

        self.port = free_port()
        command = gunicorn(self.port, WORKERS)
        place = Path(place)
        if profiled:
            self.profiled = Profiled(place, command, ['--max-overhead', str(BUDGET)], env={'PYTHONPATH': str(SYSTEM)})
            self.process = self.profiled.process
        else:
            self.profiled = None
            environ = {k: v for k, v in os.environ.items() if not k.startswith('PROFILOMATIC')}
            self.process = subprocess.Popen([str(word) for word in command], cwd=SYSTEM, env=environ)
        wait_for_port(self.port, self.process)

    def cpu(self):
        from harness import children, cpu_seconds, is_aggregator

        return sum(cpu_seconds(pid) for pid in children(self.process.pid) if not is_aggregator(pid))

    def block(self):
        """Seconds of the workers' CPU a request, requests a second, and the latency that 99 % keep to."""
        latencies = []

        def drive():
            for i in range(REQUESTS // THREADS):
                start = time.monotonic()
                connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=30)
                connection.request('GET', f'/p/{"abcdefghij"[i % 10]}a')
                connection.getresponse().read()
                connection.close()
                latencies.append(time.monotonic() - start)

        threads = [threading.Thread(target=drive) for _ in range(THREADS)]
        before, start = self.cpu(), time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - start
        return (
            (self.cpu() - before) / len(latencies),
            len(latencies) / seconds,
            sorted(latencies)[-len(latencies) // 100],
        )

    def stop(self):
        if self.profiled is not None:
            self.profiled.stop()
        else:
            self.process.terminate()
            self.process.wait(30)


def run(options):
    pairs = options.pairs or (4 if options.quick else 20)
    found = {name: [] for name in ('on', 'off', 'off again')}
    with tempfile.TemporaryDirectory() as place:
        servers = {name: Server(place, name == 'on') for name in found}
        try:
            for server in servers.values():  # warm, and past the ten seconds before the promise begins
                server.block()
            time.sleep(10)
            for _ in range(pairs):
                for name in random.sample(list(servers), len(servers)):
                    found[name].append(servers[name].block())
        finally:
            for server in servers.values():
                server.stop()
    for name, blocks in found.items():
        cpu, rate, p99 = (statistics.median(column) for column in zip(*blocks))
        print(f'  {name}: {cpu * 1e3:.3f} ms of CPU a request, {rate:.0f} requests a second, p99 {p99 * 1e3:.1f} ms')
    on = [a[0] / b[0] - 1 for a, b in zip(found['on'], found['off'])]
    off = [a[0] / b[0] - 1 for a, b in zip(found['off again'], found['off'])]
    print(f'  {pairs} pairs: on costs {statistics.mean(on):+.4f}, off again {statistics.mean(off):+.4f} of a request')
    return figure('upper 95 % bound of what on costs', upper(on), BUDGET + max(upper(off), 0), '')
