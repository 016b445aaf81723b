"""Simulated pools, and pictures of them: overhead, interval and admissions against time."""

import subprocess

from places import BENCH

SIM = BENCH / 'budget_sim'
PICTURES = BENCH / 'budget'
WIDTH, HEIGHT, LEFT, GAP = 860, 120, 70, 26
SHOWN = [(8, 0.02), (1000, 0.005)]  # workers, budget


def polyline(points, colour):
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" points="{path}"/>'


def panel(top, title, values, most, colour, line=None):
    """One curve against time; `line` is a level to compare with."""
    bottom, n = top + HEIGHT, max(len(values) - 1, 1)
    out = [
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>',
        f'<text x="{LEFT}" y="{top - 6}">{title}</text>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:.4g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
    ]
    if line is not None:
        y = bottom - HEIGHT * line / most
        out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y}" y2="{y}" stroke="#c00" stroke-dasharray="4 3"/>')
    points = [(LEFT + WIDTH * i / n, bottom - HEIGHT * min(v, most) / most) for i, v in enumerate(values)]
    return [*out, polyline(points, colour)]


def picture(name, tells, workers, budget):
    """One SVG: the load, the overhead beside the budget, the interval, the admissions."""
    text = subprocess.run([SIM, name, str(workers), str(budget)], capture_output=True, text=True, check=True).stdout
    rows = [line.split(' ', 10) for line in text.splitlines()[1:]]
    columns = [
        ('load, times the usual', [float(r[1]) for r in rows], None, '#888'),
        (f'overhead of the trailing 10 s, budget {budget:g}', [float(r[2]) for r in rows], budget, '#06c'),
        ('interval, ms', [float(r[3]) for r in rows], None, '#393'),
        ('profiled actions a second', [float(r[8]) for r in rows], None, '#a50'),
    ]
    out, top = [], 50
    for title, values, line, colour in columns:
        out += panel(top, title, values, max([*values, line or 0]) * 1.1 or 1, colour, line)
        top += HEIGHT + GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{top}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{LEFT}" y="20" font-size="14">{name}: {tells}; {workers} workers, {len(rows)} s</text>'
    )
    file = PICTURES / f'{name.replace(",", "").replace(" ", "-")}-{workers}-{budget:g}.svg'
    file.write_text(head + '\n'.join(out) + '</svg>\n')


def run(options):
    seeds = 1 if options.quick else 5
    kept = subprocess.run([SIM]).returncode == 0
    if seeds > 1:
        print(f'  what {seeds} seeds break:', flush=True)
        kept &= subprocess.run([SIM, '--seeds', str(seeds)]).returncode == 0
    PICTURES.mkdir(parents=True, exist_ok=True)
    scenarios = subprocess.run([SIM, '--list'], capture_output=True, text=True, check=True).stdout.splitlines()
    for scenario in scenarios:
        name, _, tells = scenario.partition(': ')
        for workers, budget in SHOWN:
            picture(name, tells, workers, budget)
    print(f'  {len(scenarios) * len(SHOWN)} pictures in {PICTURES}')
    return kept
