from __future__ import annotations

import numpy as np
import pytest
import sympy
from hypothesis import given, settings, strategies as st

from einsearch_cli.sizing import modular
from einsearch_cli.sizing.modular import PRIMES, product_mod, rank_mod


def rank_by_elimination(rows: list[list[int]], prime: int) -> int:
    """The obvious route: one row at a time, in Python's own integers."""
    rank = 0
    rows = [list(row) for row in rows]
    while rows:
        row = rows.pop()
        column = next((i for i, value in enumerate(row) if value % prime), None)
        if column is None:
            continue
        rank += 1
        inverse = pow(row[column], -1, prime)
        rows = [[(a - b * r[column] * inverse) % prime for a, b in zip(r, row, strict=True)] for r in rows]
    return rank


def test_the_primes_are_the_largest_below_2_to_the_31() -> None:
    expected = [2**31]
    for _ in PRIMES:
        expected.append(sympy.prevprime(expected[-1]))
    assert list(PRIMES) == expected[1:]


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.integers(0, 40), st.sampled_from(PRIMES))
@settings(deadline=None)
def test_rank_equals_plain_elimination(seed: int, rows: int, columns: int, inner: int, prime: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, prime, (rows, inner)), rng.integers(0, prime, (inner, columns))
    matrix = (left.astype(object) @ right.astype(object) % prime).astype(np.int64).reshape(rows, columns)
    matrix[rng.random(rows) < 0.2] = 0
    matrix[:, rng.random(columns) < 0.2] = 0
    assert rank_mod(matrix, prime) == rank_by_elimination(matrix.tolist(), prime)


@pytest.mark.parametrize("prime", [2, 3, 101])
@pytest.mark.parametrize("panel", [1, 4, modular._BASE_COLUMNS])
def test_small_primes_meet_many_zero_pivots(prime: int, panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modular, "_BASE_COLUMNS", panel)
    for seed in range(10):
        matrix = np.random.default_rng(seed).integers(0, prime, (60, 45))
        assert rank_mod(matrix, prime) == rank_by_elimination(matrix.tolist(), prime)


@pytest.mark.parametrize("inner", [1, 255, 256, 257, 700])
def test_products_of_the_largest_residues_do_not_overflow(inner: int) -> None:
    prime = PRIMES[0]
    for value in (prime - 1, prime // 2, prime // 2 + 1, 2**16 - 1, 2**15, 2**15 - 1):
        left = np.full((2, 3, inner), value)
        right = np.full((2, inner, 5), prime - 1 if value > 2**16 else prime // 2)
        expected = int(value) * int(right[0, 0, 0]) * inner % prime
        assert (product_mod(left, right, prime) == expected).all()


@pytest.mark.parametrize(("shape", "rank"), [((700, 300), 300), ((300, 700), 123), ((513, 512), 511)])
def test_large_matrices_of_known_rank(shape: tuple[int, int], rank: int) -> None:
    rng = np.random.default_rng(0)
    prime = PRIMES[1]
    product = product_mod(rng.integers(0, prime, (shape[0], rank)), rng.integers(0, prime, (rank, shape[1])), prime)
    before = product.copy()
    assert rank_mod(product, prime) == rank
    assert (product == before).all()
