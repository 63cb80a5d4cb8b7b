"""`--trees`: ν and ω when factors may be multiplied with each other before they meet the activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from einsearch_cli.errors import SpecError, StructureError

if TYPE_CHECKING:
    from fractions import Fraction

    from einsearch_cli.structures import Structure


def token_exponent(text: str | None) -> Fraction | None:
    """τ of the option, None without it.

    Raises:
        SpecError: if it is not a number.

    >>> print(token_exponent("0.33"))
    1/3
    """
    if text is None:
        return None
    from einsearch_cli.structures.extent import parse_rational

    try:
        return parse_rational(text, "--trees")
    except StructureError as error:
        raise SpecError(
            f"--trees {text[:40]!r} is not the τ of calls of d^τ tokens: it must be a number from 0 on",
            remedy="write --trees 1, or a fraction such as --trees 1/2",
        ) from error


def trees_object(structure: Structure, tau: Fraction | None) -> dict[str, Any]:
    """The entry of the result, empty without the option."""
    if tau is None:
        return {}
    from einsearch_cli.taxonomy.trees import tree_taxonomy

    return {"trees": tree_taxonomy(structure, tau).to_json()}


def trees_lines(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of the card."""
    if "trees" not in item:
        return []
    found = item["trees"]
    calls = f"for calls of d^{found['token_exponent']} tokens, by the tree {found['tree']}"
    below = "below 0: W is cheaper to apply than its factors are to read" if found["omega"].startswith("-") else ""
    return [("", ""), ("ν  of trees", f"{found['nu']:<6} {calls}"), ("ω  of trees", f"{found['omega']:<6} {below}")]
