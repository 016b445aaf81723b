"""What sampling at 1 kHz takes from the thread that is sampled, beyond the sampler's own CPU."""

import statistics

ALLOWED = 0.005  # of the application's time, besides the CPU share of the sampler
Z95 = 1.6449


def upper_bound(values):
    """Upper end of the one-sided 95 % confidence interval of the mean."""
    n = len(values)
    t = Z95 + (Z95**3 + Z95) / (4 * (n - 1))  # Student's t from the normal quantile, first order (Abramowitz 26.7.5)
    return statistics.fmean(values) + t * statistics.stdev(values) / n**0.5


def slowdown(bench):
    bench.say("\nThe application's own slow-down at 1 kHz (the same work sampled and not, in pairs of random order)")
    pairs = max(20, bench.options.runs or (20 if bench.quick else 60))
    row = bench.target(
        'slowdown', hertz=1000, pairs=pairs, seconds=bench.options.seconds or (0.2 if bench.quick else 0.4)
    )
    share = row['sampler_cpu'] / row['application_cpu']
    columns = {
        "the thread's CPU time": [sampled / plain - 1 for sampled, _, plain, _ in row['pairs']],
        'wall time': [sampled / plain - 1 for _, sampled, _, plain in row['pairs']],
    }
    for name, values in columns.items():
        bound = upper_bound(values)
        bar = share + ALLOWED if name.startswith('the thread') else None  # others' load on this machine is in wall time
        bench.figure(
            f'slow-down, {name}',
            f'{name}: mean {statistics.fmean(values):+.2%}, median {statistics.median(values):+.2%}, upper 95 % bound '
            f'{bound:+.2%} of {len(values)} pairs (sampler {share:.2%} of the application)',
            bound,
            bar,
            sampler_share=share,
            wall_bar=share + ALLOWED,
        )
