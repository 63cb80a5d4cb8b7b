"""One training step of several runs as a program: losses and gradients, recorded once, executed in every step.

`torch.func` makes the network and the task's loss a function of one row of parameters, batched over runs. A recorder
writes down the operations of its forward and backward pass. The result is straight-line code without autograd, modules
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
from torch.fx import Interpreter
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from einsearch_cli.data import Batch
from einsearch_cli.layers.execution.scaling import first_order_gradients
from einsearch_cli.machine import return_memory
from einsearch_cli.models import StructuredNetwork
from einsearch_cli.training.flat_update import FlatLayout
from einsearch_cli.training.proxy.folding import FoldedAttention
from einsearch_cli.training.proxy.recording import NotAProgramError, Program, recorded
from einsearch_cli.training.proxy.rewrites import rewritten

RunLoss = Callable[[StructuredNetwork, Batch], Tensor]
"""The loss of a network on a batch."""
_KEPT: Final = 64
"""Programs that a process keeps, 4 to 5 MB each: a study returns to the same networks in every stage."""


@dataclass(frozen=True)
class StepProgram:
    """Losses and gradients of a batch of every run."""

    compute: Callable[..., tuple[Tensor, Tensor]]
    """(values_RP, inputs, targets), the data with the runs as first axis, to losses_R and gradients_RP."""
    product_flops: int
    """FLOPs of all matrix products of one run, without attention if that is an operation of its own."""
    has_attention: bool
    """Whether attention is an operation of its own."""


_programs: OrderedDict[Hashable, StepProgram] = OrderedDict()
_rounds_alike: dict[Hashable, bool] = {}
"""Whether a run in a pack rounds as it does alone, by task and network; the size of the pack does not matter.

On a GPU the two agree only up to rounding, since products of several matrices use other kernels.
"""
_TRIED: Final = 3
"""Random values at which this is tested: of 30 networks that round differently, one value finds 26, three find 29."""
_ROUNDS_OTHERWISE: Final = "products of several runs at once round otherwise than those of one"


def step_program(
    key: Hashable, loss: RunLoss, model: StructuredNetwork, layout: FlatLayout, values_RP: Tensor, batch: Batch
) -> StepProgram:
    """The program for this key, recorded if it is new; `batch` has the runs as first axis.

    Args:
        key: a value that is equal for equal losses and networks.
        loss: a function of a network and a batch that returns a scalar.
        model: the network; its own parameters are not used.
        layout: the layout of a row of the values.
        values_RP: the parameters of every run.
        batch: a batch with the shape of all later ones.

    Raises:
        NotAProgramError: the loss or the network decides by the values of tensors, or draws random numbers; or several runs
            would not be what each is alone.
    """
    runs, name = len(values_RP), key
    key = (key, layout, *(tensor.shape[1:] for tensor in batch), values_RP.device, torch.get_num_threads())
    if runs > 1 and not _rounds_alike.get(key, True):
        raise NotAProgramError(_ROUNDS_OTHERWISE)
    if (key, runs) not in _programs:
        program = _step_program(loss, model, layout, values_RP, batch)
        if runs > 1 and key not in _rounds_alike and values_RP.is_cpu:
            alone = step_program(name, loss, model, layout, values_RP[1:2], _only(batch, 1))
            _rounds_alike[key] = _is_alike(program, alone, values_RP, batch)
            if not _rounds_alike[key]:
                raise NotAProgramError(_ROUNDS_OTHERWISE)
        _programs[key, runs] = program
        while len(_programs) > _KEPT:
            _programs.popitem(last=False)
        return_memory()  # old programs keep the memory of steps from being freed: 8 programs took 280 MB, and now 170
    _programs.move_to_end((key, runs))
    return _programs[key, runs]


def _is_alike(pack: StepProgram, alone: StepProgram, values_RP: Tensor, batch: Batch) -> bool:
    """Whether the second run of a pack computes, at random values, exactly what it computes alone.

    MKL rounds products differently if a matrix does not begin at a cache line. The second run's matrices do not if a
    matrix is not a multiple of a line: with 46 × 46 numbers, but not with 48 × 48. Over a whole run, the last bits grow
    to 1% of the loss.
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


def written_down(function: Callable[..., Any], *inputs: Tensor) -> Program:
    """The program of a function of batched runs that computes first-order gradients.

    Raises:
        NotAProgramError: the function branches on the values of tensors, or draws random numbers.
    """
    with first_order_gradients(), FoldedAttention():
        return rewritten(recorded(function, *inputs))


class _LossModule(nn.Module):
    """The loss as a module, so that `functional_call` reaches the network inside."""

    def __init__(self, loss: RunLoss, model: StructuredNetwork) -> None:
        super().__init__()
        self.loss, self.model = loss, model

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss(self.model, Batch(*batch))


def _step_program(
    loss: RunLoss, model: StructuredNetwork, layout: FlatLayout, values_RP: Tensor, batch: Batch
) -> StepProgram:
    module = _LossModule(loss, model)

    def loss_of_run(row_P: Tensor, *batch: Tensor) -> Tensor:
        parameters = {f"model.{name}": value for name, value in layout.split(row_P).items()}
        found: Tensor = functional_call(module, parameters, batch)
        return found

    def step(values_RP: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            values_RP = values_RP.detach().requires_grad_()
            losses_R = vmap(loss_of_run)(values_RP, *batch)
            (gradients_RP,) = torch.autograd.grad(losses_R.sum(), values_RP)
        return losses_R.detach(), gradients_RP

    program = written_down(step, values_RP, *batch)
    counter = _ProductCounter(program)
    with torch.no_grad():
        counter.run(values_RP, *batch)
    has_attention = any("attention" in str(node.target) for node in program.graph.nodes)
    flops = counter.flops // len(values_RP)
    compute = without_python(program, values_RP, *batch) if values_RP.is_cpu else program.compiled()
    return StepProgram(compute, flops, has_attention)


class _ProductCounter(Interpreter):
    """Counts the FLOPs of matrix products without attention, as `product_flops` of torch's counter does.

    torch's counter would import the compiler, which takes a second.
    """

    def __init__(self, program: Program) -> None:
        super().__init__(program, graph=program.graph)
        self.flops = 0

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_function(target, args, kwargs)
        formula = flop_registry.get(getattr(target, "overloadpacket", None))
        if formula is not None and "attention" not in str(target):
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def product_flops(counter: FlopCounterMode) -> int:
    """FLOPs of the matrix products that a counter has seen.

    It misses attention on a CPU, so attention is left out everywhere.
    """
    counts: dict[Any, int] = counter.get_flop_counts()["Global"]
    return sum(flops for operation, flops in counts.items() if "attention" not in str(operation))


def without_python(program: Program, *inputs: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """Run the program by torch's interpreter: saves 0.7 of 2.3 ms for 250 operations, with identical results.

    The interpreter takes no list of booleans, which the gradient of LayerNorm has. In that case, and where torch no
    longer has this interpreter, the program runs as Python. `torch.jit.trace` would do the same but keeps all that it
    has traced until the process ends: 4 MB for a program, more than a gigabyte in a study of 150 networks.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            graph, _ = torch._C._create_graph_by_tracing(program.forward, inputs, lambda _: "", True, False)
            return torch._C._create_function_from_graph("step", graph)
    except (RuntimeError, AttributeError):
        return program.compiled()
