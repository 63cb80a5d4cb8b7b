"""Families with a member for every number n of axes that the input and the output are split into.

At n = 2 they are the structures of the literature on two factors.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from einsearch_cli.structures.extent import ONE, Extent
from einsearch_cli.structures.families.family import HALF, Family, Formulas, Values, order_of
from einsearch_cli.structures.normal_form import FACTOR_LETTERS, D
from einsearch_cli.structures.structure import Structure

TWO = Extent.fixed(2)


def _factors(count: int) -> str:
    return FACTOR_LETTERS[:count]


def _axis(n: int) -> Extent:
    return Extent.power(Fraction(1, n))


def _chain(letters: str, r: Extent) -> dict[str, Extent]:
    """A bond between every two neighbours."""
    return {a + b: r for a, b in pairwise(letters)}


def _kronecker(values: Values) -> dict[str, Extent]:
    """Every factor maps one input axis to one output axis."""
    n = order_of(values)
    return {side + factor: _axis(n) for side in "XY" for factor in _factors(n)}


def _tensor_train(values: Values) -> dict[str, Extent]:
    return _kronecker(values) | _chain(_factors(order_of(values)), values["r"])


def _khatri_rao(values: Values) -> dict[str, Extent]:
    """A sum of r Kronecker products: one bond in all factors."""
    return _kronecker(values) | {_factors(order_of(values)): values["r"]}


def _btt(values: Values) -> dict[str, Extent]:
    """Factor t maps input axis t to output axis t; the other axes ride along.

    Those are the input axes that are still to be mapped and the output axes
    that are there already, so that input axis t is carried by factors 1 … t and
    output axis t by factors t … n, as in a butterfly with n stages.
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


def _cp(values: Values) -> dict[str, Extent]:
    """One factor for every axis of the input and of the output, one bond in all of them."""
    n = order_of(values)
    letters = _factors(2 * n)
    axes = {("X" if position < n else "Y") + factor: _axis(n) for position, factor in enumerate(letters)}
    return axes | {letters: values["r"]}


def _tucker(values: Values) -> dict[str, Extent]:
    """One factor for every axis of the input and of the output, tied by bonds to a core."""
    n = order_of(values)
    letters, core = _factors(2 * n), FACTOR_LETTERS[2 * n]
    axes = {("X" if position < n else "Y") + factor: _axis(n) for position, factor in enumerate(letters)}
    return axes | {factor + core: values["r"] for factor in letters}


def _bond(structure: Structure) -> Extent:
    """The extent of the first bond, 1 if there is none."""
    return next((extent for carriers, extent in structure.indices if not set(carriers) & {"X", "Y"}), ONE)


def _order(factors: Iterable[str], per_axis: int = 1, core: int = 0) -> Extent:
    return Extent.fixed(max(1, (len(tuple(factors)) - core) // per_axis))


def _blocks(structure: Structure) -> dict[str, Extent]:
    """The number of blocks, which only a structure of two factors has."""
    return {"blocks": structure.extent("XAB") if len(structure.factors) == 2 else HALF}


KRONECKER = Family(
    name="kronecker",
    carriers="XA^1/2 XB^1/2 YA^1/2 YB^1/2",
    parameters={"n": TWO},
    build=_kronecker,
    guess=lambda s: {"n": _order(s.factors)},
    formulas=Formulas("1 - 1/n", "1", "1/n"),
    source="Potapczynski et al. 2024",
    factors=lambda n: n,
    by_carriers=True,
)
TT = Family(
    name="tt",
    carriers="XA^1/2 XB^1/2 YA^1/2 YB^1/2 AB=r",
    parameters={"n": TWO, "r": None},
    build=_tensor_train,
    guess=lambda s: {"n": _order(s.factors), "r": _bond(s)},
    formulas=Formulas("1 - 1/n", "1", "1/n + min(2, n - 1)*ρ"),
    source="tensor-train: Potapczynski et al. 2024",
    factors=lambda n: n,
    by_carriers=True,
)
MONARCH = Family(
    name="monarch",
    carriers="XA=d/blocks XAB=blocks YB=d/blocks YAB=blocks",
    parameters={"n": TWO, "blocks": HALF},
    build=_btt,
    guess=lambda s: {"n": _order(s.factors), **_blocks(s)},
    formulas=Formulas("0", "min(1, n*β)", "β", "β = 1/n for n > 2"),
    source="BTT of rank 1: Potapczynski et al. 2024",
    factors=lambda n: n,
    by_carriers=True,
    pairs_only=frozenset({"blocks"}),
    counts_back=True,
)
BTT = Family(
    name="btt",
    carriers="XA=d/blocks XAB=blocks YB=d/blocks YAB=blocks AB=r",
    parameters={"n": TWO, "r": ONE, "blocks": HALF},
    build=_btt,
    guess=lambda s: {"n": _order(s.factors), "r": _bond(s), **_blocks(s)},
    formulas=Formulas("0", "min(1, n*β + ρ)", "β + min(2, n - 1)*ρ", "β = 1/n for n > 2"),
    source="block tensor-train: Qiu et al. 2024",
    factors=lambda n: n,
    by_carriers=True,
    pairs_only=frozenset({"blocks"}),
    counts_back=True,
)
KHATRI_RAO = Family(
    name="khatri-rao",
    carriers="XA^1/3 XB^1/3 XC^1/3 YA^1/3 YB^1/3 YC^1/3 ABC=r",
    parameters={"n": Extent.fixed(3), "r": Extent.fixed(4)},
    build=_khatri_rao,
    guess=lambda s: {"n": _order(s.factors), "r": _bond(s)},
    formulas=Formulas("1 - 1/n", "1", "1/n + ρ"),
    source="sum of r Kronecker products: the columns of a Khatri-Rao product added up",
    factors=lambda n: n,
    by_carriers=True,
)
CP = Family(
    name="cp",
    carriers="XA^1/2 XB^1/2 YC^1/2 YD^1/2 ABCD=r",
    parameters={"n": TWO, "r": HALF},
    build=_cp,
    guess=lambda s: {"n": _order(s.factors, 2), "r": _bond(s)},
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
    guess=lambda s: {"n": _order(s.factors, 2, core=1), "r": _bond(s)},
    formulas=Formulas("max(1 + ρ, 2*n*ρ) - max(1/n + ρ, 2*n*ρ)", "n*ρ", "max(ρ, 2*n*ρ - 1)", "ρ ≤ 1/n"),
    source="Kolda and Bader 2009",
    factors=lambda n: 2 * n + 1,
    by_carriers=True,
)
