"""How much a model's output changes when one of its layers has an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.compression.moments import Moments
from einsearch_cli.errors import LayerError

_TINY = 1e-12


def output_of(result: Any) -> Tensor:
    """The main tensor of a model's result: the logits, or else the first floating-point one.

    Raises:
        LayerError: if the result has no such tensor.
    """
    logits = getattr(result, "logits", None)
    if isinstance(logits, Tensor):
        return logits.log_softmax(dim=-1)
    found = next((value for value in _values(result) if value.is_floating_point()), None)
    if found is None:
        raise LayerError(
            f"the model gives {type(result).__name__}, without a tensor of floating point: a budget needs to see how its "
            "output changes",
            remedy="give call=, which returns the tensor that matters, or a structure without keep",
        )
    return found


def _values(result: Any) -> Iterator[Tensor]:
    """The tensors in nested mappings and sequences."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Mapping | tuple | list):
        for value in result.values() if isinstance(result, Mapping) else result:
            yield from _values(value)


def difference(result: Any, expected: Tensor) -> Tensor:
    """The mean Kullback-Leibler divergence of logits in nats, else the squared distance divided by the squared norm."""
    found = output_of(result)
    if getattr(result, "logits", None) is None:
        return (found - expected).square().sum() / expected.square().sum().clamp_min(_TINY)
    rows = found.numel() // found.shape[-1]
    return (expected.exp() * (expected - found)).sum() / rows


def sensitivity(
    weight: Tensor, moments: Moments, keep: float, runs: Sequence[Callable[[], Any]], expected: Sequence[Tensor]
) -> float:
    """Change of the model's output per squared relative error of one layer.

    It is measured at the error of a low-rank layer of the budget's size, since outputs change less per error as errors
    grow. Gradients of the loss hold for small errors only.

    Args:
        weight: (d_out, d_in), a view of the parameter of a layer, changed for the time of the call.
        moments: moments of the layer's inputs.
        keep: share of the parameters to keep.
        runs: the model on some batches.
        expected: the results of `output_of` for them without the change.
    """
    d_out, d_in = weight.shape
    rank = max(1, int(keep * d_in * d_out / (d_in + d_out)))
    dense = weight.detach().to("cpu", torch.float64)
    root = torch.linalg.cholesky(moments.second)
    u, s, v = torch.linalg.svd(dense @ root, full_matrices=False)
    near = torch.linalg.solve_triangular(root, (u[:, :rank] * s[:rank]) @ v[:rank], upper=False, left=False)
    error = float(s[rank:].square().sum() / s.square().sum().clamp_min(_TINY))
    kept = weight.detach().clone()
    try:
        weight.data.copy_(near)
        changes = [difference(run(), before).item() for run, before in zip(runs, expected, strict=True)]
    finally:
        weight.data.copy_(kept)
    mean = math.fsum(changes) / len(changes)
    return max(mean, _TINY) / max(error, _TINY)
