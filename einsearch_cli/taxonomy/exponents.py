"""How parameters, rank and compute grow with the dimension: ω, ψ and ν.

All exponents are exact and hold for d_in = d_out = d → ∞. Indices of fixed
size do not grow and count as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import TYPE_CHECKING, Protocol, TypeVar

from einsearch_cli.structures.normal_form import Carriers, text_of_carriers
from einsearch_cli.structures.structure import Structure

if TYPE_CHECKING:
    import networkx as nx

Cost = TypeVar("Cost")
Index = TypeVar("Index", str, Carriers)
"""A carrier set, as text or as a set."""


class Network(Protocol):
    """A structure, with numbers or letters as exponents: its factors, and its carrier sets with their exponents."""

    @property
    def factors(self) -> tuple[str, ...]: ...
    @property
    def indices(self) -> tuple[tuple[str, object], ...]: ...


MAX_ENUMERATED_FACTORS = 4
"""Up to here all cuts are tried: 16 take 0.3 ms, maximum flow 1 ms and 0.3 s to import."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A split of the tensors with X on one side and Y on the other.

    The rank of the matrix is at most the product of the sizes of the indices
    with carriers on both sides.
    """

    input_side: tuple[str, ...]
    output_side: tuple[str, ...]
    indices: tuple[str, ...]
    """Carrier sets that cross the cut."""

    def __str__(self) -> str:
        crossing = ", ".join(self.indices) or "nothing"
        return f"{' '.join(self.input_side)} | {' '.join(self.output_side)} through {crossing}"


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The three numbers that place a structure (Potapczynski et al. 2024, "A Taxonomy of the Space of Einsum Linear Structures").

    >>> from einsearch_cli.structures import parse_structure
    >>> str(taxonomy_of(parse_structure("low-rank")).psi)
    '1/2'
    """

    omega: Fraction
    """Parameter sharing: FLOPs per parameter grow as d^ω. 0 spends every FLOP on its own parameter."""
    psi: Fraction
    """Rank grows as d^ψ; 1 is full rank."""
    nu: Fraction
    """FLOPs per token grow as d^(1+ν); dense is 1."""
    parameter_exponent: Fraction
    """Parameters grow as d^n."""
    cut: Cut
    """The cut that limits the rank; where several do, the one nearest to the input."""


def taxonomy_of(structure: Structure) -> Taxonomy:
    """ω, ψ and ν by their general definitions, for any number of factors.

    ψ is the smallest cut between X and Y, n the largest factor, 1 + ν the
    largest step of the best order in which the factors meet the activation.

    >>> from einsearch_cli.structures import parse_structure
    >>> wrong_order = taxonomy_of(parse_structure("(1/3|2/3|0|3/4|1/4|0|0)"))
    >>> str(wrong_order.psi), str(wrong_order.nu), str(wrong_order.omega)
    ('7/12', '1/3', '1/4')
    """
    exponents = structure.exponents
    factors = structure.factors
    n = max(sum((e for c, e in exponents.items() if f in c), Fraction(0)) for f in factors)
    largest = smallest_largest_step(exponents, factors)
    cut = minimum_cut(structure)
    psi = min(Fraction(1), cut_exponent(cut, exponents))
    return Taxonomy(omega=largest - n, psi=psi, nu=largest - 1, parameter_exponent=n, cut=cut)


def smallest_largest_step(exponents: Mapping[Carriers, Fraction], factors: tuple[str, ...]) -> Fraction:
    """The largest step of the best order in which the factors meet the activation."""

    def after(largest: Fraction, met: frozenset[str], last: str) -> Fraction:
        present = in_step(exponents, met, last, factors)
        return max(largest, sum((exponents[carriers] for carriers in present), Fraction(0)))

    return best_order(factors, Fraction(0), after)[0]


