"""A training step as a CUDA graph: the GPU repeats its kernels from one call of Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from einsearch_cli.data import Batch

_WARM_UPS = 3
"""Steps before the capture, in which cuBLAS and the allocator get the memory that they need."""


class StepGraph:
    """A step with fixed shapes that never waits for the device, captured once.

    Args:
        step: a function from (fraction of the learning rates, *batch) to losses.
        state: all tensors that the step changes and that outlive it; the capture leaves them unchanged.
        batch: a batch with the shape of all later ones.
    """

    def __init__(self, step: Callable[..., Tensor], state: Sequence[Tensor], batch: Batch) -> None:
        self._batch = Batch(*(tensor.clone() for tensor in batch))
        self._fraction = torch.ones((), device=state[0].device)
        before = [tensor.clone() for tensor in state]
        self._graph, self._losses = _captured(lambda: step(self._fraction, *self._batch))
        for tensor, values in zip(state, before, strict=True):
            tensor.copy_(values)

    def run(self, fraction: float, batch: Batch) -> Tensor:
        """The losses of one step, which have not been read yet."""
        self._fraction.fill_(fraction)
        for own, given in zip(self._batch, batch, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._losses.clone()


def _captured(step: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(
        graph, stream=aside
    ):  # torch's own stream for captures stays on the device of the first capture
        losses = step()
    return graph, losses
