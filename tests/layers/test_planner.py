"""Every route of random structures compared with the plain contraction, and the planner's explanations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from random import Random

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.errors import StructureError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution.autograd import execute
from einsearch_cli.layers.execution.cpu import CpuExecutor
from einsearch_cli.layers.execution.gpu import GpuExecutor
from einsearch_cli.layers.execution.merged import merged_weights
from einsearch_cli.layers.execution.reference import contract
from einsearch_cli.layers.plans.cost_model import inference_ns, training_ns
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, DEFAULT_GPU, MachineProfile
from einsearch_cli.layers.plans.planner import Use, best_route, explain, predicted_ns, route_table, routes, stored_plan
from einsearch_cli.structures import parse_structure
from einsearch_cli.taxonomy import contraction_orders
from tests.layers.parts import factors_of, reference_output, route_taken


def random_layer(factors: str, random: Random) -> EinsumLinear:
    """Random carrier sets with sizes 1 to 3 that need all factors: hyperedges, broadcasts, outer products."""
    subsets = ["".join(some) for n in range(1, len(factors) + 1) for some in combinations(factors, n)]
    while True:
        inputs, outputs = (
            {c: random.randint(1, 3) for c in random.sample(subsets, min(3, len(subsets)))} for _ in "XY"
        )
        bonds = {c: random.randint(1, 3) for c in random.choices(subsets, k=2) if len(c) > 1}
        sides = [
            f"{side}{c}" + "" if not n else f"{side}{c}={size}"
            for side, sizes in (("X", inputs), ("Y", outputs))
            for n, (c, size) in enumerate(sizes.items())
        ]  # the first takes what the others leave
        try:
            structure = parse_structure(" ".join([*sides, *(f"{c}={size}" for c, size in bonds.items())]))
        except StructureError:  # a factor that meets nothing else
            continue
        if len(structure.factors) == len(factors):
            d_in, d_out = math.prod(inputs.values()), math.prod(outputs.values())
            return EinsumLinear(d_in, d_out, structure, dtype=torch.float64)


def results(layer: EinsumLinear, x: Tensor, y_grad: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y, (x, *layer.parameters()), y_grad)]


@settings(max_examples=120, deadline=None)
@given(factors=st.integers(1, 4), seed=st.integers(0, 10**6), tokens=st.sampled_from([0, 1, 3, 13]))
def test_every_route_equals_the_plain_contraction_and_the_definition(
    dense_by_columns: Callable[[EinsumLinear], Tensor], factors: int, seed: int, tokens: int
) -> None:
    """Routes and plain contraction share the plan's shapes and permutations; the definition does not."""
    torch.manual_seed(seed)
    layer = random_layer("ABCD"[:factors], Random(seed))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(tokens, layer.in_features, dtype=torch.float64)
    y_grad = torch.randn(tokens, layer.out_features, dtype=torch.float64)
    plain_x = x.clone().requires_grad_()
    plain = reference_output(layer, plain_x)
    torch.testing.assert_close(plain, x @ dense_by_columns(layer).T + layer.bias, rtol=1e-10, atol=1e-10)
    expected = [plain, *torch.autograd.grad(plain, (plain_x, *layer.parameters()), y_grad)]
    for route in routes(layer.sized):
        layer.route = route.text
        for found, wanted in zip(results(layer, x, y_grad), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), plain, rtol=1e-10, atol=1e-10)
    # The way of a GPU, whose products write where the next one reads.
    device_x, factors_of_plan = x.clone().requires_grad_(), [layer.factors[step.factor] for step in layer.plan.steps]
    y = execute(GpuExecutor(layer.plan, tokens), device_x, layer.gain, layer.bias, *factors_of_plan)
    found = [y, *torch.autograd.grad(y, (device_x, *layer.parameters()), y_grad)]
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)


