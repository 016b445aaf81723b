"""The table of tests/accuracy, whose functions measure what they take, as each profiler shows it.

The others are attached to the table's process before it begins and sample until it ends.
"""

import json
import os
import subprocess
import sys

from common import PROJECT
from rivals import Unstable, attached, austin, install, profiling_sampling, py_spy, this_host, version_of

sys.path.insert(0, os.path.join(PROJECT, 'tests', 'accuracy'))
import measure

INTERVAL, UNIT = 0.001, 0.00125


def ours(host, seconds):
    """[(quantity, truth, shares, samples)] through `profilomatic run` and the report."""
    truth, report = measure.run_table(seconds, INTERVAL, UNIT, host.python, host.build, host.table, host.command)
    shown = measure.measured(report, truth, INTERVAL)
    return [(quantity, truth, *shown[quantity]) for quantity in ('wall', 'cpu')]


def collapsed(path, wanted):
    """{function: sum of the numbers of its stacks}, the sum of all of them, and the number of lines."""
    found, total, lines = dict.fromkeys(wanted, 0), 0, 0
    with open(path, errors='replace') as file:
        for line in file:
            stack, _, value = line.rstrip().rpartition(' ')
            if not value.isdigit():
                continue
            for name in wanted:
                if name in stack:
                    found[name] += int(value)
                    total, lines = total + int(value), lines + 1
                    break
    return found, total, lines


def theirs(rival, quantity):
    def run(host, seconds):
        path = f'/dev/shm/pom-bench-accuracy-{os.getpid()}'
        table = subprocess.Popen(
            host.command([host.python, host.table, str(seconds), '--unit', str(UNIT), '--wait']),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            table.stdout.readline()
            with attached(rival.command(table.pid, round(1 / INTERVAL), path)):
                out, _ = table.communicate('go\n', timeout=seconds * 4 + 60)
            truth = json.loads(out.splitlines()[-1])
            shown, samples, lines = collapsed(path, truth['wall'])
            samples = lines if rival.a_line_a_sample else samples
        finally:
            table.poll() is None and table.kill()
            os.path.exists(path) and os.unlink(path)
        return [
            (
                quantity,
                truth,
                measure.shares(shown),
                measure.independent(samples, sum(truth[quantity].values()) / INTERVAL),
            )
        ]

    return run


def tables(bench, host, title, tools):
    seconds = bench.options.seconds or (4.0 if bench.quick else 8.0)
    bench.say(f'\nShares shown against the truth, every {INTERVAL * 1e3:g} ms: {title}')
    deviations = {'wall': {}, 'cpu': {}}
    for name, run in tools.items():
        try:
            results = run(host, seconds)
        except (OSError, ValueError, subprocess.SubprocessError, StopIteration) as error:
            bench.skip(f'accuracy of {name}, {title}', f'it did not work ({error})')
            continue
        for quantity, truth, shown, samples in results:
            rows = measure.compare(measure.truth_ranges(truth)[quantity], shown, samples)
            deviations[quantity][name] = (rows, samples)
    for quantity, found in deviations.items():
        if not found:
            continue
        functions = [row.name for row in next(iter(found.values()))[0]]
        bench.say(f'  {quantity:4}: shown - true, in percentage points; * outside 3 standard errors + 1 point')
        bench.say(f'    {"":32} {"samples":>7} ' + ' '.join(f'{name:>9}' for name in functions))
        for name, (rows, samples) in found.items():
            cells = ' '.join(f'{row.off * 100:+8.2f}{"*" if row.outside else " "}' for row in rows)
            bench.say(f'    {name:32} {samples:7.0f} {cells}')
            worst = max(rows, key=lambda row: abs(row.off) - row.bound)
            bench.figure(
                f'worst deviation of {quantity}, {name}, {title}',
                f'  {name}: {worst.name} is off by {worst.off * 100:+.2f} points of {worst.bound * 100:.2f}',
                abs(worst.off) * 100,
                worst.bound * 100 if name == 'profilomatic' else None,
                'points',
                samples=samples,
                off={row.name: row.off for row in rows},
                bounds={row.name: row.bound for row in rows},
            )


def accuracy(bench):
    found, missing = install(bench)
    for name, why in missing.items():
        bench.skip(f'accuracy of {name}', why)
    host, tools = this_host(bench), {'profilomatic': ours}
    if 'py-spy' in found:
        path, label = found['py-spy'], f'py-spy {version_of(found["py-spy"])}'
        tools[f'{label} --idle'] = theirs(py_spy(path, '--idle'), 'wall')
        tools[f'{label} --idle --nonblocking'] = theirs(py_spy(path, '--idle', '--nonblocking'), 'wall')
        tools[label] = theirs(py_spy(path), 'cpu')
        tools[f'{label} --nonblocking'] = theirs(py_spy(path, '--nonblocking'), 'cpu')
    if 'austin' in found:
        path, label = found['austin'], f'austin {version_of(found["austin"])}'
        tools[label] = theirs(austin(path), 'wall')
        tools[f'{label} --sleepless'] = theirs(austin(path, '--sleepless'), 'cpu')
    tables(bench, host, host.title(), tools)
    why = Unstable.missing()
    if why is not None:
        bench.skip('accuracy of profiling.sampling on CPython 3.15', why)
        return
    there, tools = Unstable(), {'profilomatic': ours}
    for mode in ('wall', 'cpu'):
        tools[f'profiling.sampling --mode {mode}'] = theirs(profiling_sampling(there, '--mode', mode), mode)
    tables(bench, there, there.title(), tools)
