"""A pool without an aggregator: who is profiled is what the test says, so that late admission holds no surprises. For
scripts that profile."""

import mmap
import os
import struct

from _rates import GENERATION_AT, OWNED, SLOT, SLOTS_AT, STRATA, WORD_AT, budget_page, rates_page

NEVER, ALWAYS = 0, 0xFFFFFFFF


def hash_of(name):
    """FNV-1a, as types are told apart."""
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


class Pool:
    """Actions of type `name` are drawn as `admit` says, all others are profiled from their begin on."""

    def __init__(self, path, name='work'):
        os.makedirs(path, mode=0o700, exist_ok=True)
        self.owner = [hash_of(name)] * OWNED  # wherever it looks
        self.generation = 0
        self.budget = self._page(path, 'budget', budget_page())
        self.rates = self._page(path, 'rates', rates_page())

    def _page(self, path, name, content):
        with open(os.open(os.path.join(path, name), os.O_RDWR | os.O_CREAT, 0o600), 'r+b') as file:
            file.write(content)
            file.flush()
            return mmap.mmap(file.fileno(), len(content))

    def admit(self, at_begin=False, late_after=0, tokens=True, interval=0.001):
        """Say what holds from now on; times in seconds, `late_after` 0: nobody is admitted late."""
        likely = [ALWAYS if at_begin else NEVER] * OWNED + [ALWAYS] * (STRATA - OWNED)
        content = SLOT.pack(
            *(int(interval * 1e9), 10**9, 0 if tokens else 1, 2, 0, 0, 0, 0, *likely, *self.owner),
            *([int(late_after * 1e6)] * OWNED + [ALWAYS if late_after else NEVER] * OWNED),
        )
        # A word whose cycle has not come has no token for any that has.
        self.budget[WORD_AT : WORD_AT + 8] = struct.pack('=Q', 0 if tokens else 0x7FFFFFFF << 32)
        self.generation += 1
        at = SLOTS_AT + SLOT.size * (self.generation & 1)
        self.rates[at : at + SLOT.size] = content
        self.rates[GENERATION_AT : GENERATION_AT + 8] = struct.pack('=Q', self.generation)
