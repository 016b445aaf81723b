"""Runs the table (table.py) under the profiler and holds what it reports against the truth.

The way is the real one: actions, the sampler, the aggregator, and the report's JSON with its call trees, as
`profilomatic run -o FILE` writes it.
"""

import json
import math
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))
TABLE = os.path.join(HERE, 'table.py')

PERCENTAGE_POINT = 0.01
STANDARD_ERRORS = 3


def shares(seconds):
    """{function: seconds} -> {function: share of their sum}."""
    total = sum(seconds.values())
    return {name: value / total for name, value in seconds.items()} if total > 0 else dict(seconds)


def by_function(report, wanted, column):
    """Seconds of the action `table` by function of the table, from its call tree. `column`: tree row -> seconds."""
    action = next(a for a in report['actions'] if a['action_type'] == 'table')
    tree, instructions = action['tree'], report['instructions']
    at = {name: i for i, name in enumerate(tree['columns'])}
    seconds = dict.fromkeys(wanted, 0.0)
    for row in tree['nodes']:
        node = row
        while node is not None:
            parts = instructions[node[at['instruction']]].split(':')
            name = parts[1] if len(parts) > 1 else ''
            if name in seconds:
                seconds[name] += column({c: row[i] for c, i in at.items()})
                break
            node = tree['nodes'][node[at['parent']]] if node[at['parent']] >= 0 else None
    return seconds


def measured(report, truth, interval):
    """{'wall': (shares, samples), 'cpu': (…), 'cpu_time': (…)}, each with the number of samples that it rests on.

    `cpu` is the time in which samples found the function running (the states cpu and native), `cpu_time` what
    the thread's CPU clock gave to the samples.
    """
    wanted = truth['wall']
    wall = by_function(report, wanted, lambda row: row['cpu'] + row['native'] + row['gil_wait'] + row['blocked'])
    cpu = by_function(report, wanted, lambda row: row['cpu'] + row['native'])
    clock = by_function(report, wanted, lambda row: row['cpu_time'])
    samples = sum(by_function(report, wanted, lambda row: row['samples']).values())
    samples = independent(samples, sum(wanted.values()) / interval)
    ran = samples * sum(cpu.values()) / max(1e-9, sum(wall.values()))
    return {'wall': (shares(wall), samples), 'cpu': (shares(cpu), ran), 'cpu_time': (shares(clock), ran)}


def independent(samples, intervals):
    """How many samples of equal weight tell as much.

    A tick for which there is no core in time stands for all the intervals until there is one. With waits that
    end by chance the weights are geometric with the mean g = intervals / samples, so their squares have the mean
    2 g^2 - g, and (sum of weights)^2 / (sum of squares) is samples / (2 - 1 / g). With a core to spare g is 1.
    """
    return samples / (2 - min(1.0, samples / intervals))


def truth_ranges(truth):
    """{'wall': {function: (lowest, highest share)}, 'cpu': …}.

    For CPU there are two truths where the program had to wait for a core: the report cannot tell on which line it
    waited, and spreads that time over the lines that ran. One is the CPU clock, the other the clock and the wait;
    on a machine with a core to spare they are the same.
    """
    clock = shares(truth['cpu'])
    ready = shares({f: truth['cpu'][f] + truth['delay'][f] for f in truth['cpu']})
    return {
        'wall': {f: (share, share) for f, share in shares(truth['wall']).items()},
        'cpu': {f: (min(clock[f], ready[f]), max(clock[f], ready[f])) for f in clock},
    }


def bound(share, samples):
    """How far a share may be off: 3 standard errors of that many samples and one percentage point."""
    return STANDARD_ERRORS * math.sqrt(share * (1 - share) / max(1.0, samples)) + PERCENTAGE_POINT


class Row:
    """One function: its true share, the one shown, how far it is off (0 between two truths), how far it may be."""

    def __init__(self, name, truth, shown, samples):
        low, high = truth
        self.name, self.low, self.high, self.shown = name, low, high, shown
        self.off = min(0.0, shown - low) + max(0.0, shown - high)
        self.bound = bound(high if self.off > 0 else low, samples)
        self.outside = abs(self.off) > self.bound


def compare(ranges, shown, samples):
    return [Row(name, truth, shown.get(name, 0.0), samples) for name, truth in ranges.items()]


def run_table(seconds, interval, unit, python=sys.executable, build=None, table=TABLE, enter=None):
    """The truth that the table told, and the report of its actions.

    `enter`, which makes a command run elsewhere (below another root), is for the bench; paths are those there.
    """
    build = build or os.path.join(PROJECT, 'build')
    known = {k: v for k, v in os.environ.items() if not k.startswith(('PROFILOMATIC', 'PYTHON'))}
    with tempfile.TemporaryDirectory(prefix='pom-accuracy-', dir='/dev/shm') as directory:
        profile = os.path.join(directory, 'profile.json')
        command = [os.path.join(build, 'bin', 'profilomatic'), 'run', '-q', '-o', profile, '-F', 'json']
        command += ['--max-overhead', '0.5', '--max-actions', '0', '--interval', str(interval), '--']
        command += [python, table, str(seconds), '--unit', str(unit)]
        done = subprocess.run(
            enter(command) if enter else command,
            env=known,
            stdout=subprocess.PIPE,
            timeout=seconds * 4 + 120,
            check=True,
        )
        with open(profile) as file:
            return json.loads(done.stdout), json.load(file)


def text_of(rows, title):
    lines = [title, f'    {"":10} {"truth":>16} {"shown":>7} {"off":>7} {"bound":>7}']
    for row in rows:
        truth = f'{row.low:.2%}' + (f' to {row.high:.2%}' if row.high - row.low > 0.0001 else '')
        mark = '   OUTSIDE' if row.outside else ''
        lines.append(f'    {row.name:10} {truth:>16} {row.shown:7.2%} {row.off:+7.2%} {row.bound:7.2%}{mark}')
    return '\n'.join(lines)
