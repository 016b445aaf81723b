"""The overhead of a real pool as the kernel counts it, in every window of ten seconds, while the load steps.

Sampler threads and aggregator over the workers' own CPU or the floor of 5 % of a core a worker, whichever is larger,
from /proc/PID/task/*/schedstat. Hooks run on the application's threads and cannot be seen from outside: for those
there is `python3 bench/budget ab`.
"""

import dataclasses
import json
import subprocess
import time
from pathlib import Path

from harness import COMMAND, HERE, VENV, Profiled, cpu_seconds, free_port, start_load, wait_for_port

FLOOR = 0.05  # of one core, for each attached worker
WINDOW = 10.0
EVERY = 0.5  # s between two readings
PATHS = [f'/p/{a}{b}' for a in 'abcdefghij' for b in 'abcdefghij']


@dataclasses.dataclass
class Phase:
    name: str
    seconds: float
    threads: int  # of the load; 0: none
    endpoints: int = 10


@dataclasses.dataclass
class Reading:
    time: float
    sampler: float
    aggregator: float
    worker: float
    phase: str


@dataclasses.dataclass
class Outcome:
    windows: list  # (phase in which it ended, overhead)
    outside: float  # s of CPU, samplers and aggregator
    told: float  # the same as the profiler says it
    hooks: float  # s of CPU, as told
    worker: float
    workers: int
    report: dict
    history: dict

    def worst(self, phase=None):
        return max(ratio for name, ratio in self.windows if phase in (None, name))


def is_ours(name):
    return name.startswith('pom-')


def gunicorn(port, workers):
    return [VENV / 'gunicorn', '-b', f'127.0.0.1:{port}', '-w', workers, '--log-level', 'warning', 'stepping_app:app']


class Outside:
    """Readings of one pool; workers that have a sampler now are all there are."""

    def __init__(self, profiled):
        self.directory = profiled.directory()
        self.workers = profiled.workers()
        self.aggregator = profiled.aggregator()
        self.readings = []

    def read(self, phase):
        sampler = sum(cpu_seconds(pid, is_ours) for pid in self.workers)
        worker = sum(cpu_seconds(pid, lambda name: not is_ours(name)) for pid in self.workers)
        self.readings.append(Reading(time.monotonic(), sampler, cpu_seconds(self.aggregator), worker, phase))

    def windows(self):
        found = []
        for i, first in enumerate(self.readings):
            last = next((r for r in self.readings[i:] if r.time - first.time >= WINDOW), None)
            if last is None:
                break
            ours = last.sampler - first.sampler + last.aggregator - first.aggregator
            floor = FLOOR * len(self.workers) * (last.time - first.time)
            found.append((last.phase, ours / max(last.worker - first.worker, floor)))
        return found

    def ask(self, *words):
        out = subprocess.run([COMMAND, *words, '--json', '--directory', self.directory], capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
        return json.loads(out.stdout)


def attach_all(profiled, port, workers, seconds=60):
    """Load until every worker has a sampler, and for the ten seconds after which the promise begins."""
    deadline = time.monotonic() + seconds
    while True:
        start_load(port, WINDOW + 1, 2 * workers, *PATHS[:10]).wait()
        if len(profiled.workers()) == workers:
            return
        assert time.monotonic() < deadline, f'{len(profiled.workers())} of {workers} workers have attached'


def step_through(tmp_path, budget, phases, workers=8, busy_ms=5.0):
    """Run gunicorn under that budget, with the load stepping through the phases."""
    port = free_port()
    options = ['--max-overhead', str(budget)]
    profiled = Profiled(
        Path(tmp_path), gunicorn(port, workers), options=options, env={'BUSY_MS': str(busy_ms), 'PYTHONPATH': str(HERE)}
    )
    try:
        wait_for_port(port, profiled.process)
        attach_all(profiled, port, workers)
        outside = Outside(profiled)
        before = outside.ask('report')['overhead']
        outside.read(phases[0].name)
        first = outside.readings[0]
        for phase in phases:
            paths = PATHS[: phase.endpoints]
            loader = start_load(port, phase.seconds, phase.threads, *paths) if phase.threads else None
            until = time.monotonic() + phase.seconds
            while time.monotonic() < until or (loader is not None and loader.poll() is None):
                time.sleep(EVERY)
                outside.read(phase.name)
        report = outside.ask('report')
        outside.read(phases[-1].name)
        history = outside.ask('status', '--history')['pools'][0]['history']
        assert profiled.stop() == 0, profiled.stderr
    finally:
        if profiled.process.poll() is None:
            profiled.kill()
    last, after = outside.readings[-1], report['overhead']
    return Outcome(
        windows=outside.windows(),
        outside=last.sampler - first.sampler + last.aggregator - first.aggregator,
        told=sum(after[part] - before[part] for part in ('sampler_cpu', 'aggregator_cpu')),
        hooks=after['hook_cpu'] - before['hook_cpu'],
        worker=last.worker - first.worker,
        workers=workers,
        report=report,
        history=history,
    )
