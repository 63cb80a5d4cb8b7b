"""The network of a run with its optimizer: built, guided, compiled, distributed, saved and loaded by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from einsearch_cli.data import Batch
from einsearch_cli.errors import SpecError
from einsearch_cli.guided import SelfGuide, guide_layers
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.feature_orders import layer_orders, set_layer_orders_
from einsearch_cli.models.transformer import Transformer, TransformerConfig
from einsearch_cli.moe import AuxiliaryLoss
from einsearch_cli.projection import Initialisation, initialise_
from einsearch_cli.training.full.train_spec import TrainSpec
from einsearch_cli.training.full.world import World
from einsearch_cli.training.groups import grouped
from einsearch_cli.training.precision import autocast
from einsearch_cli.training.sealed import Tensors, of_other_version
from einsearch_cli.training.update import GuideStep, Update

# Axes in this file: B rows, T position, V vocabulary.


class Network:
    """Transformer and optimizer of one process; parameters are identified by their names in the plain model.

    Structured layers have guides if `guided`. SpecError if the rows cannot be divided evenly among the processes.
    """

    def __init__(self, spec: TrainSpec, config: TransformerConfig, world: World, *, guided: bool) -> None:
        self.spec, self.config, self.world = spec, config, world
        _refuse_unequal_parts(spec, world)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            self.model = Transformer(config)
            if spec.initialisation != "spectral":
                _start_anew(self.model, spec.initialisation)
        self.guide: SelfGuide | None = guide_layers(self.model) if guided else None
        self.kind, options = spec.optimizer.applied_to(self.model)
        self.model.to(world.device)
        self.model.recomputes_blocks = spec.recompute
        if spec.compile:
            # torch counts compilations per function, over all networks of a process: the fifth run of a file reached
            # its limit of 8 and continued uncompiled.
            torch.compiler.reset()
            for block in self.model.blocks:
                block.compile()
        self._wrapped: nn.Module = self._spread()
        # Taken now, since after a validation FSDP2 leaves whole parameters in place of some sharded ones.
        self.parameters = dict(self.model.named_parameters())
        self.auxiliary = AuxiliaryLoss(self.model)
        self.optimizer = self.kind.make(grouped(self.model, options), spec.optimizer)
        self._update = Update(
            optimizer=self.optimizer,
            parameters=self.parameters.values(),
            clip_norm=spec.optimizer.clip_norm,
            auxiliary=self.auxiliary,
            guide=self.guide,
            exchange=self._exchange,
        )

    def _spread(self) -> nn.Module:
        """The module to call: the model itself, or its wrapper that shares the work with other processes."""
        if self.world.size == 1:
            return self.model
        if self.spec.parallel == "fsdp":
            mesh = init_device_mesh(self.world.device.type, (self.world.size,))

            def placement(parameter: nn.Parameter) -> Shard | None:
                return Shard(shard_axis(tuple(parameter.shape), self.world.size))

            for block in self.model.blocks:
                fully_shard(block, mesh=mesh, shard_placement_fn=placement)
            fully_shard(self.model, mesh=mesh, shard_placement_fn=placement)
            return self.model
        # In stochastic mode, guides have no gradient in some steps; these are the same in all processes.
        stochastic = self.guide is not None and self.spec.guidance is not None and self.spec.guidance.mode != "full"
        return DistributedDataParallel(self.model, find_unused_parameters=stochastic)

    def step(self, batch: Batch, guide: GuideStep | None, fraction: float) -> tuple[float, float]:
        """One update with this process's rows; returns their mean loss before it and the norm of the gradient.

        Args:
            batch: (B, T) inputs and targets.
            guide: the state of the guides in this step; None without guides.
            fraction: fraction of the peak learning rates.
        """
        parts = _parts(batch, self.spec.accumulation)
        loss, norm = self._update.step([partial(self._loss, *part) for part in parts], fraction, guide=guide)
        return loss.item(), _whole(norm).item()

    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        """The mean loss of rows, without an update."""
        return self._loss(*batch).item()

    def _loss(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        device = self.world.device
        with autocast(self.spec.precision, device):
            logits_BTV = self._wrapped(inputs_BT.to(device, non_blocking=True))
        targets = targets_BT.to(device, non_blocking=True).flatten()
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets)

    @contextmanager
    def _exchange(self, last: bool) -> Iterator[None]:
        """Exchange gradients only in the last part of an accumulated batch."""
        if isinstance(self._wrapped, FSDPModule):
            self._wrapped.set_requires_gradient_sync(last)
            yield
        elif isinstance(self._wrapped, DistributedDataParallel) and not last:
            with self._wrapped.no_sync():
                yield
        else:
            yield

    def without_guide(self) -> Network:
        """The network that continues when the guides end; this network must not be used afterwards.

        Parameters and moments are moved by name, as from a checkpoint: wrappers that share work between processes keep
        the parameters that they were made with.
        """
        assert self.guide is not None
        for name in self.guide.parameters():
            self.optimizer.state.pop(self.parameters[name], None)
        plain = Network(self.spec, self.config, self.world, guided=False)
        set_layer_orders_(plain.model, layer_orders(self.model))
        with torch.no_grad():
            for name, value in plain.parameters.items():
                before = self.parameters[name]
                value.copy_(before)
                if before in self.optimizer.state:
                    plain.optimizer.state[value] = self.optimizer.state[before]
        return plain

    def model_tensors(self) -> Tensors:
        """The whole parameters by name, on the CPU; a collective operation."""
        return {name: _whole(value.detach()).cpu() for name, value in self.parameters.items()}

    def optimizer_tensors(self) -> Tensors:
        """The optimizer's state as `exp_avg:NAME`, by `state_names`, whole and on the CPU; a collective operation."""
        found: Tensors = {}
        for name, value in self.parameters.items():
            state = self.optimizer.state.get(value, {})
            found |= {f"{kind}:{name}": _whole(state[kind]).cpu() for kind in self.kind.state_names if kind in state}
        return found

    @torch.no_grad()
    def load(self, model: Tensors, optimizer: Tensors) -> None:
        """Load what `model_tensors` and `optimizer_tensors` returned, in any number of processes."""
        load_parameters(self.parameters, model)
        for name, value in self.parameters.items():
            keys = {kind: f"{kind}:{name}" for kind in self.kind.state_names}
            state = {kind: optimizer[key] for kind, key in keys.items() if key in optimizer}
            if state:
                self.optimizer.state[value] = {
                    kind: _like(value, tensor) if tensor.shape == value.shape else _copy(tensor, value)
                    for kind, tensor in state.items()
                }


