"""What sampling takes from the thread that is sampled, beyond the sampler's own CPU: at 1 kHz from another CPU, at 100 Hz on
its own, where the timer's interrupt is its to bear as well."""

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
    for hertz in (1000, 100):
        pairs = max(20, bench.options.runs or (20 if bench.quick else 60))
        row = bench.target(
            'slowdown', hertz=hertz, pairs=pairs, seconds=bench.options.seconds or (0.2 if bench.quick else 0.4)
        )
        share = row['sampler_cpu'] / row['application_cpu']
        columns = {
            "the thread's CPU time": [sampled / plain - 1 for sampled, _, plain, _ in row['pairs']],
            'wall time': [sampled / plain - 1 for _, sampled, _, plain in row['pairs']],
        }
        for name, values in columns.items():
            bound = upper_bound(values)
            bar = share + ALLOWED if name.startswith('the thread') else None  # wall time holds others' load too
            bench.figure(
                f'slow-down, {hertz} Hz, {name}',
                f'{hertz:5d} Hz, {name}: mean {statistics.fmean(values):+.2%}, median {statistics.median(values):+.2%}, '
                f'upper 95 % bound {bound:+.2%} of {len(values)} pairs (sampler {share:.2%} of the application)',
                bound,
                bar,
                sampler_share=share,
                wall_bar=share + ALLOWED,
            )
