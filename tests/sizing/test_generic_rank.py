from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from benchmarks.rank import random_network
from einsearch_cli.errors import SizeError
from einsearch_cli.sizing.cut_bounds import clipped, cut_bound, path_bound, with_smallest_bonds
from einsearch_cli.sizing.generic_rank import (
    BY_PATHS,
    EXACT,
    NUMERIC,
    QUICK_ENTRIES,
    generic_rank,
    numeric_rank,
)
from einsearch_cli.sizing.modular import PRIMES, rank_mod
from einsearch_cli.sizing.random_matrix import random_factors, random_matrix
from einsearch_cli.structures import parse_structure
from tests.structures.networks import LETTERS, spec_of

PRIME = PRIMES[0]
networks = st.builds(random_network, st.randoms(use_true_random=False), st.integers(1, 3))


def rank_of(sizes: dict[str, int], seed: int = 0) -> int:
    return rank_mod(random_matrix(sizes, PRIME, seed), PRIME)


def matrix_by_einsum(sizes: dict[str, int], seed: int) -> np.ndarray:
    """The obvious route: one einsum over all factors in Python's own integers."""
    letter = dict(zip(sizes, LETTERS, strict=False))
    factors = random_factors(sizes, PRIME, seed)
    inputs = ",".join("".join(letter[c] for c in axes) for axes, _ in factors.values())
    output = "".join(letter[c] for side in "YX" for c in sizes if side in c)
    whole = np.einsum(f"{inputs}->{output}", *(array.astype(object) for _, array in factors.values()))
    return (whole % PRIME).reshape(math.prod(size for c, size in sizes.items() if "Y" in c), -1)


@given(networks, st.integers(0, 100))
@settings(deadline=None, max_examples=50)
def test_the_matrix_is_the_einsum_of_its_factors(sizes: dict[str, int], seed: int) -> None:
    assert (random_matrix(sizes, PRIME, seed) == matrix_by_einsum(sizes, seed)).all()


@given(networks, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_names_orders_and_transposing_do_not_matter(sizes: dict[str, int], source: random.Random) -> None:
    rank = rank_of(sizes)
    factors = sorted(set("".join(sizes)) - {"X", "Y"})
    names = str.maketrans("".join(factors) + "XY", "".join(source.sample("ABCDEFG", len(factors))) + "YX")
    items = source.sample(sorted(sizes.items()), len(sizes))
    renamed = {"".join(source.sample(c.translate(names), len(c))): size for c, size in items}
    assert rank_of(renamed, seed=1) == rank


@given(networks)
@settings(deadline=None)
def test_bounds_hold_on_both_sides_and_smaller_sizes_keep_the_rank(sizes: dict[str, int]) -> None:
    rank = rank_of(sizes)
    assert path_bound(sizes) <= rank <= cut_bound(sizes)
    small = clipped(sizes)
    assert rank_of(small) == rank
    assert cut_bound(small) == cut_bound(sizes)
    slim = with_smallest_bonds(sizes, cut_bound(sizes))
    assert cut_bound(slim) == cut_bound(sizes)
    assert rank_of(slim) <= rank


@given(networks)
@settings(deadline=None)
def test_sizes_of_an_equation_are_read_exactly_and_the_normal_form_keeps_the_rank(sizes: dict[str, int]) -> None:
    spec = spec_of(sizes)
    assert spec.d_in is not None
    assert spec.d_out is not None
    sized = spec.structure.at(spec.d_in, spec.d_out)
    assert sized.padding is None
    if len(sized.factors) == len(set("".join(sizes)) - {"X", "Y"}):
        assert sorted(size for _, size in sized.sizes) == sorted(sizes.values())
    found = generic_rank(sized)
    assert found.rank == rank_of(sizes)
    assert found.bound == cut_bound(sizes)


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.sampled_from([2, 3]))
@settings(deadline=None)
def test_the_bound_is_reached_where_all_sizes_are_powers_of_one_number(source, factors: int, base: int) -> None:
    sizes = {c: base ** source.randint(0, 1 if base == 3 else 2) for c in random_network(source, factors, 64)}
    assert path_bound(sizes) == cut_bound(sizes)
    if math.prod(sizes.values()) < 10**5:
        assert rank_of(sizes) == cut_bound(sizes)


def test_an_index_in_input_and_output_makes_blocks() -> None:
    blocks = {"XYA": 3, "XA": 4, "YA": 2}
    matrix = random_matrix(blocks, PRIME, seed=0)
    assert matrix.shape == (6, 12)
    assert np.count_nonzero(matrix) == 3 * 4 * 2
    assert rank_mod(matrix, PRIME) == cut_bound(blocks) == 6


