"""Real workers under a load that steps, at several budgets: tests/system/outside.py at full length."""

import tempfile

from places import figure


def run(options):
    from outside import Phase, step_through

    seconds = 12 if options.quick else 30
    kept = True
    for budget in (0.02,) if options.quick else (0.05, 0.02, 0.005):
        phases = [
            Phase('idle', seconds, 0),
            Phase('full', seconds, 16),
            Phase('tenfold', seconds, 16, endpoints=100),
            Phase('idle again', seconds, 0),
        ]
        with tempfile.TemporaryDirectory() as place:
            outcome = step_through(place, budget, phases)
        worst = ', '.join(f'{phase.name} {outcome.worst(phase.name):.5f}' for phase in phases)
        print(f'  budget {budget:g}, {len(outcome.windows)} windows; the worst by phase: {worst}')
        kept &= figure('the worst window', outcome.worst(), budget, '')
        told = abs(outcome.told / outcome.outside - 1)
        kept &= figure(f'samplers and aggregator told {outcome.told:.3f} s, off by', told, 0.15, '')
        print(f"  hooks, as told: {outcome.hooks:.3f} s, {outcome.hooks / outcome.worker:.5f} of the workers' CPU")
    return kept
