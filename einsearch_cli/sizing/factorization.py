"""Divisors of whole numbers, and the factorizations nearest to given sizes."""

from __future__ import annotations

import math
from functools import cache
from itertools import chain, count

_MAX_RATIO = 2.0
"""The largest ratio between a size and d**exponent at which the size 'fits'; otherwise the dimension is padded."""
_TRIAL_DIVISION_LIMIT = 2**32
"""The largest number that trial division factorizes; larger ones need sympy, which takes 0.5 s to import."""
_MAX_TIES = 64
"""The most equally near factorizations that are listed."""
_EQUAL = 1e-12
"""Squared log distances that differ by less than this are equal."""

Factorization = tuple[int, ...]


def nearest_factorizations(n: int, targets: tuple[float, ...]) -> tuple[Factorization, ...]:
    """The ordered factorizations of n nearest to the targets in squared log distance, in increasing order.

    Empty if no factorization has every size within a factor of two of its
    target; a single target takes n as it is.

    >>> nearest_factorizations(768, (27.7, 27.7)), nearest_factorizations(257, (16.0, 16.0))
    (((24, 32), (32, 24)), ())
    """
    if len(targets) <= 1:
        return ((n,) if targets else (),) if targets or n == 1 else ()
    all_divisors = divisors(n)

    @cache
    def best(position: int, rest: int) -> tuple[float, tuple[Factorization, ...]]:
        target = targets[position]
        if position == len(targets) - 1:
            return _log_distance(rest, target), ((rest,),)
        nearest, found = math.inf, ()  # type: tuple[float, tuple[Factorization, ...]]
        for divisor in all_divisors:
            if rest % divisor or (near := _log_distance(divisor, target)) > nearest + _EQUAL:
                continue
            far, others = best(position + 1, rest // divisor)
            if math.isinf(near + far) or near + far > nearest + _EQUAL:
                continue
            if near + far < nearest - _EQUAL:
                nearest, found = near + far, ()
            found = (*found, *((divisor, *other) for other in others))[:_MAX_TIES]
        return nearest, found

    distance, found = best(0, n)
    return found if math.isfinite(distance) else ()


def distance(sizes: Factorization, targets: tuple[float, ...]) -> float:
    """Squared log distance of sizes from their targets.

    >>> round(distance((8, 8), (16.0, 8.0)), 2)
    0.48
    """
    return sum(math.log(size / target) ** 2 for size, target in zip(sizes, targets, strict=True))


def _log_distance(size: int, target: float) -> float:
    """Squared log distance, infinite where the size does not fit the target."""
    distance = abs(math.log(size / target))
    return distance**2 if distance <= math.log(_MAX_RATIO) + _EQUAL else math.inf


def divisors(n: int) -> list[int]:
    """All divisors in increasing order."""
    found = [1]
    for prime, power in prime_powers(n):
        found = [d * prime**k for d in found for k in range(power + 1)]
    return sorted(found)


def prime_powers(n: int) -> list[tuple[int, int]]:
    """The primes that divide n, with their powers.

    >>> prime_powers(768)
    [(2, 8), (3, 1)]
    """
    if n > _TRIAL_DIVISION_LIMIT:
        from sympy import factorint

        return [(int(p), int(k)) for p, k in factorint(n).items()]
    powers = []
    for prime in chain((2,), count(3, 2)):
        if prime * prime > n:
            break
        power = 0
        while n % prime == 0:
            n, power = n // prime, power + 1
        if power:
            powers.append((prime, power))
    return [*powers, (n, 1)] if n > 1 else powers
