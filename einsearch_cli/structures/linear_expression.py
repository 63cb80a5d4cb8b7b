"""Linear expressions with rational coefficients, such as `1 - a - 1/2*b`, and their text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.extent import parse_rational

_SCIENTIFIC = re.compile(r"[0-9.]+[eE][-+]?[0-9]+", re.ASCII)
_TOKEN = re.compile(r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?)|(?P<symbol>[a-z])|(?P<sign>[-+*/()]))", re.ASCII)
_MAX_DEPTH = 20
DIMENSION = "d"
"""The letter that stands for the dimension in formulas, so it cannot be an exponent."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear expression `constant + Σ coefficient · symbol`; coefficients are never 0 and symbols are in order.

    >>> str(parse_linear("1 - a/2 + (a + b)*3"))
    '1 + 5/2*a + 3*b'
    """

    constant: Fraction
    terms: tuple[tuple[str, Fraction], ...] = ()

    @classmethod
    def of(cls, constant: Fraction | int, terms: Mapping[str, Fraction] | None = None) -> Linear:
        return cls(Fraction(constant), tuple(sorted((s, k) for s, k in (terms or {}).items() if k)))

    @property
    def is_constant(self) -> bool:
        return not self.terms

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(symbol for symbol, _ in self.terms)

    def __add__(self, other: Linear) -> Linear:
        terms = dict(self.terms)
        for symbol, coefficient in other.terms:
            terms[symbol] = terms.get(symbol, Fraction(0)) + coefficient
        return Linear.of(self.constant + other.constant, terms)

    def __sub__(self, other: Linear) -> Linear:
        return self + other.times(Fraction(-1))

    def times(self, number: Fraction) -> Linear:
        return Linear.of(self.constant * number, {s: k * number for s, k in self.terms})

    def at(self, values: Mapping[str, Fraction]) -> Fraction:
        return self.constant + sum((k * values[s] for s, k in self.terms), Fraction(0))

    def __str__(self) -> str:
        parts = [str(self.constant)] if self.constant or not self.terms else []
        for symbol, coefficient in self.terms:
            size = abs(coefficient)
            parts.append("-" if coefficient < 0 else "+")
            parts.append(symbol if size == 1 else f"{size}*{symbol}")
        if parts[0] == "+":
            parts = parts[1:]
        elif parts[0] == "-":
            parts = [f"-{parts[1]}", *parts[2:]]
        return " ".join(parts)


ZERO, UNIT = Linear.of(0), Linear.of(1)


def parse_linear(text: str) -> Linear:
    """Read a linear expression: numbers, lower-case letters, + - * / and brackets; `2a` is 2·a.

    The text is parsed here alone; nothing is evaluated.
    """
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over tokens; every rule leaves the position behind what it read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.position = 0

    def whole(self) -> Linear:
        found = self.sum(0)
        if self.peek():
            raise self.error(f"{self.peek()!r} is left over")
        return found

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def sum(self, depth: int) -> Linear:
        found = ZERO
        sign = Fraction(1)
        if self.peek() in {"-", "+"}:
            sign = Fraction(-1 if self.take() == "-" else 1)
        while True:
            found = found + self.product(depth).times(sign)
            if self.peek() not in {"-", "+"}:
                return found
            sign = Fraction(-1 if self.take() == "-" else 1)

    def product(self, depth: int) -> Linear:
        found = self.atom(depth)
        while self.peek() and self.peek() not in {"+", "-", ")"}:
            divides = self.peek() == "/"
            if self.peek() in {"*", "/"}:
                self.take()
            factor = self.atom(depth)
            found = self.quotient(found, factor) if divides else self.multiplied(found, factor)
        return found

    def quotient(self, left: Linear, right: Linear) -> Linear:
        if not right.is_constant or right.constant == 0:
            raise self.error(f"it divides by {right}")
        return left.times(1 / right.constant)

    def multiplied(self, left: Linear, right: Linear) -> Linear:
        if left.is_constant:
            return right.times(left.constant)
        if right.is_constant:
            return left.times(right.constant)
        raise self.error(f"it multiplies {left} by {right}")

    def atom(self, depth: int) -> Linear:
        token = self.take()
        if token == "(" and depth < _MAX_DEPTH:
            inside = self.sum(depth + 1)
            if self.take() != ")":
                raise self.error("a bracket is not closed")
            return inside
        if token.isdigit() or "." in token:
            return Linear.of(parse_rational(token, self.text))
        if token.isalpha() and token != DIMENSION:
            return Linear.of(0, {token: Fraction(1)})
        if token == DIMENSION:
            raise self.error("d is the dimension")
        raise self.error(f"{token!r} stands where a number or a letter must be" if token else "it ends too early")

    def error(self, reason: str) -> StructureError:
        return StructureError(
            f"{self.text[:60]!r} is not a linear expression in letters: {reason}",
            remedy="write an exponent such as a, 1/2*a or (1-a-b)",
        )


def _tokens(text: str) -> Iterator[str]:
    if number := _SCIENTIFIC.search(text):
        raise StructureError(
            f"{number[0]!r} in {text[:60]!r} may be a number or a multiple of the letter e: it is read as neither",
            remedy="write a fraction such as 1/1000, or 2*e - 1 for the letter e",
        )
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if not match:
            raise StructureError(
                f"{text[position:].strip()[:20]!r} in {text[:60]!r} is not part of an exponent",
                remedy="write an exponent such as a, 1/2*a or (1-a-b), in lower-case letters",
            )
        position = match.end()
        yield match[match.lastgroup or 0]
