"""A training step as a CUDA graph: a GPU repeats it from its own memory, and Python sends one call for all its kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from einsearch_cli.data import Batch

_WARM_UPS = 3
"""Steps before the capture, in which cuBLAS and the allocator take what they need."""


class StepGraph:
    """A step whose shapes are fixed and which waits for nothing, captured once.

    Args:
        step: (fraction of the learning rates, *batch) to losses.
        state: all tensors that the step changes and that outlive it; the capture leaves them as they were.
        batch: like all batches to come.
    """

    def __init__(self, step: Callable[..., Tensor], state: Sequence[Tensor], batch: Batch) -> None:
        self._batch = Batch(*(tensor.clone() for tensor in batch))
        self._fraction = torch.ones((), device=state[0].device)
        before = [tensor.clone() for tensor in state]
        self._graph, self._losses = _captured(lambda: step(self._fraction, *self._batch))
        for tensor, values in zip(state, before, strict=True):
            tensor.copy_(values)

    def run(self, fraction: float, batch: Batch) -> Tensor:
        """The losses of one step, of which nothing has been read yet."""
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
    ):  # torch's own stream for captures stays on the first device that had one
        losses = step()
    return graph, losses
