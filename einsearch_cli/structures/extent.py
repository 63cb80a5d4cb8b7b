"""How large an index is: a rational multiple of a rational power of the layer's dimension."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from einsearch_cli.errors import StructureError

MAX_DIMENSION = 2**48
MAX_DENOMINATOR = 12
"""Largest denominator of the fraction that a decimal stands for: 0.33 is 1/3."""

_MAX_NUMBER_LENGTH = 24
_RATIONAL = r"[0-9]+(?:/[0-9]+|\.[0-9]+)?"
_SIZE = re.compile(rf"(?:(?P<coefficient>{_RATIONAL})\*)?d(?:\^(?P<exponent>{_RATIONAL}))?(?:/(?P<divisor>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class Extent:
    """Size of one index, `coefficient * base**exponent`.

    The base is d_in for input indices, d_out for output indices and
    min(d_in, d_out) for bonds, so one `Extent` covers exponents
    (`coefficient` 1), fixed sizes (`exponent` 0) and what a fixed size
    leaves (4 blocks leave `1/4 * d`).

    >>> Extent.power(Fraction(1, 2)).text
    '^1/2'
    >>> Extent.fixed(4).text, Extent(Fraction(1, 4), Fraction(1)).text
    ('=4', '=1/4*d')
    """

    coefficient: Fraction
    exponent: Fraction

    @classmethod
    def power(cls, exponent: Fraction) -> Extent:
        return cls(Fraction(1), exponent)

    @classmethod
    def fixed(cls, size: int) -> Extent:
        return cls(Fraction(size), Fraction(0))

    @property
    def is_one(self) -> bool:
        return self.exponent == 0 and self.coefficient == 1

    @property
    def is_fixed(self) -> bool:
        return self.exponent == 0

    @property
    def is_power(self) -> bool:
        return self.coefficient == 1

    @property
    def text(self) -> str:
        """The extent as the text notation writes it after the carriers: `^1/2`, `=4` or `=1/4*d^1/2`."""
        return f"^{self.exponent}" if self.is_power else f"={self.size_text}"

    @property
    def size_text(self) -> str:
        """The size alone: `4`, `d^1/2` or `1/4*d`."""
        if self.is_fixed:
            return str(self.coefficient)
        power = "d" if self.exponent == 1 else f"d^{self.exponent}"
        return power if self.is_power else f"{self.coefficient}*{power}"

    def __mul__(self, other: Extent) -> Extent:
        return Extent(self.coefficient * other.coefficient, self.exponent + other.exponent)

    def __truediv__(self, other: Extent) -> Extent:
        return Extent(self.coefficient / other.coefficient, self.exponent - other.exponent)

    def root(self, count: int) -> Extent | None:
        """The extent whose `count`-th power is this one, or None if it is not rational."""
        coefficient = self.coefficient
        if count > 1 and coefficient != 1:
            return None
        return Extent(coefficient, self.exponent / count)

    def at(self, base: int) -> float:
        """The size at a dimension, not yet rounded to an integer."""
        return float(self.coefficient) * math.pow(base, float(self.exponent))


ONE = Extent(Fraction(1), Fraction(0))


def exact_rational(text: str) -> Fraction | None:
    """The number that a text such as `1/2`, `3` or `0.33` (33/100) stands for; None for any other text.

    >>> exact_rational("0.33"), exact_rational("1e-2")
    (Fraction(33, 100), None)
    """
    if not re.fullmatch(_RATIONAL, text, re.ASCII) or len(text) > _MAX_NUMBER_LENGTH:
        return None
    return None if "/" in text and int(text.split("/")[1]) == 0 else Fraction(text)


def parse_rational(text: str, where: str) -> Fraction:
    """An exponent such as `1/2`, `0.5` or `0.33` (which stands for 1/3).

    Raises:
        StructureError: if the text is not a number, or has a zero denominator.

    >>> parse_rational("0.67", "XA"), parse_rational("1/4", "XA")
    (Fraction(2, 3), Fraction(1, 4))
    """
    text = text.strip()
    exact = _exact(text, where)
    return _snap(exact, text) if "." in text else exact


def _exact(text: str, where: str) -> Fraction:
    exact = exact_rational(text)
    if exact is None and re.fullmatch(r"[0-9]{1,20}/0+", text, re.ASCII):
        raise StructureError(f"{text[:40]!r} in {where[:80]!r} divides by zero", remedy="write a fraction such as 1/2")
    if exact is None:
        raise StructureError(
            f"{text[:40]!r} in {where[:80]!r} is not an exponent: it must be a number from 0 to 1",
            remedy="write a fraction such as 1/2 or a decimal such as 0.5",
        )
    return exact


def _snap(exact: Fraction, text: str) -> Fraction:
    if exact.denominator <= MAX_DENOMINATOR:
        return exact
    half_unit = Fraction(1, 2 * 10 ** len(text.split(".")[1]))
    for denominator in range(1, MAX_DENOMINATOR + 1):
        near = Fraction(round(exact * denominator), denominator)
        if abs(near - exact) <= half_unit:
            return near
    return exact


def parse_size(text: str, where: str) -> Extent:
    """A size such as `4`, `d/4`, `d^1/2` or `1/4*d^1/2`.

    Raises:
        StructureError: if the text is not of that form or the size is not positive.

    >>> parse_size("4", "g=4"), parse_size("d/4", "n=d/4").text
    (Extent(coefficient=Fraction(4, 1), exponent=Fraction(0, 1)), '=1/4*d')
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]+", text, re.ASCII) and len(text) <= _MAX_NUMBER_LENGTH:
        extent = Extent.fixed(int(text))
    elif (match := _SIZE.fullmatch(text)) and len(text) <= 3 * _MAX_NUMBER_LENGTH:
        coefficient, divisor = (_exact(match[part] or "1", where) for part in ("coefficient", "divisor"))
        if divisor == 0:
            raise StructureError(f"{text!r} in {where[:80]!r} divides by zero", remedy="write a size such as d/4")
        exponent = parse_rational(match["exponent"] or "1", where)
        extent = Extent(coefficient / divisor, exponent)
    else:
        raise StructureError(
            f"{text[:40]!r} in {where[:80]!r} is not a size: it must be a positive whole number, or a multiple of a power of d",
            remedy="write a size such as 4, d/4 or d^1/2",
        )
    if extent.coefficient <= 0:
        raise StructureError(
            f"{text!r} in {where[:80]!r} is not a size: sizes must be at least 1", remedy="write a size such as 4"
        )
    return extent