def test_a_layer_trains_by_the_route_that_was_set_last() -> None:
    """Otherwise, tests by every route would all use the first one."""
    layer, x = EinsumLinear(64, 64, "btt:r=2", bias=False), torch.randn(50, 64)
    factors, dense = routes(layer.sized)
    for route in (factors, dense, factors):
        layer.route = route.text
        assert route_taken(layer, x) == layer.explain(50).route == route.text


def test_decisions_for_another_dtype_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of one large matrix are made to seem free in float64."""
    free = replace(DEFAULT_CPU, mac_ns=(*DEFAULT_CPU.mac_ns[:-1], 0.0))
    profiles = {torch.float32: DEFAULT_CPU, torch.float64: free}
    monkeypatch.setattr(
        "einsearch_cli.layers.einsum_linear.profile_for", lambda _device, _threads, dtype: profiles[dtype]
    )
    layer, x = EinsumLinear(512, 512, "btt:r=2"), torch.randn(512, 512)
    assert route_taken(layer, x) == "(xA)B"
    assert route_taken(layer.double(), x.double()) == "x(AB)"


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_the_planner_considers_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread is made to make all products of one large matrix seem free."""
    profiles = {1: DEFAULT_CPU, 2: replace(DEFAULT_CPU, mac_ns=(*DEFAULT_CPU.mac_ns[:-1], 0.0))}
    monkeypatch.setattr(
        "einsearch_cli.layers.einsum_linear.profile_for", lambda _device, threads, _dtype: profiles[threads]
    )
    layer, x = EinsumLinear(512, 512, "btt:r=2"), torch.randn(512, 512)
    taken = []
    for number in (1, 2, 1):
        torch.set_num_threads(number)
        taken.append(route_taken(layer, x))
        assert taken[-1] == layer.explain(512).route
    assert taken == ["(xA)B", "x(AB)", "(xA)B"]


