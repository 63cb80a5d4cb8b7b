"""The auxiliary loss of all layers of experts in a model, and statistics of their routers."""

# Axes in this file: L layers, T tokens, E experts.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from threading import Lock
from typing import Any, Final, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.execution.autograd import may_save
from einsearch_cli.layers.torch_private import is_batched
from einsearch_cli.layers.tracing import is_transformed
from einsearch_cli.moe.routing import Decisions, Router, RoutingSums, listeners, sums_over
from einsearch_cli.structures import AUXILIARY_WEIGHT, RoutingStatistics

LOGSUMEXP_WEIGHT: Final = 0.1
"""Weight of the mean squared logsumexp within the auxiliary loss."""

_adding = Lock()
"""A lock for replacing sums, as replicas run in several threads; not one per loss, which could not be copied then."""


class AuxiliaryLoss:
    """Listens to the routers of a model while it is the active context; entering it resets all sums.

    The model itself needs no change: wrap its forward pass.

        with AuxiliaryLoss(model) as auxiliary:
            loss = criterion(model(inputs), targets)
        (loss + auxiliary.loss()).backward()

    - Padding: give `mask`, so that only real tokens count in loss and statistics.
    - Gradient accumulation: use one context for every micro-batch, and divide `loss + auxiliary.loss()`
      like the loss alone. The balance is then that of the micro-batch. All forward passes inside
      one context count as one batch.
    - Checkpointing: a forward pass that is recomputed during the backward pass is not counted
      again. Reentrant checkpointing cuts the graph and is refused.
    - Distributed data parallel: `loss()` is a collective operation. The shares f are those of the global
      batch, and so is the mean of the losses, and of their gradients, over the processes.
    - Threads: passes in other threads or contexts do not count. Replicas of `nn.DataParallel`, which run in
      threads, count in the context in which they are made. Passes in a thread of your own count if it runs
      in a copy of the context, `contextvars.copy_context().run`.

    Args:
        model: any module; routers are found anywhere in it, at every entering.
        weight: factor of the auxiliary loss when it is added to the model's own.
        group: the processes that share a batch; all processes if torch.distributed is in use.
        mask: boolean, or whole numbers with 0 as false: true where a token counts, false where it is padding,
            like the attention mask of transformers. It has the shape of the tokens, (batch, length) for inputs of
            (batch, length, features). The attribute `mask` may be changed between passes.

    Raises:
        LayerError: if the mask has a floating-point dtype.

    >>> from einsearch_cli.moe import StructuredMoE
    >>> model = nn.Sequential(StructuredMoE(16, 16, "btt-moe:experts=4,top=2"))
    >>> with AuxiliaryLoss(model, weight=1.0) as auxiliary:
    ...     _ = model(torch.randn(8, 16))
    >>> auxiliary.loss().item()  # uniform softmax: 1 + 0.1 · log(4)²
    1.1921...
    >>> [(found.layer, found.dropped) for found in auxiliary.statistics()]
    [('0', 0)]
    """

    def __init__(
        self,
        model: nn.Module,
        weight: float = AUXILIARY_WEIGHT,
        group: dist.ProcessGroup | None = None,
        mask: Tensor | None = None,
    ) -> None:
        self.weight = weight
        self.mask = mask
        self._group = group
        self._model = model
        self._is_listening = False
        self._names: dict[Router, str] = {}
        self._sums: dict[Router, dict[torch.device, RoutingSums]] = {}

    @property
    def mask(self) -> Tensor | None:
        """The tokens that count in the next passes; all of them if None."""
        return self._mask

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        if mask is not None and (mask.is_floating_point() or mask.is_complex()):
            raise LayerError(
                f"mask of dtype {mask.dtype}: it must be boolean, or whole numbers of which 0 is false",
                remedy="give a mask that is true where a token counts and false where it is padding",
            )
        self._mask = mask

    def __enter__(self) -> Self:
        if self._is_listening:
            raise LayerError(
                "this AuxiliaryLoss is active already: its sums would be lost",
                remedy="make another AuxiliaryLoss(model) for the inner context, or for each thread",
            )
        self._is_listening = True
        # Searched again, as layers may have been swapped in since: 0.3 ms for 12 transformer blocks.
        self._names = self._routers()
        self._sums.clear()
        listeners.set((*listeners.get(), self))
        return self

    def __exit__(self, *_: object) -> None:
        self._is_listening = False
        listeners.set(tuple(listener for listener in listeners.get() if listener is not self))

    def record(self, router: Router, decisions: Decisions, *, is_replica: bool) -> None:
        """Add a forward pass of a router; routers of other models are ignored, as are passes after the context.

        Raises:
            LayerError: if the mask does not fit the router's tokens.
        """
        if not self._is_listening or router not in self._names:
            return
        counts_T = self._counts(router, decisions, is_replica)
        # Checkpointing did not see the mask and must not be asked to save it, as it does not see it when it recomputes.
        with nullcontext() if counts_T is None else _past_saving_hooks():
            sums = sums_over(decisions, counts_T)
        with _adding:
            by_device = self._sums.setdefault(router, {})
            before = by_device.get(decisions.device)
            by_device[decisions.device] = sums if before is None else before.plus(sums)

    def loss(self) -> Tensor:
        """weight · mean over layers of [E · Σ f_e p_e + 0.1 · mean(logsumexp²)], a scalar.

        f is the share of all slots that went to an expert, p the mean softmax over all experts; both sum to 1. Fedus et
        al. 2022 (arXiv 2101.03961), equation 4, and Zoph et al. 2022 (arXiv 2202.08906), equation 5, weighted as in
        Potapczynski et al. 2024. The loss is zero for a model without experts, and for a batch without tokens.

        Raises:
            LayerError: if the model has routers and none of them was recorded, or if a forward pass in
                training ran without gradients.
        """
        totals = self._totals()
        if not totals:
            return self._nothing()
        losses = []
        for (router, sums), (tokens, slots_E, *_) in zip(totals.items(), self._exchanged(totals), strict=True):
            self._check_gradient(router, sums)
            # This keeps the mean over processes a mean over tokens if batches are unequal.
            per_process = (tokens.clamp(min=1) / self._processes()).to(sums.squared_logsumexp.dtype)
            shares_E = slots_E / slots_E.sum().clamp(min=1)
            balance = router.experts * (shares_E * sums.probabilities_E).sum() / per_process
            losses.append(balance + LOGSUMEXP_WEIGHT * sums.squared_logsumexp / per_process)
        return self.weight * torch.stack(losses).mean()

    def statistics(self) -> tuple[RoutingStatistics, ...]:
        """The statistics of every recorded router, in the model's order, over the batches of all processes."""
        totals, found = self._totals(), []
        for router, (tokens, slots_E, entropy, probabilities_E) in zip(totals, self._exchanged(totals), strict=True):
            count = max(1.0, tokens.item())
            statistics = RoutingStatistics(
                layer=self._names[router],
                load=tuple((slots_E / slots_E.sum().clamp(min=1)).tolist()),
                token_entropy=entropy.item() / count,
                aggregate_entropy=torch.special.entr(probabilities_E / count).sum().item(),
                dropped=round(tokens.item()) * router.top - round(slots_E.sum().item()),
            )
            found.append(statistics)
        return tuple(found)

    def _routers(self) -> dict[Router, str]:
        """The routers of the model, and the names of their layers."""
        modules = self._model.named_modules()
        return {module: name.rpartition(".")[0] for name, module in modules if isinstance(module, Router)}

    def _counts(self, router: Router, decisions: Decisions, is_replica: bool) -> Tensor | None:
        """The tokens that count, or None if all do."""
        if self.mask is None:
            return None
        name, shape = self._names[router] or "the model", tuple(decisions.shape)
        if is_replica:
            raise LayerError(
                f"a replica of {name} by nn.DataParallel: it sees a part of the batch, and the mask is of the whole",
                remedy="use DistributedDataParallel, where each process gives the mask of its own rows",
            )
        if shape not in (tuple(self.mask.shape), (self.mask.numel(),)):
            raise LayerError(
                f"mask of shape {tuple(self.mask.shape)}, tokens of {name} of shape {shape}: both must be the same",
                remedy="give a mask of that shape; where parts of the model see different tokens, "
                "an AuxiliaryLoss(part, mask=...) for each",
            )
        return self.mask.reshape(-1).to(decisions.device, torch.bool)

    def _totals(self) -> dict[Router, RoutingSums]:
        """The sums of every recorded router, in the model's order, each on its own device."""
        totals = {}
        for router, name in self._names.items():
            if router in self._sums:
                # In the order of devices, since the order of threads would change the last bit from step to step.
                by_device = sorted(self._sums[router].items(), key=lambda item: str(item[0]))
                totals[router] = reduce(RoutingSums.plus, (_live(sums, name) for _, sums in by_device))
        return totals

    def _nothing(self) -> Tensor:
        """The loss of a model without experts."""
        if routers := self._routers():
            raise LayerError(
                f"none of the model's {len(routers)} routers was recorded: a forward pass counts if it runs inside the "
                "context, after it was entered last and in the same thread",
                remedy="call the model itself, not a copy, inside `with AuxiliaryLoss(model) as auxiliary:`",
            )
        return torch.zeros((), device=next((p.device for p in self._model.parameters()), torch.device("cpu")))

    def _check_gradient(self, router: Router, sums: RoutingSums) -> None:
        can_learn = router.training and router.weight.requires_grad and torch.is_grad_enabled()
        if can_learn and not is_transformed() and not sums.probabilities_E.requires_grad:
            raise LayerError(
                f"the forward pass of {self._names[router] or 'the model'} went without gradients: "
                "its auxiliary loss cannot train the router",
                remedy="checkpoint with use_reentrant=False, run the forward pass with gradients enabled, and call "
                "loss() inside the same transform of torch.func, if there is one",
            )

    def _processes(self) -> int:
        return dist.get_world_size(self._group) if dist.is_available() and dist.is_initialized() else 1

    def _exchanged(self, totals: dict[Router, RoutingSums]) -> Iterator[tuple[Tensor, ...]]:
        """Tokens, slots, entropy and probabilities of each router over all processes, without waiting for a GPU."""
        if not totals:
            return
        told = ((s.tokens, s.slots_E, s.token_entropy, s.probabilities_E) for s in totals.values())
        flat = torch.cat([part.detach().double().reshape(-1) for parts in told for part in parts])
        if self._processes() > 1:
            dist.all_reduce(flat, group=self._group)
        for router, part in zip(totals, flat.split([2 + 2 * router.experts for router in totals]), strict=True):
            yield part.split([1, router.experts, 1, router.experts])


def _past_saving_hooks() -> AbstractContextManager[Any]:
    """A context that hides saved tensors from hooks, such as those of checkpointing."""
    return nullcontext() if may_save() else saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def _live(sums: RoutingSums, name: str) -> RoutingSums:
    """The sums, or an error if they belong to a vmap that is over."""
    if is_batched(sums.probabilities_E) and not is_transformed():
        raise LayerError(
            f"the forward pass of {name or 'the model'} ran inside vmap, whose tensors end with it",
            remedy="call loss() inside the function that is transformed, or the model outside of vmap",
        )
    return sums
