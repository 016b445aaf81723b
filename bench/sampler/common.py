"""What the parts of the bench share: the programs under test, and figures with their bars."""

import json
import os
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))


class Bench:
    """How to run a program under test, and what was found so far."""

    def __init__(self, options):
        self.options = options
        self.quick = options.quick
        self.figures = []

    def target(self, mode, build=None, **arguments):
        """Run one mode of target.py in a fresh process with a pool of its own; what it printed."""
        build = os.path.abspath(build or self.options.build)
        arguments.setdefault('bare', os.path.join(os.path.abspath(self.options.build), 'bench', 'bare_timer.so'))
        with private_directory() as directory:
            done = subprocess.run(
                [self.options.python, os.path.join(HERE, 'target.py'), mode, json.dumps(arguments)],
                env=environment(build, directory),
                stdout=subprocess.PIPE,
                text=True,
                timeout=600,
                check=True,
            )
        return json.loads(done.stdout.splitlines()[-1])

    def say(self, text):
        print(text, flush=True)

    def figure(self, name, text, value, bar=None, unit='', **more):
        """One figure; with a bar, ok if it is at most that (`least=True`: at least)."""
        least = more.pop('least', False)
        ok = None if bar is None else (value >= bar if least else value <= bar)
        self.figures.append(
            {'name': name, 'value': value, 'unit': unit, 'bar': bar, 'least': least, 'ok': ok, 'text': text, **more}
        )
        verdict = '' if ok is None else f'   bar {">=" if least else "<="} {bar:.3g} {unit}: {"ok" if ok else "MISSED"}'
        self.say(f'  {text}{verdict}')

    def skip(self, name, why):
        self.figures.append({'name': name, 'skipped': why})
        self.say(f'  {name}: skipped, {why}')


def private_directory():
    return tempfile.TemporaryDirectory(dir='/dev/shm', prefix='pom-bench-', ignore_cleanup_errors=True)


def environment(build, directory):
    known = {k: v for k, v in os.environ.items() if not k.startswith(('PROFILOMATIC', 'PYTHONPATH'))}
    return dict(known, PYTHONPATH=os.path.join(build, 'python'), PROFILOMATIC_DIR=directory)


def slope(points):
    """Least squares through (x, y)."""
    n = len(points)
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    return sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)


def middle(rows, key):
    """The row whose key is the median."""
    rows = sorted(rows, key=key)
    return rows[len(rows) // 2]