def test_the_planner_considers_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of one large matrix are made to seem free in bfloat16."""
    free = replace(DEFAULT_CPU, mac_ns=(*DEFAULT_CPU.mac_ns[:-1], 0.0))
    profiles = {torch.float32: DEFAULT_CPU, torch.bfloat16: free}
    monkeypatch.setattr(
        "einsearch_cli.layers.einsum_linear.profile_for", lambda _device, _threads, dtype: profiles[dtype]
    )
    layer, x = EinsumLinear(512, 512, "btt:r=2"), torch.randn(512, 512)
    taken = []
    for enabled in (False, True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            taken.append(route_taken(layer, x))
            assert taken[-1] == layer.explain(512).route
    assert taken == ["(xA)B", "x(AB)", "(xA)B"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_planner_considers_the_dtype(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "einsearch_cli.layers.einsum_linear.profile_for",
        lambda _device, _threads, dtype: asked.append(dtype) or DEFAULT_CPU,
    )
    layer, x = EinsumLinear(64, 64, "btt:r=2", dtype=dtype), torch.randn(8, 64, dtype=dtype)
    layer(x)
    with torch.no_grad():
        layer(x)
    assert asked == [dtype, dtype]


def test_wider_numbers_cost_more() -> None:
    for profile in (DEFAULT_CPU, DEFAULT_GPU):
        sized = parse_structure("btt:r=2").at(1024, 1024)
        times = [
            [
                predicted_ns(sized, route, 4096, profile.of_itemsize(dtype.itemsize), Use.training)
                for route in routes(sized)
            ]
            for dtype in (torch.bfloat16, torch.float32, torch.float64)
        ]
        assert all(a <= b < c for a, b, c in zip(*times, strict=True))
    # Compared with bfloat16, float32 on a GPU is slower by more than the bytes.
    assert DEFAULT_GPU.of_itemsize(4).mac_ns_at(512) > 4 * DEFAULT_GPU.mac_ns_at(512)


@pytest.mark.parametrize(
    "text", ["btt:r=2", "tt:r=3", "low-rank", "btt:n=3", "XA^1/2 XB^1/4 XAB^1/4 YA^1/4 YB^1/2 YAB^1/4"]
)
def test_many_chunks_are_one(text: str) -> None:
    """4,700 tokens: several chunks of unequal lengths, forward and backward."""
    layer = EinsumLinear(64, 64, text, dtype=torch.float64)
    layer.route = routes(layer.sized)[0].text
    x, y_grad = torch.randn(2, 4_700, 64, dtype=torch.float64)
    plain_x = x.clone().requires_grad_()
    plain = reference_output(layer, plain_x)
    expected = [plain, *torch.autograd.grad(plain, (plain_x, *layer.parameters()), y_grad)]
    torch.testing.assert_close(results(layer, x, y_grad), expected, rtol=1e-10, atol=1e-9)


def test_routes_are_the_contraction_orders_that_let_groups_meet_the_activation() -> None:
    """FLOPs are compared with those of the taxonomy, which counts all binary trees."""
    for text in ("btt:r=2", "tt:n=3,r=2", "XA^1 AB=2 BC=2 YC^1"):
        sized = parse_structure(text).at(64, 64)
        known = {order.tree: order for order in contraction_orders(sized, 1)}
        for route in routes(sized):
            if route.text in known:
                order = known[route.text]
                assert (route.flops_per_token, route.flops_per_merge) == (order.flops_per_token, order.flops_per_call)
        assert {"x(AB)", "x(ABC)"} & {route.text for route in routes(sized)}
    found = routes(parse_structure("monarch:n=4").at(1296, 1296))
    assert {len(route.plan.steps) for route in found} == {1, 2, 3, 4}
    assert all(route.flops_per_token < 2 * 1296**2 for route in found if not route.is_dense)


def test_few_tokens_take_the_dense_matrix_and_many_the_factors() -> None:
    sized = parse_structure("monarch").at(256, 256)
    found = route_table(sized, DEFAULT_CPU, Use.merged)
    assert found.at(0) is found.at(1)
    assert found.at(1).is_dense
    assert not found.at(4096).is_dense
    assert found.at(10**9) is found.routes[-1]
    assert route_table(parse_structure("btt:r=64").at(256, 256), DEFAULT_CPU, Use.merged).dense_limit == math.inf
    # 31 µs by factors against 114 µs by the matrix on an EPYC, and 2.2 ms against 3.6 ms.
    assert not route_table(parse_structure("monarch").at(1024, 1024), DEFAULT_CPU, Use.merged).at(1).is_dense
    assert (
        not route_table(parse_structure("block-shuffle:blocks=4").at(4096, 4096), DEFAULT_CPU, Use.merged)
        .at(1)
        .is_dense
    )


def test_a_layer_that_is_not_merged_forms_a_matrix_only_for_many_tokens() -> None:
    # Width 64 on an EPYC: at one token 146 µs by factors, 692 by a matrix formed in the call; at 1,024 tokens 1,363 and 956.
    found = route_table(parse_structure("btt:r=4").at(64, 64), DEFAULT_CPU, Use.inference)
    assert not found.at(1).is_dense
    assert found.at(4096).is_dense


def test_a_gpu_merges_few_tokens_of_wide_layers_and_narrow_layers() -> None:
    # On an NVIDIA H200 the factors took 90–163 µs where the matrix takes 38 µs.
    for spec in ("monarch", "low-rank", "kronecker", "btt:n=3"):
        found = route_table(parse_structure(spec).at(8192, 8192), DEFAULT_GPU, Use.merged)
        assert found.at(16).is_dense
        assert not found.at(16384).is_dense
    assert (
        route_table(parse_structure("block-shuffle:blocks=4").at(1024, 1024), DEFAULT_GPU, Use.merged)
        .at(16384)
        .is_dense
    )


def test_a_gpu_trains_factors_whose_copies_fall_away() -> None:
    # 1.30 ms of the factors against 2.99 ms of the merged matrix on an NVIDIA H200.
    found = route_table(parse_structure("btt:r=4").at(4096, 4096), DEFAULT_GPU, Use.training).at(16384)
    assert found.text == "(xA)B"


@pytest.mark.parametrize("profile", [DEFAULT_CPU, DEFAULT_GPU])
def test_predictions_grow_with_tokens_and_training_costs_more(profile: MachineProfile) -> None:
    sized = parse_structure("btt:r=2").at(256, 256)
    for route in routes(sized):
        forward = [inference_ns(route.plan, tokens, profile) for tokens in (16, 256, 4096)]
        assert forward == sorted(forward)
        assert all(
            training_ns(route.plan, tokens, profile) > 2 * inference_ns(route.plan, tokens, profile)
            for tokens in (16, 4096)
        )


def test_the_explanation_has_all_routes_and_marks_the_choice() -> None:
    sized = parse_structure("monarch").at(1024, 1024)
    found = explain(sized, 1024, DEFAULT_CPU, Use.merged)
    assert [item.text for item in found] == ["(xA)B", "x(AB)"]
    assert [item.is_chosen for item in found] == [True, False]
    factors, dense = found
    assert factors.flops == 1024 * 2 * 2 * 32**3
    assert dense.flops == 1024 * 2 * 1024**2
    assert dense.bytes == 4 * (1024**2 + 2 * 1024 * 1024)
    assert factors.bytes > 4 * (2 * 32**3 + 4 * 1024 * 1024)
    assert (factors.intermediate_elements, dense.intermediate_elements) == (1024 * 1024, 0)
    merge = 2 * 1024 * 1024
    unmerged = next(item for item in explain(sized, 1024, DEFAULT_CPU, Use.inference) if item.text == "x(AB)")
    assert (unmerged.flops, unmerged.bytes) == (dense.flops + merge, dense.bytes + 4 * 1024**2)
    assert unmerged.predicted_us > dense.predicted_us
    training = explain(sized, 1024, DEFAULT_CPU, Use.training)
    merged = next(item for item in training if item.text == "x(AB)")
    assert merged.flops == 3 * (dense.flops + merge)
    # Backward: x and twice the output's gradient read, that of x written; the matrix read, its gradient written; the merge.
    assert merged.bytes == dense.bytes + 4 * (4 * 1024 * 1024 + (2 + 3) * 1024**2)
    half = explain(sized, 1024, DEFAULT_GPU, Use.training)
    own = next(item for item in half if item.text == "(xA)B")
    # Nothing is copied on a GPU: x, the intermediate twice and y; backward 3 times as much, and the weights twice more.
    assert own.bytes == 2 * (4 * 1024 * 1024 + 2 * 4 * 1024 * 1024 + 3 * 2 * 32**3)
    best = best_route(sized, 1024, DEFAULT_CPU, Use.merged)
    assert factors.predicted_us == predicted_ns(sized, best, 1024, DEFAULT_CPU, Use.merged) / 1e3


def test_merging_costs_what_torch_counts() -> None:
    layer = EinsumLinear(64, 64, "tt:n=3,r=2")
    (route,) = (route for route in routes(layer.sized) if route.text == "x(ABC)")
    with FlopCounterMode(display=False) as counter:
        merged_weights(layer.plan, route.plan, factors_of(layer))
    assert route.flops_per_merge == counter.get_total_flops() > 0


def test_a_plan_of_groups_keeps_the_orders_of_features() -> None:
    sized = parse_structure("tt:n=3,r=2").at(64, 64)
    own = stored_plan(sized)
    for route in routes(sized):
        assert (route.plan.input_order, route.plan.output_order) == (own.input_order, own.output_order)


def test_the_fast_route_and_the_plain_one_are_separate_code() -> None:
    """Comparing them means something only then."""
    layer = EinsumLinear(64, 64, "btt:r=2", bias=False)
    weights = [factor.detach() for factor in factors_of(layer)]
    x = torch.randn(3, 64)
    y, _ = CpuExecutor(layer.plan, 3).forward(x, None, None, weights)
    torch.testing.assert_close(y, contract(layer.plan, x, weights))
