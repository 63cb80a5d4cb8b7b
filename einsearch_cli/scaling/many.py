"""Repeated comparisons of many candidates with one yardstick, with a controlled chance of a false verdict.

Chance alone exceeds the critical z or t value of one comparison in 5% of studies; with 42 comparisons, in almost every
second study. Dunnett's test (1955) judges the candidates together and knows that they share the yardstick's runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from einsearch_cli.scaling.noise import CONFIDENCE, Floats

_LARGE = 12.0
"""The |t| beyond which p counts as 0."""


@dataclass(frozen=True)
class Dunnett:
    """Distribution of the largest |t| of several comparisons with one yardstick if no candidate differs from it.

    Candidate i has t_i = (√(1−λ_i²) Z_i + λ_i Z_0) / S with independent normal Z and S² a χ² over its degrees of
    freedom. λ_i² is the yardstick's share of the variance of the difference. The distribution is integrated over Z_0
    and S (Dunnett 1955; Hochberg and Tamhane 1987, ch. 5, for unequal shares).
    """

    shares: tuple[float, ...]
    """The share λ_i² of every candidate."""
    degrees: float
    """Degrees of freedom of the variance."""
    looks: tuple[float, ...] = ()
    """Rising numbers of seeds at which the study may stop; empty or one number if there is a single look."""

    def p_values(self, t: Sequence[float]) -> list[float]:
        """Adjusted p value of each |t|: the probability that the largest of all is that large by chance."""
        grid, tails = self._tails
        return [float(np.exp(np.interp(min(abs(value), _LARGE), grid, tails))) for value in t]

    @cached_property
    def critical(self) -> float:
        """The |t| that the largest one exceeds by chance with probability 5%, over all looks."""
        grid, tails = self._tails
        return float(np.interp(-math.log(1 - CONFIDENCE), -tails, grid))

    @cached_property
    def _tails(self) -> tuple[Floats, Floats]:
        """Values of log P(largest > t) on a grid of t."""
        grid = np.concatenate([np.linspace(0, 1.6, 17)[:-1], np.linspace(1.6, 5, 35)[:-1], np.linspace(5, _LARGE, 15)])
        tails = np.maximum(1 - _within(grid, np.array(sorted(self.shares)), self.degrees), 1e-15)
        logs = np.log(np.minimum.accumulate(tails))
        if len(self.looks) < 2:
            return grid, logs
        # With several looks, |t| at each has to be larger for the same chance over all: move every t of the grid there.
        return np.array([repeated(value, self.looks) for value in grid]), logs


def step_down(
    t: Sequence[float], shares: Sequence[float], degrees: float, looks: tuple[float, ...] = ()
) -> list[tuple[float, float]]:
    """Adjusted p value of each comparison, and the critical |t| that applied to it.

    The most different candidate is judged among all, the next one among the remaining ones, and so on until one is not
    significantly different from the yardstick (Marcus, Peritz and Gabriel 1976; Dunnett and Tamhane 1991). So clearly
    worse candidates do not make it harder to see that another one is better.
    """
    order = sorted(range(len(t)), key=lambda i: -abs(t[i]))
    found = [(1.0, 0.0)] * len(t)
    least = 0.0
    for position, i in enumerate(order):
        left = order[position:]
        family = Dunnett(tuple(shares[j] for j in left), degrees, looks)
        if abs(t[i]) <= family.critical:
            for j, p in zip(left, family.p_values([t[j] for j in left]), strict=True):
                found[j] = max(least, p), family.critical
            break
        least = max(least, family.p_values([t[i]])[0])
        found[i] = least, family.critical
    return found


def _within(t: Floats, shares: Floats, degrees: float) -> Floats:
    """The probability that all |t_i| ≤ t, for every t, by Gauss quadrature over the yardstick's error and the variance."""
    from scipy.special import gammaincinv, ndtr

    z, z_weight = np.polynomial.hermite_e.hermegauss(24)
    u, u_weight = np.polynomial.legendre.leggauss(12)
    s = np.sqrt(2 * gammaincinv(degrees / 2, (u + 1) / 2) / degrees)
    own = np.sqrt(np.maximum(1 - shares, 1e-12))
    distinct, counts = np.unique(np.round(np.sqrt(shares) / own * 20) / 20, return_counts=True)
    total = np.zeros_like(t)
    for node, weight in zip(s, u_weight / 2, strict=True):
        product = np.ones((len(t), len(z)))
        for ratio, count in zip(distinct, counts, strict=True):
            reach = (t * node * math.sqrt(1 + ratio * ratio))[:, None]
            product *= (ndtr(reach - ratio * z) - ndtr(-reach - ratio * z)) ** count
        total += weight * (product @ (z_weight / math.sqrt(2 * math.pi)))
    return total


@lru_cache(maxsize=4096)
def repeated(z: float, looks: tuple[float, ...]) -> float:
    """The bound that |Z| exceeds at any of several looks as rarely as it exceeds `z` at one look.

    Z at look k is the standardised mean of the first `looks[k]` seeds; the same bound holds at every look (Pocock
    1977), and the chance of crossing it is integrated look by look (Armitage, McPherson and Rowe 1969).

    >>> round(repeated(1.959964, (1, 2, 3)), 2)
    2.29
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    level = 2 * float(ndtr(-z))
    if level < 1e-12 or z == 0:
        return z
    from scipy.special import ndtri

    most = -float(ndtri(level / (2 * len(looks))))
    return float(brentq(lambda bound: _crossing(bound, looks) - level, z, most + 1e-9, xtol=1e-4))


def _crossing(bound: float, looks: Sequence[float]) -> float:
    """The probability that |Z| exceeds the bound at one of the looks."""
    from scipy.special import ndtr

    x, weight = np.polynomial.legendre.leggauss(48)
    grid, step = x * bound, weight * bound
    density = np.exp(-grid * grid / 2) / math.sqrt(2 * math.pi)
    crossed = 2 * float(ndtr(-bound))
    for before, after in itertools.pairwise(looks):
        keep, spread = math.sqrt(before / after), math.sqrt(1 - before / after)
        out = ndtr((-bound - keep * grid) / spread) + ndtr((keep * grid - bound) / spread)
        crossed += float((density * step) @ out)
        kernel = np.exp(-(((grid[:, None] - keep * grid) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
        density = kernel @ (density * step)
    return crossed


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted by Holm's step-down method (1979): those below 5% hold together, whatever their dependence.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, least = [0.0] * len(p), 0.0
    for position, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - position) * p[i]))
        adjusted[i] = least
    return adjusted
