"""Numbers of the page on claims as texts: one form for each kind of number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

Unit = Literal["percent", "plain", "factor", "share"]
"""The kind of an estimate: a log of a ratio as a percentage, a number, a log as a factor, or a ratio as a percentage."""
SMALL = 0.02
"""Numbers and intervals below this are shown with four digits."""
MILLION = 1_000_000


def large(value: float) -> str:
    """A count: in full below a million, else as a power of ten.

    >>> large(149956), large(4.2e10), large(1e15)
    ('149,956', '4.2·10¹⁰', '10¹⁵')
    """
    if value < MILLION:
        return f"{value:,.0f}"
    digits, _, power = f"{value:.1e}".partition("e")
    raised = "10" + str(int(power)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return raised if digits == "1.0" else f"{digits.removesuffix('.0')}·{raised}"


def span(values: list[float]) -> str:
    """The smallest and the largest count.

    >>> span([3e6, 928]), span([5e10])
    ('928 to 3·10⁶', '5·10¹⁰')
    """
    low, high = large(min(values)), large(max(values))
    return low if low == high else f"{low} to {high}"


def p_text(p: float) -> str:
    """A p value with two digits, down to 0.001.

    >>> p_text(0.0123), p_text(0.3), p_text(1e-9)
    ('0.012', '0.30', '< 0.001')
    """
    return "< 0.001" if p < 1e-3 else f"{p:#.2g}"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign.

    >>> signed(-0.126), signed(0.5, 1)
    ('−0.13', '+0.5')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def shown(value: float, low: float, high: float, unit: Unit = "plain") -> tuple[str, str]:
    """An estimate and its interval.

    >>> shown(-0.05, -0.07, -0.03, "percent"), shown(0.3, 0.1, 0.5)
    (('−4.9%', '[−6.8%, −3.0%]'), ('+0.30', '[+0.10, +0.50]'))
    """
    digits = 2 if max(abs(low), abs(high)) >= SMALL else 4
    texts: dict[Unit, Callable[[float], str]] = {
        "percent": lambda x: f"{math.expm1(x):+.1%}",
        "plain": lambda x: signed(x, digits),
        "factor": lambda x: f"{math.exp(x):.2f}×",
        "share": lambda x: f"{x:+.1%}",
    }
    one, start, end = (texts[unit](number).replace("-", "−") for number in (value, low, high))
    return one, f"[{start}, {end}]"
