"""HTML that is escaped by construction: plain text cannot reach a page unescaped."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable


class Html(str):
    """Text that is already HTML; anything else is escaped when it becomes part of an element."""

    __slots__ = ()

    def __html__(self) -> str:
        """The text itself: Jinja calls this and does not escape it again."""
        return str(self)


NOTHING = Html("")


def escaped(child: object) -> Html:
    """HTML for any text; what is HTML already passes through.

    >>> escaped("<b> & 'c'")
    '&lt;b&gt; &amp; &#x27;c&#x27;'
    >>> escaped(Html("<b>"))
    '<b>'
    """
    if hasattr(child, "__html__"):
        return Html(child.__html__())
    return Html(html.escape(_printable(str(child)), quote=True))


def _printable(text: str) -> str:
    """Escape control characters and lone surrogates, which no HTML file may contain."""
    kept = (
        char if char in "\n\t" or ((char.isprintable() or char.isspace()) and ord(char) > 31) else ascii(char)[1:-1]
        for char in text
    )
    return "".join(kept)


def joined(parts: Iterable[str]) -> Html:
    """Concatenation; parts that are not `Html` are escaped."""
    return Html("".join(escaped(part) for part in parts))


def element(tag: str, *children: str | float | int, **attributes: str | float | None) -> Html:
    """One element; `class_` and `data_tip` become `class` and `data-tip`, None is left out.

    >>> element("td", "a < b", class_="number", title=None)
    '<td class="number">a &lt; b</td>'
    """
    opening = tag + "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(_value(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = "".join(escaped(child) for child in children)
    return Html(f"<{opening}>" if tag in _VOID else f"<{opening}>{inside}</{tag}>")


_VOID = frozenset({"meta", "br", "hr", "col"})


def _value(value: str | float) -> str:
    """Coordinates are rounded to a tenth of a pixel to keep the file small."""
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0") if math.isfinite(value) else "0"
    return str(value)
