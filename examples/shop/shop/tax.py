"""Taxes. First planted slowness: COMPUTING, by a search through a long list where a dictionary would do."""

from .catalog import CATEGORIES, COUNTRIES

# One key a country, region and category, and the rate at the same place in the other list.
_REGIONS = 12
_KEYS = [(c, r, k) for k in range(CATEGORIES) for r in range(_REGIONS) for c in COUNTRIES]
_RATES = [5 + (7 * n) % 20 for n in range(len(_KEYS))]


def rate(country, region, category):
    """The tax rate in percent."""
    place = _KEYS.index((country, region, category))  # SLOW: looks at up to 57,600 keys, one by one
    return _RATES[place]


def of(items, country):
    """The tax on the items, in cents: the mean over the country's regions, since none is known yet."""
    total = 0
    for item in items:
        for region in range(0, _REGIONS, 2):
            total += item.price * rate(country, region, item.category) / 100 / (_REGIONS / 2)
    return round(total)
