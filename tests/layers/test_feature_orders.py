"""The order of features: equations as written, the standard order, and the order as a part of every description."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from einsearch_cli.errors import EinsearchError, LayerError, StructureError
from einsearch_cli.guided import SelfGuidedLinear
from einsearch_cli.layers import EinsumLinear, layer_orders, merged, set_layer_orders_
from einsearch_cli.moe import StructuredMoE
from einsearch_cli.moe.experts import Experts
from einsearch_cli.projection import project_, projecting
from einsearch_cli.structures import FeatureOrder, Structure, parse_structure, standard_order
from einsearch_cli.swap import SwapReport, apply_swaps, swap_linear
from tests.structures.strategies import extents, shared_extents

DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def _float64() -> Any:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def dense_of_equation(equation: str, sizes: dict[str, int], factors: list[Tensor]) -> Tensor:
    """W of an equation as written, one column for every input: features are row-major over its letters."""
    x, *_ = equation.replace("...", "").split(",")
    width = torch.Size([sizes[letter] for letter in x]).numel()
    columns = [
        torch.einsum(equation.replace("...", ""), one.reshape([sizes[letter] for letter in x]), *factors).reshape(-1)
        for one in torch.eye(width)
    ]
    return torch.stack(columns, dim=1)


def error_of(text: str | Structure, weight: Tensor) -> float:
    """The error that a projection leaves, checked in a call too."""
    layer = EinsumLinear(weight.shape[1], weight.shape[0], text, bias=False)
    found = project_(layer, weight)
    x = torch.randn(3, weight.shape[1])
    assert (layer(x) - x @ weight.T).norm() / (x @ weight.T).norm() < max(1e-9, 2 * found.relative_error + 1e-9) * 10
    return found.relative_error


# --- equations as written -------------------------------------------------------------------------------------------

EQUATIONS = [
    "...ab,acr,bdr->...cd; a=8,b=4,c=16,d=2,r=3",
    "...ba,acr,bdr->...cd; a=8,b=4,c=16,d=2,r=3",
    "...ab,bdr,acr->...dc; a=8,b=8,c=8,d=8,r=2",
    "...gn,gnr,gro->...ro; g=4,n=6,r=3,o=5",
    "...ng,gnr,gro->...or; g=4,n=6,r=3,o=5",
    "zabc,adr,bers,cfs->zdef; a=2,b=3,c=4,d=4,e=3,f=2,r=2,s=2",
    "tzcab,adr,bers,cfs->tzfde; a=2,b=3,c=4,d=4,e=3,f=2,r=2,s=2",
    "...abcd,ae,bf,cg,dh->...hgfe; a=2,b=3,c=2,d=2,e=2,f=2,g=2,h=3",
    "...ab,ab,bc->...c; a=4,b=5,c=6",
    "...aeb,aec,bd->...dc; a=2,e=3,b=4,c=3,d=5",
]


@pytest.mark.parametrize("text", EQUATIONS)
def test_an_equation_is_computed_as_it_is_written(text: str) -> None:
    """The product of factors drawn for the equation, computed by einsum, can be reached and is found exactly."""
    equation, _, rest = text.partition(";")
    sizes = {part.strip()[0]: int(part.strip()[2:]) for part in rest.split(",")}
    plain = equation.replace("...", "")
    operands, _ = plain.split("->")
    x, *factors = operands.split(",")
    batch = [letter for letter in x if letter not in sizes]
    for letter in batch:
        plain = plain.replace(letter, "")
    tensors = [torch.randn([sizes[letter] for letter in factor]) for factor in factors]
    weight = dense_of_equation(plain, sizes, tensors)
    layer = EinsumLinear(weight.shape[1], weight.shape[0], text, bias=False)
    assert not layer.is_order_open or layer.order.is_only_one
    before = layer.order.sides
    assert project_(layer, weight).relative_error < 1e-10
    assert layer.order.sides == before
    values = torch.randn(2, 3, weight.shape[1])
    assert torch.allclose(layer(values), values @ weight.T)


def test_an_equation_and_its_turned_one_are_different_layers() -> None:
    one, other = (parse_structure(f"...{x},acr,bdr->...cd; a=8,b=4,c=16,d=2,r=3") for x in ("ab", "ba"))
    assert one != other
    assert one.unordered == other.unordered
    for structure in (one, other):
        assert parse_structure(str(structure)) == structure
        assert pickle.loads(pickle.dumps(structure)) == structure  # noqa: S301
        assert structure.transposed().transposed() == structure
    swapped = parse_structure("...ab,bdr,acr->...cd; a=8,b=4,c=16,d=2,r=3")
    assert swapped == one


@pytest.mark.parametrize(
    "text",
    [
        "gbn,gnr,gro->bro; g=4,n=2,r=2,o=4",
        "zwab,ac,bd->wzcd; a=2,b=4,c=2,d=4",
        "zab,ac,bd->czd; a=2,b=4,c=2,d=4",
        "ab...,ac,bd->cd...; a=2,b=4,c=2,d=4",
    ],
)
def test_a_batch_that_no_layer_can_have_is_refused(text: str) -> None:
    with pytest.raises(StructureError, match=r"in front|repeats"):
        parse_structure(text)


def test_letters_of_one_index_that_do_not_stand_together_are_refused_by_layers() -> None:
    structure = parse_structure("...abc,acd,be->...de; a=2,b=3,c=4,d=3,e=5")
    assert structure.unordered == parse_structure("...acb,acd,be->...de; a=2,b=3,c=4,d=3,e=5").unordered
    with pytest.raises(LayerError, match="do not stand side by side"):
        EinsumLinear(24, 15, structure)


# --- the standard order ---------------------------------------------------------------------------------------------


def _check_standard(structure: Structure, d_in: int, d_out: int) -> None:
    layer = EinsumLinear(d_in, d_out, structure, bias=False, order="standard")
    sized = layer.sized
    sizes = {sized.letters[carriers]: size for carriers, size in sized.sizes}
    with torch.no_grad():
        layer.gain.fill_(0.7)
        for factor in layer.factors.values():
            factor.mul_(0.5 / max(1.0, factor.abs().max().item() * 100))  # below every cap
        weight = dense_of_equation(sized.einsum, sizes, [layer.factor_tensor(f) for f in sized.factors])
        expected = 0.7 * weight[:d_out, :d_in]
        assert torch.allclose(layer.to_dense(), expected, rtol=1e-10, atol=1e-14)
        x = torch.randn(4, d_in)
        assert torch.allclose(layer(x), x @ expected.T, rtol=1e-9, atol=1e-14)


@settings(deadline=None, max_examples=40)
@given(extents(), st.integers(1, 24), st.integers(1, 24))
def test_the_standard_order_is_that_of_the_equation(given_extents: dict[str, Any], d_in: int, d_out: int) -> None:
    _check_standard(Structure.of(given_extents), d_in, d_out)


@settings(deadline=None, max_examples=20)
@given(shared_extents(2))
def test_the_standard_order_with_indices_that_input_and_output_share(given_extents: dict[str, Any]) -> None:
    _check_standard(Structure.of(given_extents, block_diagonal=True), 16, 16)


def rand(*sizes: int) -> Tensor:
    return torch.randn(sizes)


def monarch(blocks: int) -> Tensor:
    """P L Pᵀ R of Dao et al. 2022, with `blocks` blocks of `blocks` rows."""
    n = blocks * blocks
    left, right = (torch.block_diag(*rand(blocks, blocks, blocks)) for _ in range(2))
    permutation = torch.eye(n).reshape(blocks, blocks, n).transpose(0, 1).reshape(n, n)
    return permutation @ left @ permutation.T @ right


@pytest.mark.parametrize("root", [4, 8, 12, 16, 24, 32])
def test_kronecker_products_of_two(root: int) -> None:
    assert error_of("kronecker", torch.kron(rand(root, root), rand(root, root))) < 1e-10


STANDARD = {
    "kronecker 64 to 16": ("kronecker", lambda: torch.kron(rand(4, 8), rand(4, 8))),
    "kronecker 16 to 144": ("kronecker", lambda: torch.kron(rand(12, 4), rand(12, 4))),
    "kronecker of three": ("kronecker:n=3", lambda: torch.kron(torch.kron(rand(4, 4), rand(4, 4)), rand(4, 4))),
    "kronecker of four": (
        "kronecker:n=4",
        lambda: torch.kron(torch.kron(rand(2, 2), rand(2, 2)), torch.kron(rand(2, 2), rand(2, 2))),
    ),
    "tt:r=2": ("tt:r=2", lambda: torch.einsum("iar,rjb->ijab", rand(8, 8, 2), rand(2, 8, 8)).reshape(64, 64)),
    "tt:r=3": ("tt:r=3", lambda: torch.einsum("iar,rjb->ijab", rand(8, 8, 3), rand(3, 8, 8)).reshape(64, 64)),
    "tt:n=3,r=2": (
        "tt:n=3,r=2",
        lambda: torch.einsum("iar,rjbs,skc->ijkabc", rand(4, 4, 2), rand(2, 4, 4, 2), rand(2, 4, 4)).reshape(64, 64),
    ),
    "tt:n=3,r=3": (
        "tt:n=3,r=3",
        lambda: torch.einsum("iar,rjbs,skc->ijkabc", rand(4, 4, 3), rand(3, 4, 4, 3), rand(3, 4, 4)).reshape(64, 64),
    ),
    "monarch": ("monarch", lambda: monarch(8)),
    "btt:r=2": (
        "btt:r=2",
        lambda: torch.einsum("bijr,jrbk->kjbi", rand(8, 8, 8, 2), rand(8, 2, 8, 8)).reshape(64, 64),
    ),
    "low-rank": ("low-rank:r=5", lambda: rand(36, 5) @ rand(5, 24)),
    "block-dense": ("block-dense:blocks=4,r=8", lambda: rand(24, 8) @ torch.block_diag(*rand(4, 2, 9))),
    "block-shuffle": (
        "block-shuffle:blocks=4",
        lambda: torch.einsum("bijr,jrbk->kjbi", rand(4, 16, 4, 4), rand(4, 4, 4, 16)).reshape(64, 64),
    ),
    "khatri-rao": ("khatri-rao:n=2,r=3", lambda: sum(torch.kron(rand(8, 8), rand(8, 8)) for _ in range(3))),
    "monarch:n=3": (
        "monarch:n=3",
        lambda: torch.einsum("abcz,bcyz,cxyz->xyzcba", rand(4, 4, 4, 4), rand(4, 4, 4, 4), rand(4, 4, 4, 4)).reshape(
            64, 64
        ),
    ),
}


@pytest.mark.parametrize("name", STANDARD)
def test_a_matrix_that_has_the_structure_in_the_standard_order(name: str) -> None:
    text, make = STANDARD[name]
    weight = make()
    layer = EinsumLinear(weight.shape[1], weight.shape[0], text, order="standard")
    assert project_(layer, weight).relative_error < 1e-10
    assert error_of(text, weight) < 1e-10


def test_blocks_on_the_diagonal() -> None:
    structure, block = parse_structure("XY=4 XA YA", block_diagonal=True), rand(6, 5)
    assert error_of(structure, torch.block_diag(*([block] * 4))) < 1e-10
    blocks = [block + 1, block - 1, block + 2, block - 2]
    # Nearest is their mean, and what lies outside of the blocks is lost.
    weight = torch.block_diag(*blocks)
    weight[0, 7] = 3.0
    expected = ((1 + 1 + 4 + 4) * 30 + 9) ** 0.5 / weight.norm().item()
    assert error_of(structure, weight) == pytest.approx(expected, rel=1e-9)
    structure = parse_structure("XYA=4 XA YA", block_diagonal=True)
    assert error_of(structure, torch.block_diag(*rand(4, 6, 5))) < 1e-10


@pytest.mark.parametrize("turned", list(itertools.product(itertools.permutations(range(3)), [(0, 1, 2), (2, 0, 1)])))
def test_a_structure_that_holds_after_a_permutation_is_found(turned: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    whole = torch.einsum("iar,rjbs,skc->ijkabc", rand(4, 4, 2), rand(2, 4, 4, 2), rand(2, 4, 4))
    ins, outs = turned
    weight = whole.permute(*outs, *(3 + axis for axis in ins)).reshape(64, 64)
    layer = EinsumLinear(64, 64, "tt:n=3,r=2")
    found = project_(layer, weight)
    assert found.relative_error < 1e-10
    assert found.order == layer.order
    if outs == (0, 1, 2) and ins != outs:
        assert found.order.sides != standard_order(layer.structure).sides


# --- part of the description ----------------------------------------------------------------------------------------

ORDERS = ["fast", "standard", "XA,XAB/YB,YAB", "XA,XAB/YAB,YB"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", [EinsumLinear, SelfGuidedLinear, StructuredMoE])
def test_every_copy_of_a_layer_is_the_same_function(order: str, kind: Any) -> None:
    if kind is StructuredMoE:
        layer: nn.Module = StructuredMoE(36, 16, "btt-moe:r=2,experts=2,top=1", order=order)
        again: nn.Module = StructuredMoE(36, 16, "btt-moe:r=2,experts=2,top=1", order=layer.experts.order)
    else:
        layer, again = EinsumLinear(36, 16, "btt:r=2", order=order), EinsumLinear(36, 16, "btt:r=2")
        again.order = layer.order
        if kind is SelfGuidedLinear:
            layer, again = SelfGuidedLinear(layer), SelfGuidedLinear(again)
            layer.set_weight(0.0)
            again.set_weight(0.0)
    x = torch.randn(5, 36)
    expected = layer(x)
    again.load_state_dict({**layer.state_dict()})
    fresh = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), again]  # noqa: S301
    for one in fresh:
        assert torch.allclose(one(x), expected)
    text = repr(layer)
    assert ("order=" in text) == (order != "fast")


def test_repr_makes_an_equal_layer() -> None:
    for order in ORDERS:
        layer = EinsumLinear(64, 64, "monarch", order=order)
        again = eval(repr(layer), {"EinsumLinear": EinsumLinear})  # noqa: S307
        assert again.order == layer.order
        assert again.sized == layer.sized


@pytest.mark.parametrize("order", ORDERS)
def test_a_state_of_torch_brings_its_order_along(order: str, tmp_path: Path) -> None:
    layer = EinsumLinear(36, 16, "btt:r=2", order=order)
    torch.save(nn.Sequential(layer).state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh = nn.Sequential(EinsumLinear(36, 16, "btt:r=2"))
    fresh.load_state_dict(state)
    x = torch.randn(5, 36)
    assert torch.allclose(fresh(x), layer(x))
    other = nn.Sequential(EinsumLinear(36, 16, "btt:r=2", order="XA,XAB/YAB,YB" if order != ORDERS[3] else ORDERS[2]))
    with pytest.raises(RuntimeError, match="build the layer with order="):
        other.load_state_dict(state)


def test_orders_that_no_layer_can_have() -> None:
    for order, message in (
        ("XA/YA,YB", "its input indices are"),
        ("XA,XB,XA/YA,YB", "named once"),
        ("XA,XC/YA,YB", "its input indices are"),
        ("fastest", "is not an order of features"),
        ("XA,XB/YA,YB/XA/YB", "the axes of its factors are"),
    ):
        with pytest.raises(EinsearchError, match=message):
            EinsumLinear(16, 16, "kronecker", order=order)
    with pytest.raises(StructureError, match="named once"):
        parse_structure("XA^1/2 XB^1/2 YA^1/2 YB^1/2 order:XA/YA,YB")
    with pytest.raises(LayerError, match="no structured layer of that name"):
        set_layer_orders_(nn.Sequential(nn.Linear(4, 4)), {"0": "XA/YA"})


def test_the_recorded_order_builds_the_same_plan(market: dict[str, Any]) -> None:
    """The axes of stored factors are included, whatever a search over fixed features alone would choose."""
    for case in market.values():
        layer = case.layer()
        again = EinsumLinear(case.d_in, case.d_out, case.text, order=layer.order)
        assert again.order == layer.order
        again.load_state_dict({**layer.state_dict()})
        assert torch.allclose(again.to_dense(), layer.to_dense())


@pytest.mark.parametrize("structure", ["kronecker", "btt:r=2", "tt:n=3,r=2", "btt-moe:experts=2,top=1"])
def test_a_recipe_builds_the_same_function(structure: str) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    project = "moe" not in structure
    report = swap_linear(model, structure, project=project)
    rebuilt = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    apply_swaps(rebuilt, SwapReport.from_json(json.loads(json.dumps(report.to_json()))))
    rebuilt.load_state_dict({**model.state_dict()})
    x = torch.randn(5, 64)
    assert torch.allclose(rebuilt(x), model(x))
    assert layer_orders(rebuilt) == layer_orders(model)
    assert all(swap.order is not None for swap in report.replaced)


def test_projection_by_a_swap_finds_the_structure() -> None:
    model = nn.Sequential(nn.Linear(256, 256, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.kron(rand(16, 16), rand(16, 16)))
    report = swap_linear(model, "kronecker", project=True)
    assert report.replaced[0].relative_error is not None
    assert report.replaced[0].relative_error < 1e-10
    assert report.replaced[0].sides == "XA,XB/YA,YB"
    assert "order XA,XB/YA,YB" in str(report).replace("\n", " ")


def test_layers_with_tied_weights_keep_one_order() -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight.copy_(torch.kron(rand(8, 8), rand(8, 8)))
    before = model(torch.eye(64))
    swap_linear(model, "kronecker", project=True)
    assert torch.allclose(model(torch.eye(64)), before)


def test_files_of_versions_without_orders_are_the_same_function() -> None:
    """Recipes, states and outputs were written by commit b9ef05e."""
    torch.set_default_dtype(torch.float32)
    model = nn.Sequential(nn.Linear(24, 16), nn.Linear(16, 36), nn.Linear(36, 16))
    for report in json.loads((DATA / "before_orders.json").read_text()):
        apply_swaps(model, SwapReport.from_json(report))
    tensors = load_file(DATA / "before_orders.safetensors")
    x, y = tensors.pop("x"), tensors.pop("y")
    model.load_state_dict(tensors)
    assert torch.allclose(model(x), y, atol=1e-6)


def _as_version_1(state: Any) -> Any:
    """The state as versions without orders wrote it."""
    for metadata in state._metadata.values():
        metadata.pop("einsearch_order", None)
        metadata["version"] = 1
    return state


EQUATION = "...ab,acr,bdr->...cd; a=4,b=4,c=4,d=4,r=2"


def _before() -> Any:
    """State, layers and outputs of `EQUATION` in float32, written by commit b9ef05e."""
    torch.set_default_dtype(torch.float32)
    return torch.load(DATA / "before_orders.pt", weights_only=False)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", [EinsumLinear, SelfGuidedLinear])
def test_a_torch_state_without_an_order_is_the_same_function(kind: Any, strict: bool) -> None:
    before = _before()
    layer = EinsumLinear(16, 16, EQUATION)
    if kind is SelfGuidedLinear:
        layer = SelfGuidedLinear(layer)
        layer.set_weight(0.0)
        before["state"]["0.guide"] = torch.zeros(16, 16)
    model = nn.Sequential(layer)
    model.load_state_dict(before["state"], strict=strict)
    assert torch.allclose(model(before["x"]), before["y"], atol=1e-6)
    assert layer.is_order_open
    assert "order='fast'" in repr(layer)
    # A state that is written now has its order, which a layer of the equation refuses.
    with pytest.raises(RuntimeError, match="build the layer with order="):
        nn.Sequential(EinsumLinear(16, 16, EQUATION)).load_state_dict(model.state_dict(), strict=False)


def test_a_layer_with_a_chosen_order_refuses_a_torch_state_without_one() -> None:
    before = _before()
    for order in ("standard", "XA,XB/YB,YA"):
        model = nn.Sequential(EinsumLinear(16, 16, "tt:r=2", order=order))
        with pytest.raises(RuntimeError, match="build the layer with order='fast'"):
            model.load_state_dict(before["state"])
    projected = EinsumLinear(16, 16, "tt:r=2")
    project_(projected, torch.kron(rand(4, 4), rand(4, 4)).float())
    with pytest.raises(RuntimeError, match="build the layer with order='fast'"):
        nn.Sequential(projected).load_state_dict(before["state"])
    model = nn.Sequential(EinsumLinear(16, 16, EQUATION, order="fast"))
    model.load_state_dict(before["state"])
    assert torch.allclose(model(before["x"]), before["y"], atol=1e-6)


def test_tensors_without_metadata_keep_the_order_of_the_layer() -> None:
    layer, other = EinsumLinear(16, 16, EQUATION), EinsumLinear(16, 16, EQUATION)
    other.load_state_dict(dict(layer.state_dict()))
    assert other.order == layer.order
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.to_dense(), layer.to_dense())


def test_states_of_experts_without_an_order_are_the_same_function() -> None:
    structure = parse_structure(EQUATION)
    before, now = Experts(16, 16, structure, 2, order="fast"), Experts(16, 16, structure, 2)
    rows = torch.randn(2, 3, 16)
    now.load_state_dict(_as_version_1(before.state_dict()))
    assert torch.allclose(now.plain_forward(rows), before.plain_forward(rows))
    with pytest.raises(RuntimeError, match="build the layer with order='fast'"):
        Experts(16, 16, structure.unordered, 2, order="standard").load_state_dict(_as_version_1(before.state_dict()))


def test_a_swap_repeated_for_a_state_without_orders_is_the_same_function() -> None:
    before, now = (nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)) for _ in range(2))
    recipe = swap_linear(before, parse_structure(EQUATION).unordered).to_json()
    for swap in recipe["replaced"]:
        del swap["order"]
    swap_linear(now, EQUATION)
    state = _as_version_1(before.state_dict())
    now.load_state_dict(state)
    rebuilt = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    apply_swaps(rebuilt, SwapReport.from_json(recipe))
    rebuilt.load_state_dict(state)
    x = torch.randn(3, 16)
    assert torch.allclose(now(x), before(x))
    assert torch.allclose(rebuilt(x), before(x))


@pytest.mark.parametrize("kind", ["layer", "guided"])
def test_pickled_layers_of_versions_without_orders_work_as_they_did(kind: str) -> None:
    before = _before()
    layer, x, y = before[kind], before["x"], before["y" if kind == "layer" else "y_guided"]
    for one in (layer, copy.deepcopy(layer)):
        assert torch.allclose(one(x), y, atol=1e-6)
        with merged(one), torch.no_grad():
            assert torch.allclose(one(x), y, atol=1e-6)
        assert one.is_order_open
        assert "structure=" in repr(one)
        with pytest.raises(LayerError, match="a write to the weight"):
            one._parameters["weight"] = nn.Parameter(torch.zeros(16, 16))


def test_projection_ends_at_the_first_order_that_is_exact_up_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    start = projecting.start_of
    monkeypatch.setattr(
        projecting, "start_of", lambda *given, **named: (tried.append(given), start(*given, **named))[1]
    )
    weight = torch.kron(torch.kron(rand(4, 4), rand(4, 4)), rand(4, 4)).float()
    assert project_(EinsumLinear(64, 64, "kronecker:n=3"), weight).relative_error < 1e-6
    assert len(tried) == 1


def test_the_text_of_an_order_reads_back() -> None:
    order = EinsumLinear(64, 64, "btt:r=2").order
    assert FeatureOrder.of_text(str(order)) == order
