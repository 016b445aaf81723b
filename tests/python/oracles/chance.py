"""What chance adds to counts: a reader that keeps what it promises goes beyond such a bound once in a million runs."""

import math

BEYOND = 1e-6


def most_of(n, rate):
    """The most of n independent samples that are of a kind whose share is `rate`, but for a chance of BEYOND."""
    if n == 0:
        return 0
    below = 0.0
    for k in range(n + 1):
        below += math.exp(
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(rate)
            + (n - k) * math.log1p(-rate)
        )
        if 1 - below <= BEYOND:
            return k
    return n


def distance(pairs):
    """The total-variation distance between what was told and what was so, and how much of it chance explains.

    `pairs` is {(told, so): count}, one pair a sample. Only pairs that differ make a distance. If telling has no bias,
    they take as many samples from each kind as they bring to it: for D_k differing pairs that touch kind k the
    difference of its counts has a mean of 0 and a variance of D_k at most, so its expected size is at most sqrt(D_k)
    (Jensen). Another outcome of one of the D differing pairs moves the distance by 2/n at most, so that it exceeds its
    mean by sqrt(2 D ln(1 / BEYOND)) / n with a chance of BEYOND at most (McDiarmid's inequality).

    A multinomial sample's noise, which is some sqrt(kinds / n), does not come in: both sides are of the same instants.
    """
    n = sum(pairs.values())
    excess, touching, differing = {}, {}, 0
    for (told, so), count in pairs.items():
        if told == so:
            continue
        differing += count
        for kind, sign in ((told, count), (so, -count)):
            excess[kind] = excess.get(kind, 0) + sign
            touching[kind] = touching.get(kind, 0) + count
    apart = sum(map(abs, excess.values())) / 2 / n
    noise = sum(map(math.sqrt, touching.values())) / 2 / n + math.sqrt(2 * differing * math.log(1 / BEYOND)) / n
    return apart, noise
