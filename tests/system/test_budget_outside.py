"""The first cap, measured from outside: overhead over all workers in every window, while the load steps."""

from outside import Phase, step_through


def test_overhead_stays_within_the_budget_as_the_load_steps_and_is_told_truly(tmp_path):
    phases = [Phase('full', 12, 16), Phase('tenfold', 12, 16, endpoints=100), Phase('idle', 11, 0)]
    outcome = step_through(tmp_path, 0.02, phases)
    print(f'worst {outcome.worst():.4f}, told {outcome.told:.3f} s of {outcome.outside:.3f} s')
    assert {name for name, _ in outcome.windows} == {'full', 'tenfold', 'idle'}
    for name, ratio in outcome.windows:
        assert ratio <= 0.02, f'{ratio:.4f} in a window that ended in "{name}"'
    assert abs(outcome.told - outcome.outside) <= 0.15 * outcome.outside, (outcome.told, outcome.outside)
    assert 0 < outcome.outside and 0 < outcome.worst(), 'it did cost something, so the measurement can fail'
