"""The pages that an aggregator writes (shm/rates.h, shm/budget.h), for tests that write them in its place."""

import os
import re
import struct

SHM = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), 'shm')


def _defined(header, pattern):
    with open(os.path.join(SHM, header)) as file:
        return int(re.search(pattern, file.read()).group(1), 0)


SETS, WAYS = (_defined('strata.h', rf'STRATA_{what} = (\d+),') for what in ('SETS', 'WAYS'))
OWNED = SETS * WAYS
STRATA = OWNED + SETS
# struct rates: interval and cycle in ns; cap, granularity, paused, passthrough, process, pad; then the arrays
# probability, owner, late_after_us, late_probability.
SLOT = struct.Struct(f'=QQ6I{STRATA}I{OWNED}I{OWNED}I{OWNED}I')
GENERATION_AT, SLOTS_AT = 16, 64  # in struct rates_page, where the slot in force is that of generation & 1
WORD_AT = 64  # in struct budget_page


def _head(header, name):
    magic = _defined(header, rf'{name}_MAGIC UINT64_C\((\w+)\)')
    return struct.pack('=QII', magic, _defined(header, rf'{name}_ABI (\d+)u'), 0)


def rates_page():
    """One whose writer's heart beats for ever, with nothing written yet."""
    return _head('rates.h', 'RATES') + struct.pack('=QQ32x', 0, 2**63) + bytes(2 * SLOT.size)


def budget_page():
    return _head('budget.h', 'BUDGET') + bytes(176)
