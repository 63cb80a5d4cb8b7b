"""A bound on an exponent, as settings give it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from einsearch_cli.errors import SpecError
from einsearch_cli.settings import RuleError
from einsearch_cli.structures.extent import exact_rational
from einsearch_cli.taxonomy import Bounds


def _bound_text(value: object) -> object:
    """A bound as text: YAML reads 0.5 as a number and 1/2 as text."""
    return value if isinstance(value, bool) or not isinstance(value, int | float) else f"{Decimal(repr(value)):f}"


def _check_bound(text: str) -> str:
    if exact_rational(text) is None:
        raise RuleError("a number from 0 on is needed, such as 1/2 or 0.5", remedy="1/2")
    return text


Bound = Annotated[str, BeforeValidator(_bound_text), AfterValidator(_check_bound)]
"""A bound on an exponent, read exactly: 0.33 is 33/100."""


def _check_psi(text: str) -> str:
    if Fraction(text) > 1:
        raise RuleError("ψ is at most 1, full rank", remedy="1")
    return text


LeastPsi = Annotated[Bound, AfterValidator(_check_psi)]
"""A bound on ψ from below."""


def nothing_passes(none: str, bounds: Bounds, enough: Mapping[str, str], *other_ways: str) -> SpecError:
    """The refusal of a space whose criteria leave nothing to train.

    Args:
        none: the structures that were tried, as the subject of a sentence.
        bounds: the criteria.
        enough: for every criterion in the way of some structure that passes the others, a value at which it passes too.
        other_ways: other remedies.
    """
    limits = f"min_psi = {bounds.min_psi}, max_omega = {bounds.max_omega}, max_nu = {bounds.max_nu}"
    ways = [*(f"{name} = {value}" for name, value in enough.items()), *other_ways]
    names = " and ".join(enough) + (" leaves" if len(enough) == 1 else " together leave")
    return SpecError(
        f"{none} passes the criteria {limits}" + (f": {names} nothing" if enough else ""),
        remedy=", or ".join(ways)
        or "relax several criteria together, such as min_psi = 1/2, max_omega = 1/4, max_nu = 1",
        keys=tuple(enough),
    )
