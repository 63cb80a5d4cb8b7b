"""Gradients by the reference: they can be differentiated again, and computed for a batch of output gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from einsearch_cli.layers.torch_private import is_batch_of_gradients

_is_grad_enabled = torch.is_grad_enabled


def needs_reference_gradients(grad: Tensor) -> bool:
    """Whether a backward pass is to be differentiated again, or runs for many output gradients at once.

    The first is `create_graph=True`, the second `is_grads_batched=True`.
    """
    return _is_grad_enabled() or is_batch_of_gradients(grad)


def reference_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of the `inputs` of a function where wanted, by torch's autograd, from the gradient of its result.

    The gradient may stand for a batch of gradients.
    """
    creates_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: an input may itself depend on a factor, as where a layer is applied in series. That way is not ours.
        aliases = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        asked = [tensor for tensor, wants in zip(aliases, wanted, strict=True) if wants and tensor is not None]
        found = iter(torch.autograd.grad(function(*aliases), asked, grad, create_graph=creates_graph))
    return [next(found) if wants and tensor is not None else None for tensor, wants in zip(inputs, wanted, strict=True)]
