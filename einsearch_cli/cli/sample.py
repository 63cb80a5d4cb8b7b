"""`einsearch sample`: structures drawn from the continuous space."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from einsearch_cli.cli import console, filters
from einsearch_cli.cli.listing import Listed, Place, chosen_list_format, write_list
from einsearch_cli.cli.options import MANY, MAX_SEED, OVERWRITE, refuse_taken, whole_option
from einsearch_cli.cli.output import Format, counted

if TYPE_CHECKING:
    from einsearch_cli.taxonomy import Space
    from einsearch_cli.taxonomy.continuous_sample import Drawn

HELP = """Draw structures of N factors from the continuous space, uniform on the simplices of exponents.

Input and output exponents are uniform on their simplices, bonds on [0, 1].
Exponents are exact multiples of 1/720720. Filters are those of enumerate. Almost
every random structure shares parameters (ω > 0). To get others, ask for
--max-omega 0 and fix the index classes that have to be empty.

Examples:

  einsearch sample --factors 3 -n 10 --seed 0

  einsearch sample --factors 2 -n 10 --fix XB=0 --fix YA=0 --max-omega 0 --min-psi 1
"""


def sample_command(
    factors: int = whole_option("--factors", "-N", default=2, within=(1, MANY), help="Number of factors."),
    number: int = whole_option("--number", "-n", default=10, within=(1, 1_000_000), help="How many structures."),
    seed: int = whole_option(
        "--seed", default=0, within=(0, MAX_SEED), help="The same seed draws the same structures."
    ),
    allow_block_diagonal: bool = filters.BLOCK_DIAGONAL,
    fix: list[str] = filters.FIX,
    min_psi: str = filters.MIN_PSI,
    max_omega: str = filters.MAX_OMEGA,
    max_nu: str = filters.MAX_NU,
    family: str | None = filters.FAMILY,
    pareto: bool = filters.PARETO,
    trees: str | None = filters.TREES,
    output: Format | None = filters.LIST_FORMAT,
    out: Path | None = filters.OUT,
    overwrite: bool = OVERWRITE,
) -> None:
    from einsearch_cli.taxonomy.continuous_sample import UNIT, sample

    chosen = chosen_list_format(output, out)
    refuse_taken(out, overwrite)
    space = filters.space_of(
        UNIT, factors, min_psi, max_omega, max_nu, family, fix, trees,
        block_diagonal=allow_block_diagonal, pareto=pareto,
    )  # fmt: skip
    written = write_list((_listed(drawn, space) for drawn in sample(space, number, seed)), chosen, out)
    console.talk(counted(written, "structure"))


def _listed(drawn: Drawn, space: Space) -> Listed:
    omega, psi, nu = (Fraction(n, space.unit) for n in drawn.place)
    return Listed(drawn.structure, str(drawn.structure), Place.of(omega, psi, nu, space.tokens))