@pytest.mark.parametrize(
    ("text", "d_in", "d_out", "rank"),
    [
        ("monarch", 1, 1, 1),
        ("monarch", 257, 1031, 257),
        ("kronecker", 257, 1031, 257),
        ("low-rank:r=7", 1031, 257, 7),
        ("dense", 2**40, 3, 3),
        ("low-rank:r=64", 2**40, 2**40, 64),
        ("XA^1/2 XAB^1/2 YA^1/2 YB^1/2 AB^1", 60, 48, 48),
    ],
)
def test_unusual_dimensions(text: str, d_in: int, d_out: int, rank: int) -> None:
    found = generic_rank(parse_structure(text).at(d_in, d_out))
    assert (found.rank, found.method) == (rank, EXACT)


def test_the_rank_of_a_padded_structure_is_that_of_the_part_that_is_left() -> None:
    sized = parse_structure("monarch").at(17, 19)
    assert (sized.padded_in, sized.padded_out) == (18, 20)
    whole = random_matrix(dict(sized.sizes), PRIME, seed=0)[:19, :17]
    assert generic_rank(sized).rank == rank_mod(whole, PRIME) == 17


def test_large_matrices_are_settled_by_paths_or_refused_before_anything_is_allocated() -> None:
    found = generic_rank(parse_structure("btt:r=4").at(2**40, 2**40))
    assert (found.rank, found.method, found.certificate.prime) == (2**40, BY_PATHS, None)
    with pytest.raises(
        SizeError,
        match=r"144,000,000 numbers: at most 67,108,864 .* exactly and 134,217,728 .*the rank is from 2,400 to 12,000",
    ):
        generic_rank(parse_structure("XA=100 XAB YB=100 YAB").at(12_000, 12_000))
    with pytest.raises(SizeError, match="seeds must not be negative"):
        generic_rank(parse_structure("monarch").at(4, 4), seed=-1)


def test_a_bond_that_is_larger_than_needed_costs_nothing() -> None:
    sized = parse_structure("XC^1/2 XAB^1/2 YC^1/2 YAB^1/2 AB^1/2 AC^1/2 BC^1 ABC^1/2").at(600, 600)
    assert math.prod(size for _, size in sized.sizes) > QUICK_ENTRIES
    assert generic_rank(sized).rank == 600


@settings(deadline=None)
@given(networks, st.integers(0, 99))
def test_the_numeric_rank_is_the_exact_one(sizes: dict[str, int], seed: int) -> None:
    rank, (kept, dropped) = numeric_rank(random_matrix(sizes, None, seed))
    assert rank == rank_of(sizes)
    assert dropped < 1e-12 < 1e-8 < kept <= 1


@pytest.mark.parametrize(
    ("text", "d_in", "d_out", "rank"),
    [("XA=2 XB=2 XAB YA=3 YB", 8, 9, 7), ("monarch", 30, 30, 30), ("btt:r=2", 35, 21, 21)],
)
def test_beyond_what_is_eliminated_the_rank_is_numeric_and_says_so(
    text: str, d_in: int, d_out: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sized = parse_structure(text).at(d_in, d_out)
    exact = generic_rank(sized)
    monkeypatch.setattr("einsearch_cli.sizing.generic_rank.MAX_ENTRIES", 4)
    told: list[str] = []
    found = generic_rank(sized, 3, told.append)
    assert (found.rank, found.bound, found.method) == (exact.rank, exact.bound, NUMERIC)
    assert found.rank == rank
    assert "taking the singular values of a" in told[0]
    certificate = found.to_json()["rank_certificate"]
    assert isinstance(certificate, dict)
    assert (certificate["prime"], certificate["seed"], certificate["chance_of_more"]) == (None, 3, None)
    kept, dropped = certificate["singular_values"]
    assert dropped < 1e-12 < kept
    monkeypatch.setattr("einsearch_cli.sizing.generic_rank.MAX_NUMERIC_ENTRIES", 4)
    with pytest.raises(SizeError, match=f"to {exact.bound}"):
        generic_rank(sized)


def test_the_time_and_memory_of_singular_values_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """9,999 × 10,000 numbers: 5e11 steps of 0.5 ns, and three copies of 8 bytes."""
    monkeypatch.setattr("einsearch_cli.sizing.generic_rank.random_matrix", lambda *_: np.eye(2))
    told: list[str] = []
    generic_rank(parse_structure("XA=2 XB=2 XAB YA=3 YB").at(10_000, 9_999), 0, told.append)
    assert "9,999 × 10,000 matrix, about 8 min on one core and 2.4 GB" in told[0]


def test_large_matrices_are_eliminated_too_and_announced_unless_paths_prove_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("einsearch_cli.sizing.generic_rank.QUICK_ENTRIES", 4)
    told: list[str] = []
    found = generic_rank(parse_structure("XA=2 XB=2 XAB YA=3 YB").at(8, 9), 0, told.append)
    assert (found.rank, found.method) == (7, EXACT)
    assert told[0].startswith("eliminating a 9 × 8 matrix modulo 2147483647: about 0 s")
    told.clear()
    assert generic_rank(parse_structure("monarch").at(64, 64), 0, told.append).method == BY_PATHS
    assert told == []
