from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from einsearch_cli.errors import SizeError
from einsearch_cli.sizing.factorization import divisors, nearest_factorizations
from einsearch_cli.sizing.generic_rank import generic_rank
from einsearch_cli.structures import Structure, parse_structure
from einsearch_cli.structures.extent import Extent
from tests.structures.strategies import extents


def brute_force(n: int, targets: tuple[float, ...]) -> float | None:
    """Squared log distance of the best fitting factorization, by trying every tuple of divisors."""
    found = [
        sum(math.log(s / t) ** 2 for s, t in zip(sizes, targets, strict=True))
        for sizes in product([d for d in range(1, n + 1) if n % d == 0], repeat=len(targets))
        if math.prod(sizes) == n and all(0.5 <= s / t <= 2 for s, t in zip(sizes, targets, strict=True))
    ]
    return min(found, default=None)


@given(st.integers(1, 360), st.lists(st.floats(0.05, 1), min_size=2, max_size=3))
def test_factorizations_are_the_nearest(n: int, shares: list[float]) -> None:
    targets = tuple(n ** (share / sum(shares)) for share in shares)
    expected = brute_force(n, targets)
    ties = nearest_factorizations(n, targets)
    assert bool(ties) == (expected is not None)
    assert list(ties) == sorted(set(ties))
    for found in ties:
        assert math.prod(found) == n
        assert sum(math.log(s / t) ** 2 for s, t in zip(found, targets, strict=True)) == pytest.approx(expected)


@given(extents(), st.integers(1, 5000), st.integers(1, 5000))
@settings(deadline=None)
def test_no_input_or_output_is_lost(given_extents: dict[str, Extent], d_in: int, d_out: int) -> None:
    sized = Structure.of(given_extents).at(d_in, d_out)
    assert math.prod(sized.size(c) for c in sized.carriers_of("X")) == sized.padded_in >= d_in
    assert math.prod(sized.size(c) for c in sized.carriers_of("Y")) == sized.padded_out >= d_out
    assert sized.padded_in < 2 * d_in + 8


@pytest.mark.parametrize(
    ("text", "d", "padded", "sizes"),
    [
        ("monarch", 768, 768, {"XA": 24, "XAB": 32}),
        ("monarch", 257, 260, {"XA": 13, "XAB": 20}),
        ("monarch", 1, 1, {"XA": 1, "XAB": 1}),
        ("monarch", 2**40, 2**40, {"XA": 2**20, "XAB": 2**20}),
        ("monarch:blocks=4", 770, 772, {"XA": 193, "XAB": 4}),
        ("dense", 1031, 1031, {"XA": 1031}),
        ("(1/3|0|2/3|0|1/3|2/3|0)", 4096, 4096, {"XA": 16, "XAB": 256}),
    ],
)
def test_known_sizes(text: str, d: int, padded: int, sizes: dict[str, int]) -> None:
    sized = parse_structure(text).at(d, d)
    assert sized.padded_in == padded
    assert {carriers: sized.size(carriers) for carriers in sizes} == sizes
    assert (sized.padding is None) == (padded == d)


def test_padding_is_reported() -> None:
    monarch = parse_structure("monarch")
    assert monarch.at(257, 64).padding == "d_in 257 is padded to 260, as 257 has no fitting divisors"
    assert monarch.at(257, 257).padding == "d_in and d_out 257 are padded to 260, as 257 has no fitting divisors"
    both = monarch.at(257, 1031).padding
    assert both is not None
    assert both.startswith("d_in 257 is padded to 260, as 257 has no fitting divisors; d_out 1031 is padded to ")


def test_padding_is_the_least_that_fits() -> None:
    for d in range(258, 260):
        assert nearest_factorizations(d, (257**0.5,) * 2) == ()


@pytest.mark.parametrize(("d_in", "d_out"), [(0, 4), (4, -1), (2**49, 4)])
def test_impossible_dimensions(d_in: int, d_out: int) -> None:
    with pytest.raises(SizeError, match="dimensions must be from 1 to 2\\^48"):
        parse_structure("dense").at(d_in, d_out)


