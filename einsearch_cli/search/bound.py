"""A bound on an exponent, as settings give it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from einsearch_cli.settings import RuleError
from einsearch_cli.structures.extent import exact_rational


def _bound_text(value: object) -> object:
    """A bound as text: YAML reads 0.5 as a number and 1/2 as text."""
    return value if isinstance(value, bool) or not isinstance(value, int | float) else f"{Decimal(repr(value)):f}"


def _check_bound(text: str) -> str:
    if exact_rational(text) is None:
        raise RuleError("a number from 0 on is needed, such as 1/2 or 0.5", remedy="1/2")
    return text


Bound = Annotated[str, BeforeValidator(_bound_text), AfterValidator(_check_bound)]
"""A bound on an exponent, read exactly: 0.33 is 33/100."""
