"""The auxiliary loss of all layers of experts in a model, and what their routers did."""

# Axes in this file: L layers, E experts.

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.moe.routing import Router, RoutingSums, recorders
from einsearch_cli.structures import AUXILIARY_WEIGHT, RoutingStatistics

LOGSUMEXP_WEIGHT: Final = 0.1
"""Of the mean squared logsumexp within it."""


class AuxiliaryLoss:
    """Listens to the routers of a model while it is the active context; entering it starts anew.

    The model itself needs no change: wrap its forward pass.

        with AuxiliaryLoss(model) as auxiliary:
            loss = criterion(model(inputs), targets)
        (loss + auxiliary.loss()).backward()

    - Gradient accumulation: one context for every micro-batch, and `loss + auxiliary.loss()` divided
      as the loss alone would be. The balance is then that of the micro-batch. All forward passes inside
      one context count as one batch.
    - Checkpointing: a forward pass that is computed again during the backward pass is not counted
      again. Reentrant checkpointing cuts the graph and is refused.
    - Distributed data parallel: `loss()` is a collective operation. The shares f are those of the global
      batch, and so is the mean of the losses over the processes, as of their gradients.

    Args:
        model: any module; routers are found anywhere in it, at every entering.
        weight: of the auxiliary loss beside the model's own.
        group: the processes that share a batch; all processes if torch.distributed is in use.

    >>> from einsearch_cli.layers import StructuredMoE
    >>> model = nn.Sequential(StructuredMoE(16, 16, "btt-moe:experts=4,top=2"))
    >>> with AuxiliaryLoss(model, weight=1.0) as auxiliary:
    ...     _ = model(torch.randn(8, 16))
    >>> auxiliary.loss().item()  # uniform softmax: 1 + 0.1 · log(4)²
    1.1921...
    >>> [(found.layer, found.dropped) for found in auxiliary.statistics()]
    [('0', 0)]
    """

    def __init__(
        self, model: nn.Module, weight: float = AUXILIARY_WEIGHT, group: dist.ProcessGroup | None = None
    ) -> None:
        self.weight = weight
        self._group = group
        self._model = model
        self._names: dict[Router, str] = {}
        self._sums: dict[Router, RoutingSums] = {}

    def __enter__(self) -> Self:
        # Found anew, as layers may have been swapped in since: 0.3 ms for 12 transformer blocks.
        modules = self._model.named_modules()
        self._names = {module: name.rpartition(".")[0] for name, module in modules if isinstance(module, Router)}
        self._sums.clear()
        recorders.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recorders.remove(self)

    def record(self, router: Router, sums: RoutingSums) -> None:
        """Add a forward pass of a router; those of other models are ignored."""
        if router in self._names:
            before = self._sums.get(router)
            self._sums[router] = sums if before is None else before + sums

    def loss(self) -> Tensor:
        """weight · mean over layers of [E · Σ f_e p_e + 0.1 · mean(logsumexp²)], a scalar.

        f is the share of all slots that went to an expert, p the mean softmax over all
        experts; both sum to 1. Fedus et al. 2022 (arXiv 2101.03961), equation 4, and
        Zoph et al. 2022 (arXiv 2202.08906), equation 5, weighed as in Potapczynski et al. 2024.
        Zero for a model without experts, and for a batch without tokens.

        Raises:
            LayerError: if a forward pass in training went without gradients.
        """
        for router in self._sums:
            self._check_gradient(router)
        losses = []
        for router, (tokens, slots_E) in self._global_loads().items():
            sums = self._sums[router]
            # With processes of unequal batches the mean over processes is still that over tokens.
            per_process = (tokens.clamp(min=1) / self._processes()).to(sums.squared_logsumexp.dtype)
            shares_E = slots_E / slots_E.sum().clamp(min=1)
            balance = router.experts * (shares_E * sums.probabilities_E).sum() / per_process
            losses.append(balance + LOGSUMEXP_WEIGHT * sums.squared_logsumexp / per_process)
        if not losses:
            return torch.zeros((), device=next((p.device for p in self._model.parameters()), torch.device("cpu")))
        return self.weight * torch.stack(losses).mean()

    def statistics(self) -> tuple[RoutingStatistics, ...]:
        """What every router did, in the model's order, over the batches of all processes."""
        found = []
        for router, name in self._names.items():
            if router in self._sums:
                found.append(self._statistics_of(router, name))
        return tuple(found)

    def _check_gradient(self, router: Router) -> None:
        can_learn = router.training and router.weight.requires_grad and torch.is_grad_enabled()
        if can_learn and not self._sums[router].probabilities_E.requires_grad:
            raise LayerError(
                f"the forward pass of {self._names[router] or 'the model'} went without gradients: "
                "its auxiliary loss cannot train the router",
                remedy="checkpoint with use_reentrant=False, and run the forward pass with gradients enabled",
            )

    def _processes(self) -> int:
        return dist.get_world_size(self._group) if dist.is_available() and dist.is_initialized() else 1

    def _global_loads(self) -> dict[Router, tuple[Tensor, Tensor]]:
        """Tokens and slots of each router over all processes, in one exchange; a GPU need not be waited for."""
        routers = [router for router in self._names if router in self._sums]
        if not routers:
            return {}
        flat = torch.cat([_load(self._sums[router]) for router in routers])
        self._add_up(flat)
        parts = flat.split([1 + router.experts for router in routers])
        return {router: (part[0], part[1:]) for router, part in zip(routers, parts, strict=True)}

    def _add_up(self, flat: Tensor) -> None:
        if self._processes() > 1:
            dist.all_reduce(flat, group=self._group)

    def _statistics_of(self, router: Router, name: str) -> RoutingStatistics:
        sums = self._sums[router]
        flat = torch.cat(
            [_load(sums), sums.token_entropy.detach().double().reshape(1), sums.probabilities_E.detach().double()]
        )
        self._add_up(flat)
        (tokens,), slots_E, (entropy,), probabilities_E = flat.split([1, router.experts, 1, router.experts])
        count = max(1.0, tokens.item())
        p_E = probabilities_E / count
        return RoutingStatistics(
            layer=name,
            load=tuple((slots_E / slots_E.sum().clamp(min=1)).tolist()),
            token_entropy=entropy.item() / count,
            aggregate_entropy=torch.special.entr(p_E).sum().item(),
            dropped=round(tokens.item()) * router.top - round(slots_E.sum().item()),
        )


def _load(sums: RoutingSums) -> Tensor:
    """Tokens, then slots of every expert, as exact numbers."""
    return torch.cat([sums.slots_E.new_tensor([sums.tokens]), sums.slots_E]).double()
