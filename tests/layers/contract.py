"""The contract of layers with torch: differentiating, transforming, tracing and copying give the right values.

A subclass of `LayerContract` supplies subjects. The numbers to compare with come from finite differences in float64,
or from the same layer called as any user calls it, in a loop.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

STEP = 1e-5
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """A layer in float64, an input, and the rest of the loss."""

    layer: nn.Module
    x: Tensor

    @property
    def values(self) -> Tensors:
        """The input as `x` and all parameters by name, as separate leaves."""
        named = {"x": self.x, **dict(self.layer.named_parameters())}
        return {name: value.detach().clone().requires_grad_() for name, value in named.items()}

    def output(self, values: Tensors) -> Tensor:
        parameters = {name: value for name, value in values.items() if name != "x"}
        result: Tensor = functional_call(self.layer, parameters, (values["x"],))
        return result

    def loss(self, values: Tensors) -> Tensor:
        return loss_of(self.output(values))

    def gradient(self, values: Tensors, **options: Any) -> Tensors:
        """The first derivatives of the loss; unused values have zero."""
        return gradient(self.loss(values), values, **options)


def loss_of(y: Tensor) -> Tensor:
    """A loss whose curvature depends on the point."""
    return y.square().sum() / 2 + y.sin().sum()


def gradient(result: Tensor, values: Tensors, **options: Any) -> Tensors:
    found = torch.autograd.grad(result, list(values.values()), materialize_grads=True, **options)
    return dict(zip(values, found, strict=True))


def random_like(values: Tensors, seed: int = 7) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in values.items()}


def moved(values: Tensors, direction: Tensors, step: float) -> Tensors:
    return {
        name: (value.detach() + step * direction[name]).requires_grad_() if name in direction else value
        for name, value in values.items()
    }


def slope(function: Callable[[Tensors], Any], values: Tensors, direction: Tensors) -> Any:
    """The central difference quotient of a tensor, or of a dictionary of tensors."""
    after, before = (function(moved(values, direction, sign * STEP)) for sign in (1, -1))
    if isinstance(after, dict):
        return {name: (after[name] - before[name]).detach() / (2 * STEP) for name in after}
    return (after - before).detach() / (2 * STEP)


def product(first: Tensors, second: Tensors) -> Tensor:
    return torch.stack([(first[name] * second[name]).sum() for name in first]).sum()


def assert_same(found: Tensors, wanted: Tensors, tolerance: float = 1e-9) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


def replicas_of(module: nn.Module, count: int, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Replicas by torch's own code, as `nn.DataParallel` makes them: plain tensors in place of parameters."""

    def copies(tensors: list[Tensor], devices: list[int], detach: bool = False) -> list[list[Tensor]]:
        return [[tensor.detach() if detach else tensor * 1.0 for tensor in tensors] for _ in devices]

    # The only part that needs a GPU.
    monkeypatch.setattr(sys.modules["torch.nn.parallel.replicate"], "_broadcast_coalesced_reshape", copies)
    return nn.parallel.replicate(module, list(range(count)), detach=not torch.is_grad_enabled())


