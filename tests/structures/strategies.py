"""Random structures for property tests."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.normal_form import carrier_classes, text_of_carriers


@st.composite
def extents(draw: st.DrawFn, max_factors: int = 3) -> dict[str, Extent]:
    """Carrier sets of a structure that is not yet in normal form, on a grid of exponents."""
    factors = draw(st.integers(1, max_factors))
    grid = draw(st.sampled_from([2, 3, 4]))
    classes = [text_of_carriers(carriers) for carriers in carrier_classes(factors)]
    chosen: dict[str, Extent] = {}
    for side in "XY":
        names = [name for name in classes if side in name]
        cuts = sorted(draw(st.lists(st.integers(0, grid), min_size=len(names) - 1, max_size=len(names) - 1)))
        parts = [b - a for a, b in zip([0, *cuts], [*cuts, grid], strict=True)]
        chosen |= {n: Extent.power(Fraction(p, grid)) for n, p in zip(names, parts, strict=True)}
    for name in classes:
        if "X" not in name and "Y" not in name:
            chosen[name] = Extent.power(Fraction(draw(st.integers(0, grid)), grid))
    return chosen


@st.composite
def shared_extents(draw: st.DrawFn, max_factors: int = 3) -> dict[str, Extent]:
    """Carrier sets with indices that X and Y share, which take a part of both sides; at least one factor is left."""
    given = draw(extents(max_factors))
    letters = sorted({tensor for carriers in given for tensor in carriers} - {"X", "Y"})
    part = Fraction(draw(st.integers(1, 3)), 4)
    sides = {c for c in given if {"X", "Y"} & set(c)}
    found = {c: Extent.power(e.exponent * (1 - part)) if c in sides else e for c, e in given.items()}
    carriers = draw(st.lists(st.lists(st.sampled_from(letters), unique=True), min_size=1, max_size=2))
    names = sorted({"XY" + "".join(sorted(chosen)) for chosen in carriers})
    return found | {name: Extent.power(part / len(names)) for name in names}
