"""The bottleneck of a structure as a minimum cut, by maximum flow.

networkx takes 0.3 s to import, so only the functions that need it do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from einsearch_cli.structures.normal_form import Carriers, text_of_carriers

if TYPE_CHECKING:
    import networkx as nx


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
