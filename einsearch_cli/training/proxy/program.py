"""One training step of several runs as a program: losses and gradients, written down once, run in every step.

`torch.func` makes the network and the task's loss a function of one row of parameters, batched over runs; a recorder
writes down the operations of its forward and backward pass. What runs then is straight-line code without autograd, modules
or transforms, and there is no second network to maintain.
"""

# Axes in this file: R runs, P parameters of a run.

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.data import Batch
from einsearch_cli.layers.contractions.first_order import first_order_gradients
from einsearch_cli.layers.memory import return_memory
from einsearch_cli.models import StructuredNetwork
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.flat_update import FlatLayout
from einsearch_cli.training.proxy.folding import FoldedAttention
from einsearch_cli.training.proxy.recording import NotAProgramError, recorded
from einsearch_cli.training.proxy.rewrites import rewritten

_KEPT: Final = 64
"""Programs that a process keeps: a study returns to the same networks stage after stage."""


@dataclass(frozen=True)
class StepProgram:
    """Losses and gradients of a batch of every run."""

    compute: Callable[..., tuple[Tensor, Tensor]]
    """(values_RP, inputs, targets), the data with the runs as first axis, to losses_R and gradients_RP."""
    product_flops: int
    """FLOPs of all matrix products for one run, attention left out where it is an operation of its own."""
    has_attention: bool
    """Whether it is."""


_programs: OrderedDict[Hashable, StepProgram] = OrderedDict()
_rounds_alike: dict[Hashable, bool] = {}
"""Whether runs of a pack are what they are alone, by task and network; the same for packs of any size."""
_TRIED: Final = 3
"""Random values at which that is tried: of 30 networks that round otherwise one value shows 26, three show 29."""
_ROUNDS_OTHERWISE: Final = "products of several runs at once round otherwise than those of one"


def step_program(
    key: Hashable, task: AnyTask, model: StructuredNetwork, layout: FlatLayout, values_RP: Tensor, batch: Batch
) -> StepProgram:
    """The program for this key, written down if it is new; `batch` has the runs as first axis.

    Args:
        key: equal for equal tasks and networks.
        task: whose loss it is.
        model: the network; its own parameters take no part.
        layout: of a row of the values.
        values_RP: the parameters of every run.
        batch: of the shape of all batches to come.

    Raises:
        NotAProgramError: the loss or the network decides by the values of tensors, or draws random numbers; or several runs
            would not be what each is alone.
    """
    runs, name = len(values_RP), key
    key = (key, layout, *(tensor.shape[1:] for tensor in batch), values_RP.device, torch.get_num_threads())
    if not _rounds_alike.get(key, True):
        raise NotAProgramError(_ROUNDS_OTHERWISE)
    if (key, runs) not in _programs:
        program = _step_program(task, model, layout, values_RP, batch)
        if runs > 1 and key not in _rounds_alike:
            alone = step_program(name, task, model, layout, values_RP[1:2], _only(batch, 1))
            _rounds_alike[key] = _is_alike(program, alone, values_RP, batch)
            if not _rounds_alike[key]:
                raise NotAProgramError(_ROUNDS_OTHERWISE)
        _programs[key, runs] = program
        while len(_programs) > _KEPT:
            _programs.popitem(last=False)
        return_memory()  # what stays of a program pins the space of a step's tensors: 8 programs took 280 MB, and now 170
    _programs.move_to_end((key, runs))
    return _programs[key, runs]


def _is_alike(pack: StepProgram, alone: StepProgram, values_RP: Tensor, batch: Batch) -> bool:
    """Whether the second run of a pack has the numbers that it has alone, to the last bit, at random values.

    MKL's products round otherwise where a matrix begins off a cache line, as those of the second run do where a matrix of
    one run is no multiple of a line: with 46 × 46 numbers, not with 48 × 48. The last bits grow to 1% of a loss in a whole run.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(_TRIED):
        values_RP = values_RP + 0.1 * torch.randn(values_RP.shape, generator=generator).to(values_RP)
        losses_R, gradients_RP = pack.compute(values_RP, *batch)
        loss_1, gradient_1P = alone.compute(values_RP[1:2].clone(), *_only(batch, 1))
        if not (torch.equal(losses_R[1:2], loss_1) and torch.equal(gradients_RP[1:2], gradient_1P)):
            return False
    return True


def _only(batch: Batch, run: int) -> Batch:
    return Batch(*(tensor[run : run + 1].clone() for tensor in batch))


def written_down(function: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    """The program of a function of batched runs that takes gradients of first order.

    Raises:
        NotAProgramError: it decides by the values of tensors, or draws random numbers.
    """
    with first_order_gradients(), FoldedAttention():
        return rewritten(recorded(function, *inputs))


class _Loss(nn.Module):
    """The loss of a task as a module, so that `functional_call` reaches the network inside."""

    def __init__(self, task: AnyTask, model: StructuredNetwork) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, *batch: Tensor) -> Tensor:
        return self.task.loss(self.model, Batch(*batch))


def _step_program(
    task: AnyTask, model: StructuredNetwork, layout: FlatLayout, values_RP: Tensor, batch: Batch
) -> StepProgram:
    loss = _Loss(task, model)

    def loss_of_run(row_P: Tensor, *batch: Tensor) -> Tensor:
        parameters = {f"model.{name}": value for name, value in layout.split(row_P).items()}
        found: Tensor = functional_call(loss, parameters, batch)
        return found

    def step(values_RP: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            values_RP = values_RP.detach().requires_grad_()
            losses_R = vmap(loss_of_run)(values_RP, *batch)
            (gradients_RP,) = torch.autograd.grad(losses_R.sum(), values_RP)
        return losses_R.detach(), gradients_RP

    program = written_down(step, values_RP, *batch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        program(values_RP, *batch)
    has_attention = any("attention" in str(node.target) for node in program.graph.nodes)
    flops = product_flops(counter) // len(values_RP)
    return StepProgram(without_python(program, values_RP, *batch), flops, has_attention)


def product_flops(counter: FlopCounterMode) -> int:
    """FLOPs of the matrix products that a counter has seen; it misses attention on a CPU, so that is left out everywhere."""
    counts: dict[Any, int] = counter.get_flop_counts()["Global"]
    return sum(flops for operation, flops in counts.items() if "attention" not in str(operation))


def without_python(program: GraphModule, *inputs: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """The program run by torch's own interpreter: 0.7 ms of 2.3 less for 250 operations, and the same to the last bit.

    It takes no list of booleans, as the gradient of LayerNorm has; then, and where torch no longer has that interpreter,
    the program runs as Python.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.trace(program, inputs, check_trace=False)  # type: ignore[no-any-return]
    except (RuntimeError, AttributeError):
        return program.forward
