"""Classification: all that is known of a structure without training it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from einsearch_cli.showing import Tabular
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures.carrier_notation import theta_of
from einsearch_cli.structures.families import family_of
from einsearch_cli.structures.structure import Structure
from einsearch_cli.taxonomy.costs import flops_per_token, rank_bound
from einsearch_cli.taxonomy.criteria import Bounds, reasons_against
from einsearch_cli.taxonomy.exponents import Cut, taxonomy_of

if TYPE_CHECKING:
    from einsearch_cli.sizing.generic_rank import GenericRank

RANK_FIELDS = ("rank", "rank_method", "rank_certificate")
"""Names of the fields in JSON that are null unless the rank was requested."""
_COLUMNS = (
    "structure", "family", "omega", "psi", "nu", "d_in", "d_out", "params", "flops_per_token", "dense_params",
    "dense_flops_per_token", "rank_bound", "rank", "kept", "reasons",
)  # fmt: skip
"""The fields of a row in a table, in their order."""


@dataclass(frozen=True, slots=True)
class Classification(Tabular):
    """A structure's place in the taxonomy and its cost for a d_out × d_in matrix.

    >>> from einsearch_cli.structures import parse_structure
    >>> found = classify(parse_structure("btt:r=1"), 1024, 1024)
    >>> found.family, found.params, found.rank_bound, found.kept
    ('monarch', 65536, 1024, True)
    """

    structure: Structure
    family: str
    omega: Fraction
    psi: Fraction
    nu: Fraction
    cut: Cut
    """The cut that limits the rank at these sizes."""
    d_in: int
    d_out: int
    sizes: tuple[tuple[str, int], ...]
    padding: str | None
    einsum: str
    params: int
    flops_per_token: int
    """2 × multiply-adds of the best order in which the factors meet the activation; no bias."""
    rank_bound: int
    """The smallest cut: no choice of factors has a larger rank."""
    kept: bool
    reasons: tuple[str, ...]
    """Why the structure is pruned; empty if it is kept."""
    generic_rank: GenericRank | None = None
    """The rank for almost all factors, if it was requested."""
    why_below_bound: str | None = None
    """Why the generic rank is smaller than its bound; None if it is not."""

    @property
    def rank(self) -> int | None:
        return None if self.generic_rank is None else self.generic_rank.rank

    @property
    def dense_params(self) -> int:
        return self.d_in * self.d_out

    @property
    def dense_flops_per_token(self) -> int:
        return 2 * self.d_in * self.d_out

    def records(self) -> list[dict[str, Any]]:
        """The classification as one row; exponents are exact texts, such as 1/2."""
        row = self.to_json() | {"structure": str(self.structure), "reasons": "; ".join(self.reasons)}
        return [{column: row[column] for column in _COLUMNS}]

    def to_json(self) -> dict[str, object]:
        """One JSON object per structure; exponents are exact strings."""
        theta = theta_of(self.structure)
        return {
            "structure": self.structure.to_json(),
            "theta": None if theta is None else [str(exponent) for exponent in theta],
            "family": self.family,
            "omega": str(self.omega),
            "psi": str(self.psi),
            "nu": str(self.nu),
            "d_in": self.d_in,
            "d_out": self.d_out,
            "sizes": dict(self.sizes),
            "padding": self.padding,
            "params": self.params,
            "flops_per_token": self.flops_per_token,
            "dense_params": self.dense_params,
            "dense_flops_per_token": self.dense_flops_per_token,
            "rank_bound": self.rank_bound,
            "cut": str(self.cut),
            **(dict.fromkeys(RANK_FIELDS) if self.generic_rank is None else self.generic_rank.to_json()),
            "why_below_bound": self.why_below_bound,
            "einsum": self.einsum,
            "kept": self.kept,
            "reasons": list(self.reasons),
        }


def classify(
    structure: Structure,
    d_in: int = 1024,
    d_out: int = 1024,
    bounds: Bounds = Bounds(),
    *,
    rank_seed: int | None = None,
    on_slow: Callable[[str], None] = lambda _: None,
) -> Classification:
    """Classify a structure and cost it for a d_out × d_in matrix.

    With a `rank_seed` the generic rank is computed too, with random factors of that seed; `on_slow`
    is called before a rank that takes more than a few seconds.

    Raises:
        SizeError: if the structure has no sizes for these dimensions, or a matrix too large for its rank.
    """
    taxonomy = taxonomy_of(structure)
    sized = structure.at(d_in, d_out)
    bound, cut = rank_bound(sized)
    reasons = reasons_against(taxonomy, bounds)
    rank, why = (None, None) if rank_seed is None else _rank(sized, cut, rank_seed, on_slow)
    return Classification(
        structure=structure,
        family=family_of(structure),
        omega=taxonomy.omega,
        psi=taxonomy.psi,
        nu=taxonomy.nu,
        cut=cut,
        d_in=d_in,
        d_out=d_out,
        sizes=sized.sizes,
        padding=sized.padding,
        einsum=sized.einsum,
        params=sized.params,
        flops_per_token=flops_per_token(sized),
        rank_bound=bound,
        kept=not reasons,
        reasons=reasons,
        generic_rank=rank,
        why_below_bound=why,
    )


def _rank(sized: SizedStructure, cut: Cut, seed: int, on_slow: Callable[[str], None]) -> tuple[GenericRank, str | None]:
    from einsearch_cli.sizing.generic_rank import generic_rank
    from einsearch_cli.taxonomy.rank_deficit import why_below_bound

    found = generic_rank(sized, seed, on_slow)
    return found, why_below_bound(sized, found, cut)
