"""The shares that a report shows are those that the program had.

The short form; `tests/accuracy/full` takes at least 5,000 samples at each interval.
"""

import pytest
from measure import compare, measured, run_table, shares, text_of, truth_ranges

# Of the program's time, by the kernel's account: two busy loops beside it on two cores take a quarter.
STARVED = 0.5


def outside(setting):
    """One measurement: {(quantity, function): what was off} of the rows that are outside their bounds."""
    interval, unit, seconds = setting
    truth, report = run_table(seconds, interval, unit)
    starved = sum(truth['delay'].values()) / sum(truth['wall'].values())
    if starved > STARVED:
        pytest.skip(
            f'the program waited for a core for {starved:.0%} of its time: a sampler that waits too is no sample'
        )
    ranges, shown = truth_ranges(truth), measured(report, truth, interval)
    off = {}
    for quantity in ('wall', 'cpu'):
        found, samples = shown[quantity]
        assert samples > 100, report
        rows = compare(ranges[quantity], found, samples)
        text = text_of(rows, f'{quantity}, {samples:.0f} samples')
        off.update({(quantity, row.name): text for row in rows if row.outside})
    return off


@pytest.mark.parametrize('setting', [(0.001, 0.00125, 7.0), (0.01, 0.005, 10.0)], ids=['1 ms', '10 ms'])
def test_each_function_is_shown_with_its_share(setting):
    """Of 32 shares one is outside three standard errors by chance now and then; hardly the same one twice."""
    first = outside(setting)
    second = outside(setting) if first else {}
    assert not first.keys() & second.keys(), '\n'.join(set(first.values()) | set(second.values()))


@pytest.mark.parametrize('function', [f'{kind}_{parts}' for kind in ('compute', 'sleep') for parts in (2, 4, 8)])
def test_the_bounds_notice_a_share_that_is_off_by_half(function):
    """What the test above would say of 5,000 samples in which one function lost half of its share to the others."""
    seconds = {f'{kind}_{parts}': float(parts) for kind in ('compute', 'sleep') for parts in (1, 2, 4, 8)}
    shown = shares(dict(seconds, **{function: seconds[function] / 2}))
    ranges = truth_ranges({'wall': seconds, 'cpu': seconds, 'delay': dict.fromkeys(seconds, 0.0)})
    assert function in [row.name for row in compare(ranges['wall'], shown, 5000) if row.outside]
