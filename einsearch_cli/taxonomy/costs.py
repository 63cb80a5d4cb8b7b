"""Parameters and FLOPs at concrete sizes, and the contraction orders that they depend on.

FLOPs are 2 × multiply-adds. Bias and gains are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Set
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures.extent import ONE
from einsearch_cli.structures.moe import LayerSpec, MixtureOfExperts, expert_of
from einsearch_cli.structures.structure import Structure
from einsearch_cli.taxonomy.exponents import Cut, best_order, cuts, in_step

MAX_TREE_FACTORS = 4
"""The most factors whose contraction trees are listed: 5 factors have 945 of them."""

Tree = str | tuple["Tree", "Tree"]


@dataclass(frozen=True, slots=True)
class ContractionOrder:
    """One binary tree over the activation x and the factors, with its cost."""

    tree: str
    """The order as text, such as `(xA)B`; `x(AB)` multiplies the factors first (pre-merge)."""
    flops_per_token: int
    """FLOPs of the steps that hold the activation."""
    flops_per_call: int
    """FLOPs of the steps between factors, spent once per call for any number of tokens."""

    def flops(self, tokens: int) -> int:
        return self.flops_per_call + tokens * self.flops_per_token


def contraction_orders(sized: SizedStructure, tokens: int) -> tuple[ContractionOrder, ...]:
    """All binary contraction trees, cheapest at this number of tokens first.

    For more than `MAX_TREE_FACTORS` factors, only the best of the orders in which the factors meet the activation one
    after another.

    >>> from einsearch_cli.structures import parse_structure
    >>> [o.tree for o in contraction_orders(parse_structure("monarch").at(64, 64), tokens=1)]
    ['(xA)B', '(xB)A', 'x(AB)']
    """
    names = ("x", *sized.factors)
    few = len(sized.factors) <= MAX_TREE_FACTORS
    trees = list(_trees(names)) if few else [_sequence(meeting_order(sized))]
    orders = [_cost(tree, sized) for tree in trees]
    return tuple(sorted(orders, key=lambda order: (order.flops(tokens), order.tree)))


def _sequence(order: tuple[str, ...]) -> Tree:
    tree: Tree = "x"
    for factor in order:
        tree = (tree, factor)
    return tree


@cache
def _trees(names: tuple[str, ...]) -> tuple[Tree, ...]:
    """All unordered binary trees with these leaves."""
    if len(names) == 1:
        return (names[0],)
    first, rest = names[0], names[1:]
    found: list[Tree] = []
    for choice in range(2 ** len(rest) - 1):
        left = (first, *(name for i, name in enumerate(rest) if choice >> i & 1))
        right = tuple(name for name in names if name not in left)
        found += [(a, b) for a in _trees(left) for b in _trees(right)]
    return tuple(found)


def _leaves(tree: Tree) -> frozenset[str]:
    return frozenset({tree}) if isinstance(tree, str) else _leaves(tree[0]) | _leaves(tree[1])


def _text(tree: Tree) -> str:
    if isinstance(tree, str):
        return tree
    return "".join(part if isinstance(part, str) else f"({_text(part)})" for part in tree)


def _cost(tree: Tree, sized: SizedStructure) -> ContractionOrder:
    """The cost of a tree; a step costs the product of all sizes present in its two operands."""
    per_token = per_call = 0
    tensors = {"x": "X"}
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            continue
        stack += node
        sides = [{tensors.get(leaf, leaf) for leaf in _leaves(part)} for part in node]
        present = math.prod(size for c, size in sized.sizes if any(is_carried(set(c), s) for s in sides))
        if "x" in _leaves(node):
            per_token += 2 * present
        else:
            per_call += 2 * present
    return ContractionOrder(_text(tree), per_token, per_call)


def is_carried(carriers: Set[str], side: Set[str]) -> bool:
    """Whether the product of the tensors in `side` has the index: one of them carries it, and a tensor outside does."""
    return not carriers.isdisjoint(side) and not carriers <= side


def meeting_order(sized: SizedStructure) -> tuple[str, ...]:
    """The order in which the factors meet the activation with the fewest FLOPs at these sizes."""
    return best_order(sized.factors, 0, lambda macs, met, last: macs + _step(sized, met, last))[1]


def _step(sized: SizedStructure, met: frozenset[str], last: str) -> int:
    """The product of all sizes present when the last of the factors met so far meets the activation."""
    sizes = dict(sized.sizes)
    return math.prod(sizes[carriers] for carriers in in_step(sizes, met, last, sized.factors))


def flops_per_token(sized: SizedStructure) -> int:
    """FLOPs of the best order in which the factors meet the activation.

    >>> from einsearch_cli.structures import parse_structure
    >>> flops_per_token(parse_structure("monarch").at(1024, 1024)) == 2 * 2 * 32**3
    True
    """
    return _cost(_sequence(meeting_order(sized)), sized).flops_per_token


def first_step_flops(sized: SizedStructure) -> int:
    """FLOPs per token of the first step of that order; the gradient of the input costs the same.

    >>> from einsearch_cli.structures import parse_structure
    >>> first_step_flops(parse_structure("low-rank:r=4").at(64, 16))
    512
    """
    first, *_ = meeting_order(sized)
    return 2 * _step(sized, frozenset({first}), first)


def rank_bound(sized: SizedStructure) -> tuple[int, Cut]:
    """The smallest cut at these sizes, at most the unpadded dimensions."""

    def product(cut: Cut) -> int:
        return math.prod(sized.size(carriers) for carriers in cut.indices)

    cut = min(cuts(sized.structure), key=product)
    return min(product(cut), sized.d_in, sized.d_out), cut


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Parameters and FLOPs of one layer; bias and gains are left out."""

    params: int
    """All parameters: those of every expert, and the router."""
    active_params: int
    """Parameters that a token uses: the router and the experts that it is sent to."""
    flops_per_token: int
    """2 × multiply-adds of a forward pass: the router and the experts that a token is sent to."""