def test_fixed_sizes_that_do_not_fit() -> None:
    with pytest.raises(SizeError, match="XAB=64 multiply to 64: they do not fit into a dimension of 32"):
        parse_structure("monarch:blocks=64").at(32, 128)


def test_the_equation_is_one_that_numpy_reads() -> None:
    sized = parse_structure("btt:r=2").at(12, 20)
    rng = np.random.default_rng(0)
    shapes = [[sized.size(c) for c in axes] for axes in (sized.features("X"), *map(sized.carriers_of, "AB"))]
    y = np.einsum(sized.einsum, *(rng.normal(size=shape) for shape in shapes))
    assert y.size == 20


@pytest.mark.parametrize(
    ("text", "d_in", "d_out", "sizes", "rank"),
    [
        # Both (4, 5) and (5, 4) are nearest for YA and YB; with the first the rank is 17 although every cut is 18 or more.
        ("XA^1/4 XB^1/2 XAB^1/4 YA^1/2 YB^1/2", 18, 20, {"YA": 5, "YB": 4}, 18),
        ("XA^1/4 XB^1/2 XAB^1/4 YA^1/2 YB^1/2", 112, 112, {"YA": 14, "YB": 8}, 112),
        # Here a cut decides: with YA 2, YB 128 no rank is above 640.
        ("XA^2/3 XAB^1/3 YA^1/6 YB^2/3 YAB^1/6 AB^1/3", 1024, 1024, {"YA": 4, "YB": 64}, 1024),
        # Three of four choices have full rank; of these, 43,008 parameters are nearest to 2·768^(3/2).
        ("monarch", 768, 768, {"XA": 24, "XAB": 32, "YB": 32, "YAB": 24}, 768),
        ("btt:r=4", 2048, 2048, {"XA": 32, "XAB": 64, "YB": 64, "YAB": 32}, 2048),
    ],
)
def test_among_equally_near_sizes_full_rank_is_chosen(
    text: str, d_in: int, d_out: int, sizes: dict[str, int], rank: int
) -> None:
    sized = parse_structure(text).at(d_in, d_out)
    assert {carriers: sized.size(carriers) for carriers in sizes} == sizes
    assert generic_rank(sized).rank == rank


@given(extents(), st.integers(2, 60), st.integers(2, 60))
@settings(deadline=None, max_examples=40)
def test_no_equally_near_sizes_have_a_larger_rank(given_extents: dict[str, Extent], d_in: int, d_out: int) -> None:
    structure = Structure.of(given_extents)
    chosen = structure.at(d_in, d_out)
    targets = {c: extent.at(d_in if "X" in c else d_out) for c, extent in structure.indices}
    sides = [[c for c, _ in structure.indices if side in c] for side in "XY"]
    padded = chosen.padded_in, chosen.padded_out
    ties = [nearest_factorizations(n, tuple(targets[c] for c in side)) for side, n in zip(sides, padded, strict=True)]
    ranks = []
    for x, y in islice(product(*ties), 8):
        sizes = dict(chosen.sizes) | dict(zip(sides[0], x, strict=True)) | dict(zip(sides[1], y, strict=True))
        ordered = tuple((c, sizes[c]) for c, _ in structure.indices)
        ranks.append(generic_rank(replace(chosen, sizes=ordered)).rank)
    assert generic_rank(chosen).rank >= max(ranks)


def test_ties_are_decided_without_a_matrix_where_paths_prove_the_rank() -> None:
    code = "import sys; from einsearch_cli.structures import parse_structure as p; "
    code += "p('XA^1/4 XB^1/4 XAB^1/2 YA^1/2 YB^1/2').at(1024, 1024); print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b"False"


@given(st.integers(1, 20_000))
def test_divisors(n: int) -> None:
    assert divisors(n) == [d for d in range(1, n + 1) if n % d == 0]


def test_divisors_beyond_trial_division() -> None:
    n = 4_294_967_311 * 6  # a prime above 2^32
    assert divisors(n)[:5] == [1, 2, 3, 6, 4_294_967_311]