def _refuse_unequal_parts(spec: TrainSpec, world: World) -> None:
    """Raise SpecError for parts of different sizes, which would weigh their rows differently."""
    parts = spec.accumulation * world.size
    if spec.batch % parts:
        raise SpecError(
            f"a batch of {spec.batch} rows does not divide into {spec.accumulation} parts in each of {world.size} "
            "processes",
            remedy=f"give a batch that is a multiple of {parts}, or another accumulation",
        )


def _start_anew(model: Transformer, rule: Initialisation) -> None:
    """Draw structured layers again by another rule; those that are zero at the end of a residual branch stay zero."""
    for layer in model.structured_layers().values():
        if isinstance(layer, EinsumLinear):
            is_zero = not layer.factors[layer.plan.steps[-1].factor].any()
            initialise_(layer, rule)
            if is_zero:
                layer.zero_last_factor_()


@torch.no_grad()
def load_parameters(parameters: Mapping[str, Tensor], tensors: Tensors) -> None:
    """Load every parameter by its name, with its sharding; CheckpointError for other names or shapes."""
    if odd := sorted(set(parameters) ^ set(tensors)):
        raise of_other_version(
            f"the checkpoint and the network differ in {len(odd)} parameters, the first is {odd[0]!r}"
        )
    for name, value in parameters.items():
        if tensors[name].shape != value.shape:
            shapes = tuple(tensors[name].shape), tuple(value.shape)
            raise of_other_version(
                f"parameter {name!r} is {shapes[0]} in the checkpoint and {shapes[1]} in the network"
            )
        value.copy_(_like(value, tensors[name]))


def shard_axis(shape: tuple[int, ...], processes: int) -> int:
    """The axis along which FSDP2 shards a parameter: the longest that divides evenly, else the first.

    An axis other than the first must divide evenly; the first axis of a factor may have length 1.

    >>> shard_axis((1, 64, 256), 2), shard_axis((8, 8, 8), 2), shard_axis((7, 5), 2)
    (2, 0, 0)
    """
    lengths = [length if length % processes == 0 else 0 for length in shape]
    return lengths.index(max(lengths))


def _parts(batch: Batch, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    rows = len(batch.inputs) // parts
    yield from zip(batch.inputs.split(rows), batch.targets.split(rows), strict=True)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A new tensor with the values of a whole one, on the parameter's device and sharded like it."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return _copy(tensor, parameter)


def _copy(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A copy that torch has aligned: products of tensors aligned as in a file may differ in the last bit."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=parameter.device).copy_(tensor)