def layer_costs(layer: LayerSpec, d_in: int, d_out: int) -> LayerCosts:
    """Costs for a d_out × d_in matrix.

    Raises:
        SizeError: if the structure has no sizes for these dimensions.

    >>> from einsearch_cli.structures import parse_layer
    >>> layer_costs(parse_layer("btt-moe:experts=16,top=2"), 1024, 1024)
    LayerCosts(params=1064960, active_params=147456, flops_per_token=294912)
    """
    sized = expert_of(layer).at(d_in, d_out)
    flops = flops_per_token(sized)
    if not isinstance(layer, MixtureOfExperts):
        return LayerCosts(sized.params, sized.params, flops)
    router = d_in * layer.experts
    return LayerCosts(
        params=router + layer.experts * sized.params,
        active_params=router + layer.top * sized.params,
        flops_per_token=2 * router + layer.top * flops,
    )


Terms = dict[Fraction, Fraction]
"""A sum of powers of d: the coefficient of each exponent."""


def formula_texts(structure: Structure) -> tuple[str, str]:
    """The parameters and the FLOPs per token of a d × d layer, as sympy writes formulas in d.

    The factors meet the activation in the order of their names. sympy itself is not loaded, which would take 0.5 s.

    >>> from einsearch_cli.structures import parse_structure
    >>> formula_texts(parse_structure("monarch"))
    ('2*d**(3/2)', '4*d**(3/2)')
    """
    order, indices = structure.factors, dict(structure.indices)
    params = _sum(structure, [[c for c in indices if factor in c] for factor in order])
    macs = _sum(structure, [in_step(indices, order[: place + 1], last, order) for place, last in enumerate(order)])
    return _text_of(params), _text_of({exponent: 2 * coefficient for exponent, coefficient in macs.items()})


def readable_formula(text: str) -> str:
    """A formula as people write it.

    >>> readable_formula("8*d**(3/2) + d**2/2 + sqrt(d)")
    '8·d^(3/2) + d^2/2 + d^(1/2)'
    """
    return text.replace("**", "^").replace("*", "·").replace("sqrt(d)", "d^(1/2)")


def _sum(structure: Structure, products: Iterable[Iterable[str]]) -> Terms:
    """The sum of products of the extents of these carrier sets."""
    terms: Terms = {}
    for carriers in products:
        product = math.prod(map(structure.extent, carriers), start=ONE)
        terms[product.exponent] = terms.get(product.exponent, Fraction(0)) + product.coefficient
    return terms


def _text_of(terms: Terms) -> str:
    """Terms in sympy's order: roots before whole powers, smaller roots first, then falling exponents."""
    ordered = sorted(terms.items(), key=lambda term: (-term[0].denominator, -term[0]))
    return " + ".join(_term_text(coefficient, exponent) for exponent, coefficient in ordered)


def _term_text(coefficient: Fraction, exponent: Fraction) -> str:
    if exponent == 0:
        return str(coefficient)
    named = {Fraction(1): "d", Fraction(1, 2): "sqrt(d)"}
    power = named.get(exponent) or (f"d**{exponent}" if exponent.denominator == 1 else f"d**({exponent})")
    times = "" if coefficient.numerator == 1 else f"{coefficient.numerator}*"
    return f"{times}{power}" + ("" if coefficient.denominator == 1 else f"/{coefficient.denominator}")