def in_thread(function: Callable[[], Any], grad: bool = True) -> Any:
    """The result of a function that runs in a separate thread, as those of `nn.DataParallel` do."""

    def run() -> Any:
        with torch.set_grad_enabled(grad):
            return function()

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(run).result()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, from forward mode and traces
@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True:UserWarning")
class LayerContract:
    """Tests for subclasses, which parametrize the fixture `subject`."""

    @pytest.fixture
    def subject(self) -> Subject:
        raise NotImplementedError

    def test_first_derivatives(self, subject: Subject) -> None:
        values = subject.values
        found, direction = subject.gradient(values), random_like(values)
        for name in values:
            along = {name: direction[name]}
            wanted = slope(subject.loss, values, along)
            torch.testing.assert_close((found[name] * along[name]).sum(), wanted, rtol=1e-6, atol=1e-6, msg=name)

    def test_second_derivatives_in_input_and_weights(self, subject: Subject) -> None:
        values = subject.values
        first = subject.gradient(values, create_graph=True)
        assert_same(first, subject.gradient(values))
        for name, direction in random_like(values).items():
            along = {name: direction}
            found = gradient((first[name] * direction).sum(), values, retain_graph=True)
            assert_same(found, slope(subject.gradient, values, along), tolerance=1e-6)

    def test_functional_products_with_the_hessian(self, subject: Subject) -> None:
        values = subject.values
        direction, names = random_like(values), list(values)

        def loss(*tensors: Tensor) -> Tensor:
            return subject.loss(dict(zip(names, tensors, strict=True)))

        inputs, vectors = tuple(values.values()), tuple(direction.values())
        wanted = slope(subject.gradient, values, direction)
        for function in (torch.autograd.functional.hvp, torch.autograd.functional.vhp):
            _, found = function(loss, inputs, vectors)
            assert_same(dict(zip(names, found, strict=True)), wanted, tolerance=1e-6)

    def test_gradient_penalty(self, subject: Subject) -> None:
        def penalised(values: Tensors, **options: Any) -> Tensor:
            (slopes,) = torch.autograd.grad(subject.loss(values), values["x"], **options)
            return slopes.square().sum()

        values = subject.values
        found, direction = gradient(penalised(values, create_graph=True), values), random_like(values)
        for name in values:
            along = {name: direction[name]}
            wanted = slope(penalised, values, along)
            torch.testing.assert_close((found[name] * along[name]).sum(), wanted, rtol=1e-5, atol=1e-5, msg=name)

    def test_backward_through_a_backward_pass(self, subject: Subject) -> None:
        values = subject.values
        first = subject.gradient(values)
        wanted = slope(subject.gradient, values, first)  # H g, of which ∂(g²/2) is made
        layer = copy.deepcopy(subject.layer)
        x = subject.x.clone().requires_grad_()
        leaves = {"x": x, **dict(layer.named_parameters())}
        loss_of(layer(x)).backward(create_graph=True)
        kept = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        assert_same({name: value.detach() for name, value in kept.items()}, {name: first[name] for name in kept})
        for leaf in leaves.values():
            leaf.grad = None
        (sum(value.square().sum() for value in kept.values()) / 2).backward()  # type: ignore[union-attr]
        found = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
        assert_same(found, wanted, tolerance=1e-6)

    def test_third_derivatives(self, subject: Subject) -> None:
        values = subject.values
        direction = random_like(values)

        def second(values: Tensors, **options: Any) -> Tensors:
            first = subject.gradient(values, create_graph=True)
            return gradient(product(first, direction), values, **options)

        found = gradient(product(second(values, create_graph=True), direction), values)
        assert_same(found, slope(second, values, direction), tolerance=1e-5)

    def test_a_layer_in_series(self, subject: Subject) -> None:
        """The input of the second call depends on the parameters too."""
        values = subject.values
        width, wide = subject.x.shape[-1], subject.output(values).shape[-1]
        back = random_like({"back": torch.empty(wide, width, dtype=torch.float64)})["back"] / wide**0.5

        def twice(values: Tensors) -> Tensor:
            hidden = torch.tanh(subject.output(values) @ back)
            return loss_of(subject.output({**values, "x": hidden}))

        def first(values: Tensors, **options: Any) -> Tensors:
            return gradient(twice(values), values, **options)

        direction = random_like(values)
        found = gradient(product(first(values, create_graph=True), direction), values)
        assert_same(found, slope(first, values, direction), tolerance=1e-6)

    def test_batches_of_output_gradients(self, subject: Subject) -> None:
        values = subject.values
        y = subject.output(values)
        grads = random_like({"y": torch.empty(3, *y.shape, dtype=torch.float64)})["y"]
        options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
        inputs = list(values.values())
        together = torch.autograd.grad(y, inputs, grads, is_grads_batched=True, **options)
        for number, grad in enumerate(grads):
            for found, wanted in zip(together, torch.autograd.grad(y, inputs, grad, **options), strict=True):
                assert (found is None) is (wanted is None)
                if found is not None:
                    torch.testing.assert_close(found[number], wanted, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    def test_vectorized_jacobian_and_hessian(self, subject: Subject, strategy: str) -> None:
        parameters = {name: value.detach() for name, value in subject.values.items()}

        def output(x: Tensor) -> Tensor:
            return subject.output({**parameters, "x": x})

        jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
        wanted = jacobian(output, subject.x)
        found = jacobian(output, subject.x, vectorize=True, strategy=strategy)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        wanted = hessian(lambda x: loss_of(output(x)), subject.x)
        found = hessian(lambda x: loss_of(output(x)), subject.x, vectorize=True, outer_jacobian_strategy=strategy)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)

    def test_forward_mode(self, subject: Subject) -> None:
        values = {name: value.detach() for name, value in subject.values.items()}
        direction = random_like(values)
        wanted = slope(subject.output, values, direction)
        y, tangent = torch.func.jvp(subject.output, (values,), (direction,))
        torch.testing.assert_close(y, subject.output(values), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(tangent, wanted, rtol=1e-6, atol=1e-6)
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(value, direction[name]) for name, value in values.items()}
            y, tangent = forward_ad.unpack_dual(subject.output(duals))
            torch.testing.assert_close(tangent, wanted, rtol=1e-6, atol=1e-6)

    def test_transforms_that_differentiate(self, subject: Subject) -> None:
        values = subject.values
        assert_same(torch.func.grad(subject.loss)(values), subject.gradient(values))
        direction = random_like(values)
        forward_over_reverse = torch.func.jvp(torch.func.grad(subject.loss), (values,), (direction,))[1]
        assert_same(forward_over_reverse, slope(subject.gradient, values, direction), tolerance=1e-6)
        parameters = {name: value.detach() for name, value in values.items()}

        def output(x: Tensor) -> Tensor:
            return subject.output({**parameters, "x": x})

        wanted = torch.autograd.functional.jacobian(output, subject.x)
        for transform in (torch.func.jacrev, torch.func.jacfwd):
            torch.testing.assert_close(transform(output)(subject.x), wanted, rtol=1e-9, atol=1e-9)
        wanted = torch.autograd.functional.hessian(lambda x: loss_of(output(x)), subject.x)
        found = torch.func.hessian(lambda x: loss_of(output(x)))(subject.x)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)

    def test_vmap_over_inputs_and_gradients_of_single_samples(self, subject: Subject) -> None:
        values = {name: value.detach() for name, value in subject.values.items()}
        samples = random_like({"x": torch.empty(3, *subject.x.shape, dtype=torch.float64)}, seed=8)["x"]
        axes = {name: 0 if name == "x" else None for name in values}
        stacked = {**values, "x": samples}
        single = [{**values, "x": sample} for sample in samples]
        found = torch.func.vmap(subject.output, in_dims=(axes,))(stacked)
        torch.testing.assert_close(found, torch.stack([subject.output(one) for one in single]), rtol=1e-9, atol=1e-9)
        gradients = torch.func.vmap(torch.func.grad(subject.loss), in_dims=(axes,))(stacked)
        for number, one in enumerate(single):
            leaves = {name: value.clone().requires_grad_() for name, value in one.items()}
            assert_same({name: value[number] for name, value in gradients.items()}, subject.gradient(leaves))

    def test_vmap_over_an_ensemble_of_layers(self, subject: Subject) -> None:
        values = {name: value.detach() for name, value in subject.values.items()}
        members = [values, {name: value * 1.1 for name, value in values.items()}]
        stacked = {name: torch.stack([member[name] for member in members]) for name in values}
        found = torch.func.vmap(subject.output)(stacked)
        wanted = torch.stack([subject.output(member) for member in members])
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)

    def test_functional_call(self, subject: Subject) -> None:
        """With other parameters, the layer computes like one that has them."""
        other = copy.deepcopy(subject.layer)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.1)
        found = functional_call(subject.layer, dict(other.named_parameters()), (subject.x,))
        torch.testing.assert_close(found, other(subject.x), rtol=1e-9, atol=1e-9)

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of widths, which are to be constants
    @pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
    def test_traces_serve_any_values(self, subject: Subject, grad: bool) -> None:
        layer = copy.deepcopy(subject.layer)
        with torch.set_grad_enabled(grad):
            traced = torch.jit.trace(layer, subject.x)
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.mul_(1.1)
            for seed in (8, 9):
                x = random_like({"x": subject.x}, seed)["x"]
                torch.testing.assert_close(traced(x), layer(x), rtol=1e-9, atol=1e-9)
            x = torch.cat([subject.x, x])  # another number of tokens
            torch.testing.assert_close(traced(x), layer(x), rtol=1e-9, atol=1e-9)

    def test_replicas_in_threads(self, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with `nn.DataParallel`: the batch is halved, and the gradients are summed in the parameters."""
        halves = [subject.x, random_like({"x": subject.x}, seed=8)["x"]]
        layer = copy.deepcopy(subject.layer)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                replicas = replicas_of(layer, 2, monkeypatch)
                assert not any(list(replica.parameters()) for replica in replicas)
                calls = [partial(replica, half) for replica, half in zip(replicas, halves, strict=True)]
                outputs = [in_thread(call, grad) for call in calls]
                for half, y in zip(halves, outputs, strict=True):
                    torch.testing.assert_close(y, layer(half), rtol=1e-9, atol=1e-9)
        named = dict(layer.named_parameters())
        wanted = gradient(sum(loss_of(layer(half)) for half in halves), named)  # type: ignore[arg-type]
        assert_same(gradient(sum(loss_of(y) for y in outputs), named), wanted)  # type: ignore[arg-type]

    @pytest.mark.parametrize("reentrant", [False, True], ids=["default", "reentrant"])
    def test_checkpointing(self, subject: Subject, reentrant: bool) -> None:
        layer = copy.deepcopy(subject.layer)
        leaves = {"x": subject.x.clone().requires_grad_(), **dict(layer.named_parameters())}
        first = subject.gradient(subject.values)
        y = checkpoint(layer, leaves["x"], use_reentrant=reentrant)
        assert isinstance(y, Tensor)
        if reentrant:
            loss_of(y).backward()
            found = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
            assert_same(found, first)
            return
        found = gradient(loss_of(y), leaves, create_graph=True)
        assert_same(found, first)
        values, direction = subject.values, random_like(leaves)
        wanted = slope(subject.gradient, values, direction)
        assert_same(gradient(product(found, direction), leaves), wanted, tolerance=1e-6)

    def test_copies_differentiate_alike(self, subject: Subject) -> None:
        memory = io.BytesIO()
        torch.save(subject.layer, memory)
        memory.seek(0)
        copies = [
            copy.deepcopy(subject.layer),
            pickle.loads(pickle.dumps(subject.layer)),  # noqa: S301
            torch.load(memory, weights_only=False),
        ]
        values = subject.values
        direction = random_like(values)
        first = subject.gradient(values, create_graph=True)
        wanted = gradient(product(first, direction), values)
        for other in copies:
            twin = Subject(other, subject.x)
            leaves = twin.values
            found = gradient(product(twin.gradient(leaves, create_graph=True), direction), leaves)
            assert_same(found, wanted)
