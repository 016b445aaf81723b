"""What sampling takes from the thread that is sampled, beyond the sampler's own CPU: at 1 kHz from another CPU, at
100 Hz on its own, where the timer's interrupt is its to bear as well.

Where a program's memory came to lie makes pairs of one process differ all alike, by up to 2 %: so there are several.
"""

import statistics

ALLOWED = 0.005  # of the application's time, besides the CPU share of the sampler
Z95 = 1.6449


def upper_bound(values):
    """Upper end of the one-sided 95 % confidence interval of the mean."""
    n = len(values)
    t = Z95 + (Z95**3 + Z95) / (4 * (n - 1))  # Student's t from the normal quantile, first order (Abramowitz 26.7.5)
    return statistics.fmean(values) + t * statistics.stdev(values) / n**0.5


def slowdown(bench):
    bench.say("\nThe application's own slow-down (the same work sampled and not, in pairs of random order)")
    processes = 4 if bench.quick else 10
    pairs = max(6, (bench.options.runs or 0) // processes)
    seconds = bench.options.seconds or (0.2 if bench.quick else 0.4)
    for hertz in (1000, 100):
        rows = [bench.target('slowdown', hertz=hertz, pairs=pairs, seconds=seconds) for _ in range(processes)]
        share = sum(row['sampler_cpu'] for row in rows) / sum(row['application_cpu'] for row in rows)
        for name, sampled, plain in (("the thread's CPU time", 0, 2), ('wall time', 1, 3)):
            means = [statistics.fmean(pair[sampled] / pair[plain] - 1 for pair in row['pairs']) for row in rows]
            bound = upper_bound(means)
            # The bar is of 1 kHz; and wall time holds others' load too.
            bar = share + ALLOWED if hertz == 1000 and name.startswith('the thread') else None
            bench.figure(
                f'slow-down, {hertz} Hz, {name}',
                f'{hertz:5d} Hz, {name}: mean {statistics.fmean(means):+.2%}, median {statistics.median(means):+.2%}, '
                f'upper 95 % bound {bound:+.2%} of {processes} processes with {pairs} pairs each '
                f'(sampler {share:.2%} of the application)',
                bound,
                bar,
                sampler_share=share,
                wall_bar=share + ALLOWED,
            )
