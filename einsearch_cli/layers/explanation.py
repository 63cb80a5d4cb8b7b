"""The explanation of a call of some size: its route, products, chunks and executor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.autocast import autocast_dtype, cast_dtype
from einsearch_cli.layers.execution.choose import executor_for
from einsearch_cli.layers.inputs import check_dtype, checked_device
from einsearch_cli.layers.plans.machine_profile import profile_for
from einsearch_cli.layers.plans.plan import Call, Plan, Step
from einsearch_cli.layers.plans.planner import Route, Use, predicted_ns, routes
from einsearch_cli.sizing import SizedStructure


@dataclass(frozen=True, slots=True)
class LayerExplanation:
    """The result of `EinsumLinear.explain`; `str()` of it is for people."""

    sized: SizedStructure
    tokens: int
    use: Use
    device: str
    """Kind of device, such as `cpu`."""
    dtype: torch.dtype
    """The dtype of the products."""
    route: str
    """The route, such as `(xA)B`, or `x(AB)` if factors are multiplied first."""
    plan: Plan
    """The products for this many tokens."""
    executor: str
    """The name of what computes the call.

    `cpu` runs the plan's steps in chunks of tokens, `gpu` at once, and `fused kernel` is one kernel of a GPU for all
    steps, if it runs there. `dense` forms one matrix, and `kept matrix` is the matrix that a merged layer keeps.
    """
    chunks: tuple[int, ...]
    """Number of tokens of every chunk."""
    kept: tuple[bool, ...]
    """Whether the result of each step but the last is kept for the backward pass; empty without a backward pass."""
    predicted_us: dict[str, float]
    """Predicted microseconds of every route that the planner compares."""

    def __str__(self) -> str:
        sized, dtype = self.sized, str(self.dtype).removeprefix("torch.")
        tokens = "1 token" if self.tokens == 1 else f"{self.tokens:,} tokens"
        lines = [
            f"{sized.structure}, {sized.d_in:,} → {sized.d_out:,}: {self.use.value}, {tokens}, {dtype} on {self.device}",
            f"route     {self.route}: {self.plan.flops_per_token:,} FLOPs per token, dense "
            f"{2 * sized.d_in * sized.d_out:,}",
            f"executor  {self.executor}, {_parts(self.chunks)}",
        ]
        for number, step in enumerate(self.plan.steps):
            is_again = number < len(self.kept) and not self.kept[number]
            lines.append(f"step {number + 1}    {_product(step, self.tokens)}{', computed again backward' * is_again}")
        predicted = sorted(self.predicted_us.items(), key=lambda item: item[1])
        lines.append("predicted " + ", ".join(f"{route} {us:,.3g} µs" for route, us in predicted))
        return "\n".join(lines)


def checked_use(use: Use | str) -> Use:
    """The use; LayerError if there is none of that name."""
    if use not in set(Use):
        raise LayerError(f"use {use!r}: layers have a route for each use", remedy=f"one of {', '.join(Use)}")
    return Use(use)


def checked_call(
    gain: Tensor, tokens: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Call:
    """A call of a layer with this gain, by default on its device and in its dtype, or that of autocast.

    Raises:
        LayerError: for a number of tokens that is not whole, or an unknown device or dtype.
    """
    if type(tokens) is not int or tokens < 0:
        raise LayerError(f"tokens {tokens!r}: they are counted", remedy="a whole number from 0")
    place = gain.device.type if device is None else checked_device(device).type
    dtype = dtype or cast_dtype(gain, autocast_dtype(gain))
    check_dtype(dtype)
    return Call(place, dtype, tokens)


def explanation(own: Plan, route: Route, use: Use, call: Call) -> LayerExplanation:
    """Explain how a layer of the plan `own` uses `route` in a call."""
    sized, profile = own.sized, profile_for(call.device, torch.get_num_threads(), call.dtype)
    tokens, executor = call.tokens, executor_for(route.plan, call, None if use is Use.merged else own)
    is_fused = executor.is_fused(call)
    name = "fused kernel" if is_fused else executor.name
    return LayerExplanation(
        sized=sized,
        tokens=tokens,
        use=use,
        device=call.device,
        dtype=call.dtype,
        route=route.text,
        plan=executor.plan,
        executor="kept matrix" if use is Use.merged and route.is_dense else name,
        chunks=executor.chunks(tokens),
        kept=tuple(keeps and not is_fused for keeps in executor.keeps) if use is Use.training else (),
        predicted_us={each.text: predicted_ns(sized, each, tokens, profile, use) / 1e3 for each in routes(sized)},
    )


def _parts(chunks: tuple[int, ...]) -> str:
    if len(chunks) == 1:
        return "in one piece"
    first, last = chunks[0], chunks[-1]
    return f"in {len(chunks)} chunks of {first:,} tokens" + (f", the last of {last:,}" if last != first else "")


def _product(step: Step, tokens: int) -> str:
    batch, rows, k, n = step.extents(tokens)
    name = step.factor if len(step.factor) == 1 else f"({step.factor})"
    return f"{name}: {f'{batch:,} × ' if batch > 1 else ''}({rows:,} × {k:,}) · ({k:,} × {n:,})"
