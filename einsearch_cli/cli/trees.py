"""`--trees`: ν and ω when factors may be multiplied with each other before they meet the activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from einsearch_cli.structures import Structure


def trees_object(structure: Structure, tau: str | None) -> dict[str, Any]:
    """The entry of the result, empty without the option.

    Raises:
        StructureError: if `tau` is not a number.
    """
    if tau is None:
        return {}
    from einsearch_cli.structures.extent import parse_rational
    from einsearch_cli.taxonomy.trees import tree_taxonomy

    return {"trees": tree_taxonomy(structure, parse_rational(tau, "--trees")).to_json()}


def trees_lines(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of the card."""
    if "trees" not in item:
        return []
    found = item["trees"]
    calls = f"for calls of d^{found['token_exponent']} tokens, by the tree {found['tree']}"
    below = "below 0: W is cheaper to apply than its factors are to read" if found["omega"].startswith("-") else ""
    return [("", ""), ("ν  of trees", f"{found['nu']:<6} {calls}"), ("ω  of trees", f"{found['omega']:<6} {below}")]
