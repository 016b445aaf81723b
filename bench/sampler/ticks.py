"""What a tick costs, what each further thread adds, and that an idle worker costs nothing."""

import statistics

from common import middle, slope

RATES = (100, 1000)

TICK_RATIO, TICK_US = 1.35, 6.0  # whichever allows more
RUNNING_US, BLOCKED_US = 5.0, 0.6


def excess_us(row):
    return (row['cpu'] / row['ticks'] - row['bare_cpu'] / row['bare_ticks']) * 1e6


def tick(bench):
    bench.say('\nA tick of the sampler against a bare timer thread in the same process (one running thread, 32 frames)')
    runs = bench.options.runs or (3 if bench.quick else 9)
    seconds = bench.options.seconds or (1.0 if bench.quick else 3.0)
    builds = [bench.options.build] + ([bench.options.against] if bench.options.against else [])
    found = {(build, hertz): [] for hertz in RATES for build in builds}
    for _ in range(runs):  # interleaved, because the machine's speed drifts
        for (build, hertz), rows in found.items():
            rows.append(bench.target('tick', build, hertz=hertz, seconds=seconds))
    for (build, hertz), rows in found.items():
        row = middle(rows, excess_us)
        cost, bare = row['cpu'] / row['ticks'] * 1e6, row['bare_cpu'] / row['bare_ticks'] * 1e6
        spread = sorted(excess_us(r) for r in rows)
        calls = statistics.median(r['calls_excess'] for r in rows) * 1e6
        bench.figure(
            f'tick {hertz} Hz' + (f' [{build}]' if len(builds) > 1 else ''),
            f'{hertz:5d} Hz: ratio {cost / bare:.2f} ({cost:.1f} us against {bare:.1f} us; {cost - bare:+.1f} us, '
            f'runs {spread[0]:+.1f} to {spread[-1]:+.1f}; {row["ticks"] / row["seconds"]:.0f} ticks/s, '
            f'{row["torn"]} of {row["samples"]} torn; its two system calls alone: {calls:+.1f} us)'
            + (f' {build}' if len(builds) > 1 else ''),
            cost,
            None if build != bench.options.build else max(TICK_RATIO * bare, bare + TICK_US),
            'us',
            bare_us=bare,
            ratio=cost / bare,
            excess_us=spread,
            calls_excess_us=calls,
        )


def crowd(bench):
    bench.say('\nWhat each further thread inside an admitted action adds to a tick (slope over the number of threads)')
    runs = bench.options.runs or (1 if bench.quick else 5)
    seconds = bench.options.seconds or (0.7 if bench.quick else 1.2)
    kinds = {
        # Threads that share the GIL: one computes, the others wait for it.
        'running': ((0, 2, 4, 8), RUNNING_US),
        # Threads that compute without it, in C.
        'native': ((0, 2, 4, 8), RUNNING_US),
        'blocked': ((0, 8, 16, 32), BLOCKED_US),
    }
    found = {(kind, hertz): [] for kind in kinds for hertz in RATES}
    for _ in range(runs):
        for (kind, hertz), rows in found.items():
            rows.append(bench.target('crowd', hertz=hertz, seconds=seconds, kind=kind, counts=kinds[kind][0]))
    for (kind, hertz), rows in found.items():
        slopes = [slope([(count, cost * 1e6) for count, cost, _, _ in row['rows']]) for row in rows]
        bare_slopes = [slope([(count, bare * 1e6) for count, _, _, bare in row['rows']]) for row in rows]
        value, bare_value = statistics.median(slopes), statistics.median(bare_slopes)
        bare = by_count(rows, kinds[kind][0], 3)
        ticks = by_count(rows, kinds[kind][0], 1)
        bench.figure(
            f'further {kind} thread {hertz} Hz',
            f'{hertz:5d} Hz, {kind:7s}: {value:6.2f} us each, {value / bare[0]:.3f} of a bare tick (the bare tick '
            f'grows by {bare_value:.2f}; {", ".join(f"{1 + c}: {ticks[c]:.1f}/{bare[c]:.1f}" for c in ticks)} us)',
            value,
            kinds[kind][1],
            'us',
            bare_us=bare,
            ticks_us=ticks,
            slopes=sorted(slopes),
            bare_slopes=sorted(bare_slopes),
        )


def by_count(rows, counts, column):
    """Medians over the runs, in us, by the number of threads."""
    return {n: statistics.median(r[column] for row in rows for r in row['rows'] if r[0] == n) * 1e6 for n in counts}


def idle(bench):
    bench.say('\nAn idle worker')
    row = bench.target('idle', hertz=1000, seconds=bench.options.seconds or (2 if bench.quick else 10))
    bench.figure(
        'wake-ups of an idle worker',
        f'{row["wakes"]} wake-ups of pom-sampler, {row["cpu"] * 1e6:.0f} us of CPU in {row["seconds"]} s after an '
        f'admitted action ({row["wakes_while_armed"]} before)',
        row['wakes'],
        0,
        'wake-ups',
    )
