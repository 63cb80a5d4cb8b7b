"""Everything that is known of a structure without training it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from einsearch_cli.structures.carrier_notation import theta_of
from einsearch_cli.structures.families import family_of
from einsearch_cli.structures.structure import Structure
from einsearch_cli.taxonomy.costs import flops_per_token, rank_bound
from einsearch_cli.taxonomy.criteria import Bounds, reasons_against
from einsearch_cli.taxonomy.exponents import Cut, taxonomy_of


@dataclass(frozen=True, slots=True)
class Classification:
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
    """Why it is pruned; empty if it is kept."""

    @property
    def dense_params(self) -> int:
        return self.d_in * self.d_out

    @property
    def dense_flops_per_token(self) -> int:
        return 2 * self.d_in * self.d_out

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
            "einsum": self.einsum,
            "kept": self.kept,
            "reasons": list(self.reasons),
        }


def classify(structure: Structure, d_in: int = 1024, d_out: int = 1024, bounds: Bounds = Bounds()) -> Classification:
    """Classify a structure and cost it for a d_out × d_in matrix.

    Raises:
        SizeError: if the structure has no sizes for these dimensions.
    """
    taxonomy = taxonomy_of(structure)
    sized = structure.at(d_in, d_out)
    bound, cut = rank_bound(sized)
    reasons = reasons_against(taxonomy, bounds)
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
    )
