"""Exact linear algebra modulo a prime below 2^31, by the machine's floating-point matrix product.

A product of two residues needs 62 bits, sums of them more; float64 holds
integers up to 2^53. So one operand is cut into two halves of 16 bits and the
other is centred at 0: sums of 256 products then stay within 2^53, and the
float64 product is exact in whatever order it adds.

Axes in this file: B batch, R rows, K contracted, C columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Residues = npt.NDArray[np.int64]

PRIMES = (2147483647, 2147483629, 2147483587, 2147483579)
"""The largest primes below 2^31."""

_CHUNK = 256
_HALF = 1 << 15
_BASE_COLUMNS = 64
"""The widest panel that is eliminated column by column; wider ones use products of their halves."""


def residues(values: Residues, prime: int) -> Residues:
    """Reduce to 0 … p − 1 in place; one division and one product are faster than numpy's remainder."""
    quotients = values // prime
    quotients *= prime
    values -= quotients
    return values


def product_mod(left_BRK: Residues, right_BKC: Residues, prime: int) -> Residues:
    """The exact matrix product modulo p of arrays of residues.

    >>> product_mod(np.array([[PRIMES[0] - 1, 2]]), np.array([[PRIMES[0] - 1], [3]]), PRIMES[0])
    array([[7]])
    """
    if left_BRK.shape[-1] == 1:
        return residues(left_BRK * right_BKC, prime)
    total = np.zeros((), dtype=np.int64)
    for start in range(0, left_BRK.shape[-1], _CHUNK):
        left = left_BRK[..., start : start + _CHUNK]
        low = ((left + _HALF) & 0xFFFF) - _HALF
        high = (left - low) >> 16
        right = right_BKC[..., start : start + _CHUNK, :]
        centred = np.where(right > prime // 2, right - prime, right).astype(np.float64)
        part = residues((high.astype(np.float64) @ centred).astype(np.int64), prime)
        part <<= 16
        part += (low.astype(np.float64) @ centred).astype(np.int64)
        total = residues(part + total, prime)
    return total


def rank_mod(matrix_RC: Residues, prime: int) -> int:
    """The exact rank of a matrix of residues over the field of p elements.

    >>> rank_mod(np.array([[1, 2], [2, 4]]), PRIMES[0])
    1
    """
    work_RC = (matrix_RC if matrix_RC.shape[0] >= matrix_RC.shape[1] else matrix_RC.T).copy()
    return len(_eliminate(work_RC, prime, 0, 0, work_RC.shape[1]))


def _eliminate(work_RC: Residues, prime: int, row: int, start: int, stop: int) -> list[int]:
    """Eliminate the columns start … stop below `row` in place, and return the pivot columns.

    Pivot rows are moved to `row` and the rows after it; below them, the pivot columns keep the multipliers. The left
    half is eliminated first, then applied to the right half as a product of matrices.
    """
    if stop - start <= _BASE_COLUMNS:
        return _eliminate_columns(work_RC, prime, row, start, stop)
    middle = (start + stop) // 2
    pivots = _eliminate(work_RC, prime, row, start, middle)
    below = row + len(pivots)
    if pivots and below < len(work_RC):
        inverse = _inverse_unit_lower(work_RC[row:below, pivots], prime)
        upper = product_mod(inverse, work_RC[row:below, middle:stop], prime)
        rest = work_RC[below:, middle:stop]
        rest -= product_mod(work_RC[below:, pivots], upper, prime)
        rest += (rest >> 63) & prime
    return pivots + _eliminate(work_RC, prime, below, middle, stop)


def _eliminate_columns(work_RC: Residues, prime: int, row: int, start: int, stop: int) -> list[int]:
    pivots = []
    for column in range(start, stop):
        if row == len(work_RC):
            break
        found = row + int((work_RC[row:, column] != 0).argmax())
        if work_RC[found, column] == 0:
            continue
        if found != row:
            work_RC[[row, found]] = work_RC[[found, row]]
        multipliers = work_RC[row + 1 :, column]
        multipliers *= pow(int(work_RC[row, column]), -1, prime)
        residues(multipliers, prime)
        rest = work_RC[row + 1 :, column + 1 : stop]
        rest -= multipliers[:, None] * work_RC[row, column + 1 : stop]
        residues(rest, prime)
        pivots.append(column)
        row += 1
    return pivots


def _inverse_unit_lower(lower_RR: Residues, prime: int) -> Residues:
    """The inverse of a triangular matrix with 1 on its diagonal; entries on and above the diagonal are ignored."""
    size = len(lower_RR)
    if size == 1:
        return np.ones((1, 1), dtype=np.int64)
    half = size // 2
    inverse = np.zeros((size, size), dtype=np.int64)
    first = inverse[:half, :half] = _inverse_unit_lower(lower_RR[:half, :half], prime)
    second = inverse[half:, half:] = _inverse_unit_lower(lower_RR[half:, half:], prime)
    inverse[half:, :half] = residues(
        -product_mod(product_mod(second, lower_RR[half:, :half], prime), first, prime), prime
    )
    return inverse
