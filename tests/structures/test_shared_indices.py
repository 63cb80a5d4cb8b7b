"""Indices that X and Y share: sizes, notations, rank."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from einsearch_cli.errors import EinsearchError, SizeError, StructureError
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.sizing.generic_rank import generic_rank
from einsearch_cli.structures import (
    Structure,
    notations,
    parse_structure,
    read_structure,
    read_structure_file,
    structure_of_terms,
)
from einsearch_cli.structures.extent import Extent
from tests.structures.strategies import shared_extents


def structure_of(extents: dict[str, Extent]) -> Structure:
    return Structure.of(extents, block_diagonal=True)


def shared(text: str) -> Structure:
    return parse_structure(text, block_diagonal=True)


@settings(deadline=None)
@given(shared_extents(), st.integers(1, 3000), st.integers(1, 3000))
def test_no_input_or_output_is_lost(given_extents: dict[str, Extent], d_in: int, d_out: int) -> None:
    sized = structure_of(given_extents).at(d_in, d_out)
    assert math.prod(sized.size(c) for c in sized.features("X")) == sized.padded_in >= d_in
    assert math.prod(sized.size(c) for c in sized.carriers_of("Y")) == sized.padded_out >= d_out
    assert sized.padded_in < 2 * d_in + 8
    assert sized.padded_out < 2 * d_out + 8
    assert [c for c, _ in sized.sizes] == [c for c, _ in sized.structure.indices]


def exact_choices(d_in: int, d_out: int) -> list[tuple[int, ...]]:
    """Sizes of two shared indices and one of each side that multiply to the dimensions, each shared one near its extent."""
    target = min(d_in, d_out) ** 0.25
    divisors = [n for n in range(1, d_in + 1) if d_in % n == 0]
    return [
        (a, b, d_in // (a * b), d_out // (a * b))
        for a, b in product(divisors, repeat=2)
        if d_in % (a * b) == d_out % (a * b) == 0 and all(0.5 <= n / target <= 2 for n in (a, b))
    ]


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400))
def test_shared_sizes_are_the_nearest_that_divide_both_dimensions(d_in: int, d_out: int) -> None:
    sized = shared("XY^1/4 XYA^1/4 XA^1/2 YA^1/2").at(d_in, d_out)
    choices = exact_choices(d_in, d_out)
    assert bool(choices) == (sized.padding is None)
    if choices:
        target = min(d_in, d_out) ** 0.25
        best = min(sum(math.log(n / target) ** 2 for n in choice[:2]) for choice in choices)
        found = [sized.size(c) for c in ("XY", "XYA")]
        assert tuple(size for _, size in sized.sizes) in choices
        assert sum(math.log(n / target) ** 2 for n in found) == pytest.approx(best)


@settings(deadline=None)
@given(st.integers(2, 400), st.integers(2, 400))
def test_padding_is_the_least_of_all_shared_sizes_near_the_extent(d_in: int, d_out: int) -> None:
    sized = shared("XYA^1/2 XA^1/2 YA^1/2").at(d_in, d_out)
    target = math.sqrt(min(d_in, d_out))
    near = [n for n in range(1, 41) if target / 2 <= n <= 2 * target]
    ratios = [math.ceil(d_in / n) * n / d_in * math.ceil(d_out / n) * n / d_out for n in near]
    assert sized.padded_in / d_in * sized.padded_out / d_out == pytest.approx(min(ratios))


def test_padding_names_both_dimensions() -> None:
    sized = shared("XYA^1/2 XA^1/2 YA^1/2").at(257, 1024)
    assert sized.padding is not None
    assert "d_in 257 is padded to 260, as 257 and 1024 have no fitting divisors in common" in sized.padding


@settings(deadline=None)
@given(shared_extents())
def test_every_notation_reads_back_to_an_equal_structure(given_extents: dict[str, Extent]) -> None:
    structure = structure_of(given_extents)
    found = notations(structure, 96, 96)
    assert found["theta"] is None
    assert found["einsum"] is not None
    assert structure_of_terms(structure.to_json(), block_diagonal=True) == structure
    for name, text in found.items():
        if text is not None and name != "yaml":
            assert shared(text).unordered == structure, (name, text)
    assert structure.transposed().transposed() == structure


def matrix_by_the_equation(sized: SizedStructure, factors: dict[str, np.ndarray]) -> np.ndarray:
    """W from its equation: the identity goes in, one column comes out for every input."""
    identity = np.eye(sized.padded_in).reshape(sized.padded_in, *(sized.size(c) for c in sized.features("X")))
    columns = np.einsum(sized.einsum, identity, *(factors[f] for f in sized.factors))
    return columns.reshape(sized.padded_in, -1).T


@settings(deadline=None, max_examples=50)
@given(shared_extents(2), st.integers(1, 24), st.integers(1, 24))
def test_the_generic_rank_is_that_of_real_random_factors(
    given_extents: dict[str, Extent], d_in: int, d_out: int
) -> None:
    sized = structure_of(given_extents).at(d_in, d_out)
    random = np.random.default_rng(0)
    factors = {f: random.standard_normal([sized.size(c) for c in sized.carriers_of(f)]) for f in sized.factors}
    matrix = matrix_by_the_equation(sized, factors)[:d_out, :d_in]
    found = generic_rank(sized)
    assert np.linalg.matrix_rank(matrix, tol=1e-9 * np.linalg.norm(matrix)) == found.rank <= found.bound


@pytest.mark.parametrize(
    ("text", "d_in", "d_out", "sizes"),
    [
        ("XYA=4 XA YA", 1024, 2048, {"XYA": 4, "XA": 256, "YA": 512}),
        ("XYA XA YA", 64, 256, {"XYA": 8, "XA": 8, "YA": 32}),
        ("XYA^1", 257, 257, {"XYA": 257}),
        ("XYA^1/2 XYB^1/2", 257, 257, {"XYA": 13, "XYB": 20}),
        ("XY^1/2 XA^1/2 YA^1/2", 257, 1031, {"XY": 9, "XA": 29, "YA": 115}),
        ("XYA^1/2 XA^1/2 YA^1/2", 2**40, 2**40, {"XYA": 2**20, "XA": 2**20, "YA": 2**20}),
        ("ab,abc->ac; a=4,b=8,c=16", 32, 64, {"XYA": 4, "XA": 8, "YA": 16}),
        ("ab,bc->ac; a=8,b=8,c=8", 64, 64, {"XY": 8, "XA": 8, "YA": 8}),
    ],
)
def test_known_sizes(text: str, d_in: int, d_out: int, sizes: dict[str, int]) -> None:
    named = read_structure(text, block_diagonal=True)
    assert (named.d_in or d_in, named.d_out or d_out) == (d_in, d_out)
    assert dict(named.structure.at(d_in, d_out).sizes) == sizes


def test_a_letter_without_a_size_is_the_batch_and_with_one_an_index() -> None:
    assert shared("bi,io->bo; i=8,o=8") == parse_structure("dense")
    assert str(shared("bi,io->bo; b=8,i=8,o=8")) == "XY^1/2 XA^1/2 YA^1/2 order:XY,XA/XY,YA"


@pytest.mark.parametrize(
    ("text", "d_in", "d_out", "message"),
    [
        ("XYA^1", 8, 16, "X and Y share every index that grows, so the dimensions must be equal"),
        ("XYA=64 XA YA", 32, 128, "the fixed sizes XYA=64 multiply to 64: they do not fit into a dimension of 32"),
        ("XYA^1/2 XA=1/9*d^1/4 XB=9*d^1/4 YA^1/2", 16, 16, "=1/9*d^1/4 is 0.222 at d = 16"),
        ("XA=1/9*d^1/2 XB=9*d^1/2 YA", 1, 1, "=1/9*d^1/2 is 0.111 at d = 1: sizes must be at least 1"),
        (
            "XYA XA YA YB",
            8,
            8,
            "XYA in 'XYA XA YA YB' has no extent, and X leaves it d^1/2, Y d^1/3",
        ),
    ],
)
def test_what_has_no_sizes_is_refused(text: str, d_in: int, d_out: int, message: str) -> None:
    with pytest.raises(EinsearchError) as caught:
        shared(text).at(d_in, d_out)
    assert message in caught.value.problem
    assert isinstance(caught.value, SizeError | StructureError)
    assert caught.value.remedy


@pytest.mark.parametrize("suffix", [".txt", ".yaml", ".json", ".jsonl", ".csv"])
def test_files_take_them_on_request(tmp_path: Path, suffix: str) -> None:
    text = "XYA^1/2 XA^1/2 YA^1/2"
    contents = {
        ".txt": text,
        ".yaml": f"structures:\n- {text}\n- {{XYA: 1/2, XA: 1/2, YA: 1/2}}",
        ".json": f'[{{"structure": "{text}"}}]',
        ".jsonl": '{"structure": {"XYA": "1/2", "XA": "1/2", "YA": "1/2"}}',
        ".csv": f"structure\n{text}",
    }
    path = tmp_path / f"found{suffix}"
    path.write_text(contents[suffix])
    assert {named.structure for named in read_structure_file(path, block_diagonal=True)} == {shared(text)}
    with pytest.raises(EinsearchError, match=r"is carried by both X and Y.*\ntry:.*--allow-block-diagonal"):
        read_structure_file(path)
