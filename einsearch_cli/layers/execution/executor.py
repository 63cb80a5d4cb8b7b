"""`Executor`: one way to compute a layer, and its gradients, on one kind of device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from einsearch_cli.layers.execution.reference import contract
from einsearch_cli.layers.execution.scaling import reference_scaled
from einsearch_cli.layers.plans.plan import Call, Plan

MaybeTensor = Tensor | None
Tensors = Sequence[Tensor]
Inputs = Sequence[Any]
"""Tensors x, gain, bias and factors; gain and bias may be None."""


class Saved(NamedTuple):
    """The values that a forward pass saves for the backward pass in addition to its inputs.

    Compiled code passes `Saved(None, results, may_overwrite=False)` to `backward`, whatever `forward` saved: the scale
    is None, and `results` are tensors (tokens, width), or None, for the steps of the plan but the last.
    """

    scale: Any
    """The scale in the executor's form; None if it has to be computed again."""
    results: Sequence[Any]
    """Results of all steps but the last; None for those that have to be computed again.

    `DenseExecutor`, which compiled code never calls, saves its matrix here, and the values for its gradient.
    """
    may_overwrite: bool = True
    """Whether `backward` may write into the results; compiled code owns them and may use them again."""


Keeps = Sequence[bool] | None
"""Which results of the steps a differentiable call saves; None for a call that is not differentiable."""
Output = tuple[Tensor, Saved | None]


class Executor:
    """Computes y = scale · W x + bias for a fixed number of tokens, with the scale of gain and factors (`scaling`).

    To support another device, derive a class with `forward` and `backward`, and return it from `executor_for`.
    `tests/layers/test_executors.py` runs every executor against the reference. There are three callers:

    - `execute`, for autograd: hands the value that `forward` saved to the first `backward`, and None to later ones.
    - Compiled code (`structured_linear`): reads `saved.results` step by step. Where `kept_when_compiled` says that a
      step is kept, `forward` must return the result of this step, of shape (tokens, width). `backward` gets these
      alone, as `Saved(None, results, may_overwrite=False)`.
    - Merged layers: call `forward` with scaled factors in their `prepared` form and gain=None, without gradients. So
      do layers whose factors were multiplied first (`scaled`, `merged_weights`), with gradients: gain=None there too.
    """

    name: ClassVar[str]
    """The name that `EinsumLinear.explain` shows."""
    takes_stored: ClassVar[bool] = False
    """Whether factors are those of the plan `stored`, rather than those of the plan's own steps."""
    plan: Plan
    keeps: Sequence[bool]
    """Which step results a differentiable call saves by default."""

    def __init__(self, plan: Plan, stored: Plan | None = None) -> None:
        """`stored` is the plan of the given factors, if they are not those of the plan's own steps."""
        self.plan, self._stored = plan, stored or plan
        self.limits = self._stored.limits

    def forward(self, x: Tensor, gain: MaybeTensor, bias: MaybeTensor, factors: Tensors, keeps: Keeps = None) -> Output:
        """Map (..., padded_in) to (..., padded_out); with `keeps`, also return what `backward` may use.

        Factors are those of the plan's steps in their order; without a gain they are already scaled.
        """
        raise NotImplementedError

    def backward(self, inputs: Inputs, saved: Saved | None, grad: Tensor, wanted: Sequence[bool]) -> list[MaybeTensor]:
        """The wanted gradients of the inputs (x, gain, bias, *factors); values that were not saved are computed again."""
        raise NotImplementedError

    def reference(self, x: Tensor, gain: MaybeTensor, bias: MaybeTensor, *factors: Tensor) -> Tensor:
        """The output in operations that torch itself can differentiate any number of times."""
        return reference_layer(self._stored, x, gain, bias, *factors)

    def chunks(self, tokens: int) -> tuple[int, ...]:
        """The numbers of tokens that go through all products one after another."""
        return (tokens,)

    def is_fused(self, call: Call) -> bool:  # noqa: ARG002
        """Whether one kernel computes all products of such a call, and keeps no result, whatever `keeps` says."""
        return False

    def prepared(self, factors: Tensors) -> Tensors:
        """The factors in a form that `forward` also takes, for callers that pass the same ones many times."""
        return factors


def reference_layer(plan: Plan, x: Tensor, gain: MaybeTensor, bias: MaybeTensor, *factors: Tensor) -> Tensor:
    """The layer's output (..., padded_out) for x (..., padded_in); without a gain, nothing is scaled."""
    if gain is not None:
        factors = tuple(reference_scaled(gain, factors, plan.limits))
    y = contract(plan, x.reshape(-1, x.shape[-1]), factors)
    return (y if bias is None else y + bias).reshape(*x.shape[:-1], y.shape[1])
