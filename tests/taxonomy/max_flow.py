"""The bottleneck of a structure by maximum flow: another route to the smallest cut."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import networkx as nx

from einsearch_cli.structures.normal_form import Carriers, text_of_carriers


def input_side(exponents: Mapping[Carriers, Fraction]) -> frozenset[str]:
    """The tensors on the input's side of the smallest cut between X and Y.

    Every index is a node whose capacity is its exponent, in whole numbers of the common denominator, so the result is
    exact. Among equal cuts, it is the one nearest to the input.
    """
    graph = incidence_graph(exponents)
    # networkx gives the cut nearest to the sink, so the flow goes from Y to X; the graph is the same both ways.
    _, (_, side) = nx.minimum_cut(graph, "Y", "X")
    return frozenset(node for node in side if isinstance(node, str))


def incidence_graph(exponents: Mapping[Carriers, Fraction]) -> nx.DiGraph[str | tuple[str, str]]:
    """Tensors and indices as nodes; an index is a pair of nodes with its capacity between them."""
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