def best_order(
    factors: tuple[str, ...], nothing: Cost, after: Callable[[Cost, frozenset[str], str], Cost]
) -> tuple[Cost, tuple[str, ...]]:
    """The order in which the factors meet the activation at the smallest cost, and that cost.

    What a step costs depends on which factors were met before it, not on their
    order, so the best way to each set of factors is found from smaller sets.

    Args:
        factors: in alphabetical order, which decides between equals.
        nothing: cost before the first step.
        after: cost after one more step, from the cost before it, the factors met with it, and the last of them.
    """
    best: dict[frozenset[str], tuple[Cost, tuple[str, ...]]] = {frozenset(): (nothing, ())}
    for size in range(1, len(factors) + 1):
        for chosen in map(frozenset, combinations(factors, size)):
            ways = ((best[chosen - {last}], last) for last in chosen)
            best[chosen] = min((after(cost, chosen, last), (*order, last)) for (cost, order), last in ways)
    return best[frozenset(factors)]


def in_step(indices: Iterable[Index], met: Iterable[str], last: str, factors: Iterable[str]) -> list[Index]:
    """The indices present when the last of the factors met so far meets the activation.

    The activation or this factor holds them, and Y, this factor or a later one still needs them.
    """
    held = {"X", *met}
    waiting = {"Y", last, *factors} - (held - {last})
    return [index for index in indices if not held.isdisjoint(index) and not waiting.isdisjoint(index)]


def minimum_cut(structure: Structure) -> Cut:
    """The cut that limits the rank as d → ∞; where several do, the one nearest to the input.

    By maximum flow, or by trying all cuts where those are few: up to
    `MAX_ENUMERATED_FACTORS` that is faster, and spares importing networkx.

    >>> from einsearch_cli.structures import parse_structure
    >>> str(minimum_cut(parse_structure("low-rank")))
    'X A | B Y through AB'
    """
    exponents = structure.exponents
    if len(structure.factors) <= MAX_ENUMERATED_FACTORS:
        return min(cuts(structure), key=lambda cut: cut_exponent(cut, exponents))
    return cut_with(structure, input_side(exponents))


def cut_with(structure: Network, side: frozenset[str]) -> Cut:
    """The cut with these tensors on the input's side."""
    others = {"Y", *structure.factors} - side
    crossing = tuple(carriers for carriers, _ in structure.indices if side & set(carriers) and others & set(carriers))
    inside = tuple(f for f in structure.factors if f in side)
    return Cut(("X", *inside), (*(f for f in structure.factors if f not in side), "Y"), crossing)


def cuts(structure: Network) -> Iterator[Cut]:
    """All 2^N splits of the factors, from X alone to X with every factor."""
    for size in range(len(structure.factors) + 1):
        for inside in combinations(structure.factors, size):
            yield cut_with(structure, frozenset({"X", *inside}))


def cut_exponent(cut: Cut, exponents: Mapping[Carriers, Fraction]) -> Fraction:
    """The exponent of the product of the sizes that cross the cut."""
    return sum((exponents[frozenset(carriers)] for carriers in cut.indices), Fraction(0))


def input_side(exponents: Mapping[Carriers, Fraction]) -> frozenset[str]:
    """The tensors on the input's side of the smallest cut between X and Y.

    Every index is a node that lets as much through as its exponent says, in
    whole numbers of the common denominator, so the result is exact. Where
    several cuts are equal it is the one nearest to the input.

    >>> half = Fraction(1, 2)
    >>> sorted(input_side({frozenset("XA"): Fraction(1), frozenset("AB"): half, frozenset("YB"): Fraction(1)}))
    ['A', 'X']
    """
    import networkx as nx

    graph = incidence_graph(exponents)
    # networkx gives the cut nearest to the sink, so the flow goes from Y to X; the graph is the same both ways.
    _, (_, side) = nx.minimum_cut(graph, "Y", "X")
    return frozenset(node for node in side if isinstance(node, str))


def incidence_graph(exponents: Mapping[Carriers, Fraction]) -> nx.DiGraph[str | tuple[str, str]]:
    """Tensors and indices as nodes; an index is a pair of nodes with its capacity between them."""
    import networkx as nx

    unit = math.lcm(*(exponent.denominator for exponent in exponents.values()))
    graph: nx.DiGraph[str | tuple[str, str]] = nx.DiGraph()
    graph.add_nodes_from("XY")
    for carriers, exponent in exponents.items():
        index = text_of_carriers(carriers)
        graph.add_edge((index, "in"), (index, "out"), capacity=int(exponent * unit))
        for tensor in carriers:
            graph.add_edge(tensor, (index, "in"))
            graph.add_edge((index, "out"), tensor)
    return graph
