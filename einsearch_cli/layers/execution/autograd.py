"""Executors as functions of torch: one for autograd, and one operator with its gradient for compiled code.

The code that `torch.compile` makes from plain operations copies every rearranged operand. A training step of monarch
then took 3.4 times that of the eager layer on a CPU (width 1024, 4,096 tokens) and 10.5 times on an H200 (width 8192).
So compilers call an opaque operator. It uses the layer's own sequence of factors for any number of tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.execution.choose import executor_for
from einsearch_cli.layers.execution.executor import Executor, Saved, reference_layer
from einsearch_cli.layers.execution.reference import needs_reference_gradients, reference_gradients
from einsearch_cli.layers.plans.chunking import kept_when_compiled
from einsearch_cli.layers.plans.plan import Call, Plan
from einsearch_cli.layers.torch_private import saving_hooks


class _Executed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, executor: Executor, x: Tensor, gain: Tensor | None, bias: Tensor | None, *factors: Tensor
    ) -> Tensor:
        ctx.executor = executor
        ctx.save_for_backward(x, gain, bias, *factors)
        keeps = executor.keeps if True in ctx.needs_input_grad and may_save() else None
        y, ctx.saved = executor.forward(x, gain, bias, factors, keeps)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, wanted, (grad,) = ctx.saved_tensors, ctx.needs_input_grad[1:], grads
        if needs_reference_gradients(grad):
            return None, *reference_gradients(ctx.executor.reference, inputs, grad, wanted)
        # The first pass may overwrite saved results; a second one over the same graph computes them again.
        saved, ctx.saved = ctx.saved, None
        return None, *ctx.executor.backward(inputs, saved, grad, wanted)


execute: Any = super(torch.autograd.Function, _Executed).apply
"""A function of (executor, x, gain, bias, *factors) that returns the output, differentiable.

It is `_Executed.apply` without the check of every argument for function transforms, which never get here.
"""


def may_save() -> bool:
    """Whether results may be saved; not under hooks, such as checkpointing's, which want no results in memory."""
    return saving_hooks(True) is None


_plans: dict[str, Plan] = {}


def register_plan(plan: Plan) -> str:
    """The name by which the operators find a layer's plan; it is the same in every process."""
    sized = plan.sized
    name = f"{sized.structure} of {sized.padded_in} to {sized.padded_out}: {sized.sizes}, {sized.order or 'fast'}"
    _plans[name] = plan
    return name


# Schemas are written out: not every version of torch reads them from annotations such as list[Tensor].
@torch.library.custom_op(
    "einsearch::structured_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor gain, Tensor? bias, Tensor[] factors, str name, bool keeps) -> Tensor[]",
)
def structured_linear(
    x: Tensor, gain: Tensor, bias: Tensor | None, factors: list[Tensor], name: str, keeps: bool
) -> list[Tensor]:
    """Map (tokens, padded_in) to (tokens, padded_out); with `keeps`, also return the step results that backward needs."""
    executor, kept = executor_of(name, x), kept_results(name, x)
    y, saved = executor.forward(x, gain, bias, factors, kept if keeps else None)
    if saved is None:
        return [y]
    results = zip(saved.results, _plans[name].widths[1:-1], kept, strict=True)
    return [y, *(result.view(x.shape[0], width) for result, width, keeps in results if keeps and result is not None)]


@torch.library.custom_op(
    "einsearch::structured_linear_gradients",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor gain, Tensor[] factors, Tensor[] saved, str name, bool[] wanted) -> Tensor[]",
)
def structured_linear_gradients(
    grad: Tensor, x: Tensor, gain: Tensor, factors: list[Tensor], saved: list[Tensor], name: str, wanted: list[bool]
) -> list[Tensor]:
    """The wanted gradients of x, gain, bias and factors."""
    given = iter(saved)
    results = [next(given) if keeps else None for keeps in kept_results(name, x)]
    inputs = x, gain, None, *factors
    found = executor_of(name, x).backward(inputs, Saved(None, results, may_overwrite=False), grad, wanted)
    return [gradient for gradient, wants in zip(found, wanted, strict=True) if wants and gradient is not None]


@structured_linear.register_fake
def _(x: Tensor, _gain: Tensor, _bias: Tensor | None, _factors: list[Tensor], name: str, keeps: bool) -> list[Tensor]:
    widths = zip(_plans[name].widths[1:-1], kept_results(name, x), strict=True)
    saved = [x.new_empty(x.shape[0], width) for width, kept in widths if kept and keeps]
    return [x.new_empty(x.shape[0], _plans[name].padded_out), *saved]


@structured_linear_gradients.register_fake
def _(
    grad: Tensor, x: Tensor, gain: Tensor, factors: list[Tensor], _saved: list[Tensor], _name: str, wanted: list[bool]
) -> list[Tensor]:
    # They are contiguous, whatever the factors are; under autocast, the gain has its own dtype.
    alike = [(x, x.shape), (gain, gain.shape), (grad, grad.shape[1:]), *((factor, factor.shape) for factor in factors)]
    return [tensor.new_empty(shape) for (tensor, shape), wants in zip(alike, wanted, strict=True) if wants]


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, gain, bias, factors, ctx.name, _ = inputs
    ctx.count = 3 + len(factors)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gain, bias, *factors, *output[1:])


def _backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    inputs, saved = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
    wants_x, wants_gain, wants_bias, wants_factors, *_ = ctx.needs_input_grad
    wanted, grad = [wants_x, wants_gain, wants_bias, *wants_factors], grads[0]
    if grad is not None and needs_reference_gradients(grad):
        found = reference_gradients(partial(reference_layer, _plans[ctx.name]), inputs, grad, wanted)
    else:
        x, gain, _, *factors = inputs
        given = iter(structured_linear_gradients(grad, x, gain, factors, list(saved), ctx.name, wanted))
        found = [next(given) if wants else None for wants in wanted]
    return *found[:3], found[3:], None, None


structured_linear.register_autograd(_backward, setup_context=_set_up)


def executor_of(name: str, x: Tensor) -> Executor:
    """The executor of an operator for x, from the name of the plan."""
    return executor_for(_plans[name], Call(x.device.type, x.dtype, x.shape[0]))


def kept_results(name: str, x: Tensor) -> tuple[bool, ...]:
    """Which results are saved; in compiled code, this must not depend on the number of tokens."""
    return kept_when_compiled(_plans[name], Call(x.device.type, x.dtype, 1))
