"""Limits on exponents and on ω, ψ and ν, as a user writes them and as a grid counts them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.errors import SpecError
from einsearch_cli.structures.extent import exact_rational, parse_rational
from einsearch_cli.structures.index_classes import IndexClasses
from einsearch_cli.structures.normal_form import FACTOR_LETTERS, Carriers, text_of_carriers
from einsearch_cli.taxonomy.criteria import Bounds

EVERYTHING = Bounds(min_psi=Fraction(0), max_omega=Fraction(99), max_nu=Fraction(99))
UNBOUNDED = 1 << 30
_EXAMPLE = "write for example --fix AB=0, --fix 'XAB<=1/4' or --fix XA=1/4..1/2"
_RANGE = re.compile(
    r"\s*(?P<carriers>[A-Za-z]+)\s*(?P<sign><=|>=|<|>|=)\s*(?P<low>[^.\s]\S*?)(?:\s*\.\.\s*(?P<high>\S+))?\s*"
)


@dataclass(frozen=True, slots=True)
class ExponentRange:
    """The values that the exponent of one carrier set may have."""

    carriers: Carriers
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(1)
    low_open: bool = False
    """Whether `low` itself is left out."""
    high_open: bool = False

    @property
    def is_exact(self) -> bool:
        return self.low == self.high

    def on_grid(self, grid: int) -> tuple[int, int]:
        """The smallest and largest whole number of 1/grid in the range.

        >>> parse_range("AB<1/2").on_grid(4), parse_range("AB>=1/3").on_grid(4)
        ((0, 1), (2, 4))
        """
        low, high = math.ceil(self.low * grid), math.floor(self.high * grid)
        return low + (self.low_open and low == self.low * grid), high - (self.high_open and high == self.high * grid)

    def __contains__(self, exponent: Fraction) -> bool:
        above = exponent > self.low if self.low_open else exponent >= self.low
        return above and (exponent < self.high if self.high_open else exponent <= self.high)

    def __str__(self) -> str:
        name = text_of_carriers(self.carriers)
        if self.is_exact:
            return f"{name}={self.low}"
        signs = (">" if self.low_open else ">=", "<" if self.high_open else "<=")
        return f"{name}{signs[0]}{self.low} {name}{signs[1]}{self.high}"


def parse_range(text: str) -> ExponentRange:
    """Read `AB=0`, `AB<=1/4`, `AB<1/2`, `XA>=1/4` or `XA=1/4..1/2`.

    Raises:
        SpecError: if the text is not of that form or nothing lies in the range.

    >>> str(parse_range("BA = 1/4 .. 1/2"))
    'AB>=1/4 AB<=1/2'
    """
    match = _RANGE.fullmatch(text)
    if match is None or (match["high"] and match["sign"] != "="):
        raise SpecError(f"{text[:60]!r} is not a bound on a carrier set", remedy=_EXAMPLE)
    carriers = _carriers(match["carriers"], text)
    is_exponent = match["sign"] == "=" and not match["high"]  # 0.33 in a structure stands for 1/3; bounds are exact
    low = parse_rational(match["low"], text) if is_exponent else _bound(match["low"], text)
    high = _bound(match["high"], text) if match["high"] else low
    if match["sign"] in ("<", "<="):
        found = ExponentRange(carriers, high=high, high_open=match["sign"] == "<")
    elif match["sign"] in (">", ">="):
        found = ExponentRange(carriers, low=low, low_open=match["sign"] == ">")
    else:
        found = ExponentRange(carriers, low, high)
    if found.low > found.high or found.high > 1 or (found.is_exact and (found.low_open or found.high_open)):
        raise SpecError(f"{text[:60]!r} leaves no exponent from 0 to 1", remedy=_EXAMPLE)
    return found


def _bound(number: str, text: str) -> Fraction:
    found = exact_rational(number)
    if found is None:
        raise SpecError(f"{number[:40]!r} in {text[:60]!r} is not a number", remedy=_EXAMPLE)
    return found


def _carriers(name: str, text: str) -> Carriers:
    carriers = frozenset(name)
    if len(carriers) < len(name) or len(carriers) < 2 or carriers - {"X", "Y", *FACTOR_LETTERS}:
        raise SpecError(
            f"{name[:40]!r} in {text[:60]!r} is not a carrier set: it must name two tensors or more, "
            "each once, of X, Y and the factors A, B, …",
            remedy=_EXAMPLE,
        )
    return carriers


def common_unit(grid: int, tokens: Fraction | None) -> int:
    """The unit: ω, ψ and ν are multiples of 1/unit if exponents are multiples of 1/grid and calls have d^tokens tokens.

    >>> common_unit(4, Fraction(1, 3)), common_unit(4, None)
    (12, 4)
    """
    return grid if tokens is None else math.lcm(grid, tokens.denominator)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits for structures with a given number of factors; ω, ψ and ν in whole numbers of a unit."""

    min_psi: int = 0
    max_omega: int = UNBOUNDED
    max_nu: int = UNBOUNDED
    lowest: tuple[int, ...] | None = None
    """The smallest exponent of every index class in whole q-ths, in the order of the θ vector; None means 0."""
    highest: tuple[int, ...] | None = None
    """The largest exponent of every index class; None means 1."""
    reducible: bool = False
    """Whether points with a factor that another one can absorb count as well."""

    def hold(self, points: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether the exponents of points, one point per row, are within their limits."""
        within = np.ones(len(points), dtype=bool)
        if self.lowest is not None and self.highest is not None:
            within &= ((points >= np.array(self.lowest)) & (points <= np.array(self.highest))).all(axis=1)
        return within

    @property
    def prunes(self) -> bool:
        return self.min_psi > 0 or self.max_omega < UNBOUNDED or self.max_nu < UNBOUNDED


def grid_limits(
    classes: IndexClasses,
    grid: int,
    bounds: Bounds,
    ranges: tuple[ExponentRange, ...] = (),
    tokens: Fraction | None = None,
) -> Limits | None:
    """The limits in whole numbers, or None if nothing can be within them.

    Exponents are counted in 1/grid; ω, ψ and ν in 1/`common_unit`. A carrier set
    that names a factor beyond those of the classes has exponent 0.

    >>> grid_limits(IndexClasses(2), 4, Bounds(), (parse_range("AB<=1/3"),))
    Limits(min_psi=4, max_omega=0, max_nu=4, lowest=(0, 0, 0, 0, 0, 0, 0), highest=(4, 4, 4, 4, 4, 4, 1), reducible=False)
    """
    low = dict.fromkeys(classes.carriers, 0)
    high = dict.fromkeys(classes.carriers, grid)
    for given in ranges:
        bottom, top = given.on_grid(grid)
        if bottom > top or (given.carriers not in low and bottom > 0):
            return None
        if given.carriers in low:
            low[given.carriers] = max(bottom, low[given.carriers])
            high[given.carriers] = min(top, high[given.carriers])
    if any(low[carriers] > high[carriers] for carriers in low):
        return None
    unit = common_unit(grid, tokens)
    most = (2 + len(classes.bonds)) * unit
    return Limits(
        math.ceil(bounds.min_psi * unit),
        _unless_idle(math.floor(bounds.max_omega * unit), most),
        _unless_idle(math.floor(bounds.max_nu * unit), most),
        tuple(low.values()) if ranges else None,
        tuple(high.values()) if ranges else None,
    )


def _unless_idle(bound: int, most: int) -> int:
    return bound if bound < most else UNBOUNDED
