"""Families with a member for every number n of axes that the input and the output are split into.

At n = 2 they are the structures of the literature on two factors.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from einsearch_cli.structures.extent import ONE, Extent
from einsearch_cli.structures.families.family import HALF, Family, Formulas, Values, order_of
from einsearch_cli.structures.normal_form import FACTOR_LETTERS, D

TWO = Extent.fixed(2)


def _factors(count: int) -> str:
    return FACTOR_LETTERS[:count]


def _axis(n: int) -> Extent:
    return Extent.power(Fraction(1, n))


def _chain(letters: str, r: Extent) -> dict[str, Extent]:
    """Bonds between neighbouring factors."""
    return {a + b: r for a, b in pairwise(letters)}


def _kronecker(values: Values) -> dict[str, Extent]:
    """Every factor maps one input axis to one output axis."""
    n = order_of(values)
    return {side + factor: _axis(n) for side in "XY" for factor in _factors(n)}


def _btt(values: Values) -> dict[str, Extent]:
    """Factor t maps input axis t to output axis t and carries the other axes along.

    The other axes are the input axes still to be mapped and the output axes that exist already. So input axis t is
    carried by factors 1 … t and output axis t by factors t … n, as in a butterfly with n stages.
    """
    n = order_of(values)
    letters = _factors(n)
    bonds = _chain(letters, values.get("r", ONE))
    if n == 2:
        blocks = values["blocks"]
        return {"XA": D / blocks, "XAB": blocks, "YAB": blocks, "YB": D / blocks, **bonds}
    inputs = {"X" + letters[: t + 1]: _axis(n) for t in range(n)}
    outputs = {"Y" + letters[t:]: _axis(n) for t in range(n)}
    return inputs | outputs | bonds


def _an_axis_each(n: int) -> dict[str, Extent]:
    """One factor for every axis of the input and of the output."""
    return {("X" if place < n else "Y") + factor: _axis(n) for place, factor in enumerate(_factors(2 * n))}


def _cp(values: Values) -> dict[str, Extent]:
    """A factor for every axis, and one bond that all factors share."""
    n = order_of(values)
    return _an_axis_each(n) | {_factors(2 * n): values["r"]}


def _tucker(values: Values) -> dict[str, Extent]:
    """A factor for every axis, tied by bonds to a core."""
    n = order_of(values)
    return _an_axis_each(n) | {factor + FACTOR_LETTERS[2 * n]: values["r"] for factor in _factors(2 * n)}


KRONECKER = Family(
    name="kronecker",
    carriers="XA^1/2 XB^1/2 YA^1/2 YB^1/2",
    parameters={"n": TWO},
    build=_kronecker,
    formulas=Formulas("1 - 1/n", "1", "1/n"),
    source="Potapczynski et al. 2024",
    by_carriers=True,
)
TT = Family(
    name="tt",
    carriers="XA^1/2 XB^1/2 YA^1/2 YB^1/2 AB=r",
    parameters={"n": TWO, "r": None},
    build=lambda v: _kronecker(v) | _chain(_factors(order_of(v)), v["r"]),
    formulas=Formulas("1 - 1/n", "1", "1/n + min(2, n - 1)*ρ"),
    source="tensor-train: Potapczynski et al. 2024",
    by_carriers=True,
)
BTT = Family(
    name="btt",
    carriers="XA=d/blocks XAB=blocks YB=d/blocks YAB=blocks AB=r",
    parameters={"n": TWO, "r": ONE, "blocks": HALF},
    build=_btt,
    formulas=Formulas("0", "min(1, n*β + ρ)", "β + min(2, n - 1)*ρ", "β = 1/n for n > 2"),
    source="block tensor-train: Qiu et al. 2024",
    by_carriers=True,
    pairs_only=frozenset({"blocks"}),
    counts_back=True,
)
MONARCH = replace(
    BTT,
    name="monarch",
    carriers="XA=d/blocks XAB=blocks YB=d/blocks YAB=blocks",
    parameters={"n": TWO, "blocks": HALF},
    formulas=Formulas("0", "min(1, n*β)", "β", "β = 1/n for n > 2"),
    source="BTT of rank 1: Potapczynski et al. 2024",
)
KHATRI_RAO = Family(
    name="khatri-rao",
    carriers="XA^1/3 XB^1/3 XC^1/3 YA^1/3 YB^1/3 YC^1/3 ABC=r",
    parameters={"n": Extent.fixed(3), "r": Extent.fixed(4)},
    build=lambda v: _kronecker(v) | {_factors(order_of(v)): v["r"]},
    formulas=Formulas("1 - 1/n", "1", "1/n + ρ"),
    source="sum of r Kronecker products: the columns of a Khatri-Rao product added up",
    by_carriers=True,
)
CP = Family(
    name="cp",
    carriers="XA^1/2 XB^1/2 YC^1/2 YD^1/2 ABCD=r",
    parameters={"n": TWO, "r": HALF},
    build=_cp,
    formulas=Formulas("1 - 1/n", "ρ", "ρ"),
    source="canonical polyadic, W = (A ⊙ B)(C ⊙ D)ᵀ: Kolda and Bader 2009",
    factors=lambda n: 2 * n,
    by_carriers=True,
)
TUCKER = Family(
    name="tucker",
    carriers="XA^1/2 XB^1/2 YC^1/2 YD^1/2 AE=r BE=r CE=r DE=r",
    parameters={"n": TWO, "r": Extent.power(Fraction(1, 4))},
    build=_tucker,
    formulas=Formulas("max(1 + ρ, 2*n*ρ) - max(1/n + ρ, 2*n*ρ)", "n*ρ", "max(ρ, 2*n*ρ - 1)", "ρ ≤ 1/n"),
    source="Kolda and Bader 2009",
    factors=lambda n: 2 * n + 1,
    by_carriers=True,
)
