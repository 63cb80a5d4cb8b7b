"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable

MISSING = "–"
_YEAR_S = 365.25 * 86_400

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def loss_text(value: float | None, digits: int = 4) -> str:
    """A loss with `digits` significant digits.

    >>> loss_text(0.0301249), loss_text(None), loss_text(1.5), loss_text(1e-9)
    ('0.03012', '–', '1.500', '1.000e-09')
    """
    if value is None:
        return MISSING
    if value == 0 or 1e-5 <= abs(value) < 10**digits:
        whole = math.floor(math.log10(abs(value))) + 1 if value else 1
        return f"{value:.{max(0, digits - whole)}f}"
    return f"{value:.{digits - 1}e}"


def interval_text(low: float | None, high: float | None) -> str:
    """A closed interval; an end that is not known is left open.

    >>> interval_text(0.01, 0.02), interval_text(None, 0.02), interval_text(None, None)
    ('[0.01000, 0.02000]', '(–, 0.02000]', '–')
    """
    if low is None and high is None:
        return MISSING
    left = f"[{loss_text(low)}" if low is not None else f"({MISSING}"
    right = f"{loss_text(high)}]" if high is not None else f"{MISSING})"
    return f"{left}, {right}"


def factor_text(value: float | None) -> str:
    """A ratio with two decimals, fewer when it is large.

    >>> factor_text(1.8449), factor_text(143.2), factor_text(0.0021)
    ('1.84×', '143×', '0.0021×')
    """
    if value is None:
        return MISSING
    if value >= 100:
        return f"{value:.3g}×" if value < 1000 else f"{value:.0f}×"
    return f"{value:.2f}×" if value >= 0.1 else f"{value:.2g}×"


def flops_text(value: float | None) -> str:
    """FLOPs with two significant digits and a power of ten.

    >>> flops_text(3e11), flops_text(0), flops_text(2.57e9)
    ('3×10¹¹', '0', '2.6×10⁹')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def count_text(value: float | None) -> str:
    """A count with an SI letter.

    >>> count_text(950), count_text(131_072), count_text(1_300_000_000)
    ('950', '131k', '1.3G')
    """
    if value is None:
        return MISSING
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            scaled = value / limit
            return f"{scaled:.1f}{letter}" if scaled < 10 else f"{scaled:.0f}{letter}"
    return f"{value:.0f}"


def percent_text(value: float | None) -> str:
    """A signed share in percent, with a true minus sign.

    >>> percent_text(-0.1416), percent_text(0.0), percent_text(2.5)
    ('−14.2%', '0.0%', '+250%')
    """
    if value is None:
        return MISSING
    shown = f"{abs(100 * value):.1f}" if abs(value) < 0.9995 else f"{abs(100 * value):.0f}"
    sign = "" if float(shown) == 0 else "−" if value < 0 else "+"
    return f"{sign}{shown}%"


def duration_text(seconds: float | None) -> str:
    """A duration in its two largest units.

    >>> duration_text(42.4), duration_text(254), duration_text(7384), duration_text(4e6), duration_text(1e12)
    ('42 s', '4 min 14 s', '2 h 3 min', '46 days 7 h', '31,688 years')
    """
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 1000 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    days = whole // 86_400
    if days < 730:
        return f"{days} days {whole % 86_400 // 3600} h"
    years = seconds / _YEAR_S
    return f"{years:,.0f} years" if years < 1e9 else f"{years:.1e} years"


def time_text(seconds: float) -> str:
    """A short time with three significant digits.

    >>> time_text(0.0000231), time_text(0.12345), time_text(2.5), time_text(0.0123)
    ('23.1 µs', '123 ms', '2.50 s', '12.3 ms')
    """
    unit, size = next(
        (pair for pair in (("s", 1.0), ("ms", 1e-3)) if seconds >= 0.9995 * pair[1]),
        ("µs", 1e-6),
    )
    value = seconds / size
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"


def bytes_text(count: int) -> str:
    """Memory in MB, or kB where that is less than one.

    >>> bytes_text(67_108_864), bytes_text(520_000)
    ('67.1 MB', '520 kB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1e3:.0f} kB"


def share_text(value: float) -> str:
    """A share in percent.

    >>> share_text(0.444), share_text(1.02), share_text(0.0123)
    ('44%', '102%', '1.2%')
    """
    return f"{100 * value:.0f}%" if value >= 0.1 else f"{100 * value:.1f}%"


def widths_text(widths: Iterable[int]) -> str:
    """Different widths: all of up to three, else their number and range.

    >>> widths_text([64, 32, 64]), widths_text([12, 16, 24, 32]), widths_text([])
    ('32, 64', '4, from 12 to 32', '–')
    """
    found = sorted(set(widths))
    if len(found) > 3:
        return f"{len(found)}, from {found[0]} to {found[-1]}"
    return ", ".join(map(str, found)) or MISSING
