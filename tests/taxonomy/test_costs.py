from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import sympy
from hypothesis import given, strategies as st

from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import Structure, parse_structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.taxonomy import (
    classify,
    contraction_orders,
    flops_per_token,
    formula_texts,
    meeting_order,
    rank_bound,
)
from tests.structures.strategies import extents


def executed_multiply_adds(sized: SizedStructure, order: tuple[str, ...]) -> int:
    """Run the factors over one token with explicit index sets, counting the elements of every step."""
    names = {"X": set(sized.carriers_of("X"))} | {f: set(sized.carriers_of(f)) for f in sized.factors}
    activation = names["X"]
    total = 0
    for position, factor in enumerate(order):
        touched = activation | names[factor]
        total += math.prod(sized.size(c) for c in touched)
        needed = set(sized.carriers_of("Y")).union(*(names[f] for f in order[position + 1 :]))
        activation = touched & needed
    assert activation == set(sized.carriers_of("Y"))
    return total


@given(extents(), st.integers(1, 300), st.integers(1, 300))
def test_flops_are_those_of_the_best_executed_order(given_extents: dict[str, Extent], d_in: int, d_out: int) -> None:
    sized = Structure.of(given_extents).at(d_in, d_out)
    counts = {order: 2 * executed_multiply_adds(sized, order) for order in permutations(sized.factors)}
    assert flops_per_token(sized) == min(counts.values())
    assert meeting_order(sized) == min(counts, key=lambda order: (counts[order], order))


@given(extents())
def test_pre_merge_ends_in_a_dense_product(given_extents: dict[str, Extent]) -> None:
    sized = Structure.of(given_extents).at(36, 24)
    trees = {order.tree: order for order in contraction_orders(sized, tokens=7)}
    assert len(trees) == {1: 1, 2: 3, 3: 15}[len(sized.factors)]
    if len(sized.factors) == 2:
        merged = trees["x(AB)"]
        everything = math.prod(size for _, size in sized.sizes)
        assert (merged.flops_per_call, merged.flops_per_token) == (2 * everything, 2 * 36 * 24)
        assert merged.flops(7) == 2 * everything + 7 * 2 * 36 * 24


def test_orders_are_sorted_by_their_cost_at_the_number_of_tokens() -> None:
    sized = parse_structure("btt:r=16").at(256, 256)
    for tokens in (1, 10_000):
        costs = [order.flops(tokens) for order in contraction_orders(sized, tokens)]
        assert costs == sorted(costs)
    assert contraction_orders(sized, 1)[0].tree == "(xA)B"
    # 16 bonds of 16 x 16 blocks: per token the structure costs twice as much as dense.
    assert contraction_orders(sized, 1_000_000)[0].tree == "x(AB)"


def test_beyond_four_factors_only_the_best_order_is_listed() -> None:
    sized = parse_structure("kronecker:n=5").at(4**5, 4**5)
    assert [order.flops_per_token for order in contraction_orders(sized, 1)] == [flops_per_token(sized)]
    assert flops_per_token(sized) == 2 * 5 * 4**6


@pytest.mark.parametrize("text", ["dense", "low-rank:r=8", "kronecker", "monarch", "btt:r=2", "block-dense:r=64"])
@pytest.mark.parametrize("d", [256, 4096])
def test_formulas_give_the_numbers(text: str, d: int) -> None:
    structure = parse_structure(text)
    found = classify(structure, d, d)
    symbol = sympy.Symbol("d", positive=True)
    params, flops = (sympy.sympify(text, locals={"d": symbol}) for text in formula_texts(structure))
    assert (params.subs(symbol, d), flops.subs(symbol, d)) == (found.params, found.flops_per_token)


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("low-rank:r=64", 64 * (768 + 1536)),
        ("block-shuffle:blocks=4", 768 * (768 + 1536) // 4),
        ("block-dense:blocks=4,r=256", 256 * (1536 + 768 // 4)),
        ("dense", 768 * 1536),
    ],
)
def test_published_parameter_counts(text: str, params: int) -> None:
    """Wei et al. 2024: R(N+M), min(N,M)(N+M)/B, R(M+N/B) for N inputs and M outputs."""
    assert classify(parse_structure(text), 768, 1536).params == params


@given(extents(max_factors=2), st.integers(0, 2**31))
def test_no_matrix_has_a_rank_above_the_bound(given_extents: dict[str, Extent], seed: int) -> None:
    sized = Structure.of(given_extents).at(16, 16)
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=[sized.size(c) for c in sized.carriers_of(f)]) for f in sized.factors]
    x_shape = [sized.size(c) for c in sized.features("X")]
    columns = np.einsum(sized.einsum, np.eye(16).reshape(16, *x_shape), *factors)
    bound, cut = rank_bound(sized)
    assert np.linalg.matrix_rank(columns.reshape(16, 16)) <= bound
    assert bound == min(16, math.prod(sized.size(c) for c in cut.indices))


def test_a_narrow_output_is_the_cut_next_to_it() -> None:
    bound, cut = rank_bound(parse_structure("dense").at(64, 16))
    assert (bound, str(cut)) == (16, "X A | Y through YA")
