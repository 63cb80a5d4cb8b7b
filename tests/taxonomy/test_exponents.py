from __future__ import annotations

from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
from hypothesis import given

from einsearch_cli.structures import Structure, parse_structure, theta_of
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.grid import Grid
from einsearch_cli.structures.grid_counts import raw_count
from einsearch_cli.structures.index_classes import IndexClasses
from einsearch_cli.taxonomy import classify, taxonomy_of
from einsearch_cli.taxonomy.linear_forms import taxonomy_of_points
from tests.structures.strategies import extents

PUBLISHED = [
    "1/2|0|1/2|0|1/2|1/2|0",
    "1/3|0|2/3|0|2/3|1/3|0",
    "1/4|0|3/4|0|3/4|1/4|0",
    "2/3|0|1/3|0|1/3|2/3|0",
    "3/4|0|1/4|0|1/4|3/4|0",
    "2/3|0|1/3|0|2/3|1/3|0",
    "1/3|0|2/3|0|1/3|2/3|0",
    "3/4|0|1/4|0|3/4|1/4|0",
    "1/4|0|3/4|0|1/4|3/4|0",
    "1/2|0|1/2|0|1/2|1/2|1/4",
    "1/2|0|1/2|0|1/2|1/2|1/3",
    "1/3|0|2/3|0|2/3|1/3|1/4",
    "2/3|0|1/3|0|1/3|2/3|1/4",
    "2/3|0|1/3|0|2/3|1/3|1/4",
    "1/3|0|2/3|0|1/3|2/3|1/4",
    "1/2|1/2|0|1/2|1/2|0|0",
    "1/3|2/3|0|1/3|2/3|0|0",
    "1/2|1/2|0|1/2|1/2|0|1/4",
    "1/3|2/3|0|1/3|2/3|0|1/4",
    "1|0|0|0|1|0|3/4",
    "1|0|0|0|1|0|1/2",
    "1/2|1/4|1/4|1/4|1/2|1/4|0",
    "1/2|1/4|1/4|1/4|1/2|1/4|1/4",
]
"""The 23 vectors trained by Potapczynski et al. 2024."""


def short_formulas(theta: tuple[Fraction, ...]) -> tuple[Fraction, Fraction, Fraction]:
    """ω, ψ, ν of Potapczynski et al. 2024: two factors in canonical order, not degenerate."""
    alpha, beta, _, delta, epsilon, _, rho = theta
    omega = min(alpha + delta, beta + epsilon) - min(alpha, epsilon)
    return omega, 1 + min(Fraction(0), 1 + rho - alpha - epsilon), 1 + rho - min(alpha, epsilon)


def applies(theta: tuple[Fraction, ...]) -> bool:
    alpha, beta, _, delta, epsilon, _, rho = theta
    return min(alpha, epsilon) >= max(min(beta, delta), rho)


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_vectors_are_classified_as_the_formulas_say(text: str) -> None:
    assert len(PUBLISHED) == 23
    theta = tuple(Fraction(part) for part in text.split("|"))
    assert applies(theta)
    found = classify(parse_structure(text))
    assert (found.omega, found.psi, found.nu) == short_formulas(theta)
    assert theta_of(found.structure) == theta, "published vectors are in canonical order already"


def test_general_definitions_agree_with_the_short_formulas_on_all_1674_grid_points() -> None:
    checked = 0
    for grid in (2, 3, 4, 6):
        points = Grid(IndexClasses(2), grid).points(np.arange(raw_count(2, grid)))
        found = np.stack(taxonomy_of_points(points, IndexClasses(2), grid), axis=1)
        for row, numbers in zip(points.tolist(), found.tolist(), strict=True):
            theta = tuple(Fraction(n, grid) for n in row)
            if applies(theta):
                assert tuple(Fraction(n, grid) for n in numbers) == short_formulas(theta), theta
                checked += 1
    assert checked == 1674


def test_the_best_order_and_cut_are_taken() -> None:
    found = taxonomy_of(parse_structure("(1/3|2/3|0|3/4|1/4|0|0)"))
    assert (found.psi, found.nu, found.omega) == (Fraction(7, 12), Fraction(1, 3), Fraction(1, 4))


@pytest.mark.parametrize(
    ("text", "omega", "psi", "nu"),
    [
        ("dense", 0, 1, 1),
        ("low-rank", 0, "1/2", "1/2"),
        ("kronecker", "1/2", 1, "1/2"),
        ("monarch", 0, 1, "1/2"),
        ("btt:r=d^1/4", 0, 1, "3/4"),
        ("monarch:blocks=4", 0, 0, 0),
        ("block-shuffle:blocks=4", 0, 1, 1),
        ("low-rank:r=64", 0, 0, 0),
    ],
)
def test_known_families(text: str, omega: object, psi: object, nu: object) -> None:
    found = taxonomy_of(parse_structure(text))
    assert (found.omega, found.psi, found.nu) == tuple(Fraction(str(value)) for value in (omega, psi, nu))


def max_flow(structure: Structure) -> Fraction:
    """Another route to ψ: maximum flow in the incidence graph, each index a node of limited capacity."""
    scale = 12 * 12
    graph = nx.DiGraph()
    graph.add_nodes_from("XY")
    for carriers, exponent in structure.exponents.items():
        name = "".join(sorted(carriers))
        graph.add_edge(("in", name), ("out", name), capacity=int(exponent * scale))
        for tensor in carriers:
            graph.add_edge(tensor, ("in", name))
            graph.add_edge(("out", name), tensor)
    return min(Fraction(1), Fraction(nx.maximum_flow_value(graph, "X", "Y"), scale))


@given(extents())
def test_psi_is_the_maximum_flow_and_omega_is_never_negative(given_extents: dict[str, Extent]) -> None:
    structure = Structure.of(given_extents)
    taxonomy = taxonomy_of(structure)
    assert taxonomy.psi == max_flow(structure)
    assert taxonomy.omega >= 0
    crossing = sum((structure.extent(c).exponent for c in taxonomy.cut.indices), Fraction(0))
    assert min(Fraction(1), crossing) == taxonomy.psi


@given(extents())
def test_the_transpose_has_the_same_rank_exponent_and_parameters(given_extents: dict[str, Extent]) -> None:
    structure = Structure.of(given_extents)
    here, there = taxonomy_of(structure), taxonomy_of(structure.transposed())
    assert (here.psi, here.parameter_exponent) == (there.psi, there.parameter_exponent)
