"""Experts of other libraries with two packed parameters, and structured matrices to replace these."""

# Axes in this file: T tokens, K slots of a token, R = T·K rows, E experts, F features.

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.learning_rates import OwnLearningRates
from einsearch_cli.layers.torch_private import never_compiled
from einsearch_cli.layers.tracing import is_plain
from einsearch_cli.moe.experts import Experts
from einsearch_cli.moe.grouping import Groups, combine, group

UP, DOWN = "up", "down"
_OPTIONS: Final = ("has_gate", "has_bias", "has_post_expert_norm", "is_transposed", "_is_expert_parallel")


def packed_slots(module: nn.Module) -> dict[str, str] | None:
    """The names of the packed parameters for `up` and `down`; None for a module without fused experts.

    transformers 5 describes all its experts by the same attributes, from which its own grouped and batched products
    compute them (`use_experts_implementation`); this function reads the same attributes.
    """
    own = vars(module)
    if not all(isinstance(own.get(name), bool) for name in _OPTIONS) or not hasattr(module, "_apply_gate"):
        return None
    return {UP: "gate_up_proj" if own["has_gate"] else "up_proj", DOWN: "down_proj"}


class FusedExperts(OwnLearningRates):
    """The experts of a transformers model with one or both of their packed weights structured.

    They compute y = Σ g_k · D_k act(U_k x) over the experts of a token, as the model's router chose and weighted them.
    The gated activation, the biases and the norm after the experts are those of the original module, under the same
    names; a weight that is not structured stays the same parameter.

    Args:
        experts: fused experts of transformers, whose contents this module takes over.
    """

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.kind: Any = type(experts)
        for name, value in vars(experts).items():
            vars(self)[name] = dict(value) if name in ("_parameters", "_modules", "_buffers") else value

    def put(self, part: str, experts: Experts) -> None:
        """Put structured matrices in place of the packed weight of `up` or `down`."""
        del self._parameters[self.slots[part]]
        setattr(self, part, experts)

    @property
    def slots(self) -> dict[str, str]:
        """Name of the packed parameter of each part, structured or not."""
        found = packed_slots(self)
        assert found is not None
        return found

    @property
    def structured(self) -> dict[str, Experts]:
        """The parts that are structured."""
        return {name: child for name, child in self.named_children() if isinstance(child, Experts)}

    def _apply_gate(self, rows_RF: Tensor) -> Tensor:
        gated: Tensor = self.kind._apply_gate(self, rows_RF)
        return gated

    @never_compiled
    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Map tokens (T, features), their experts (T, K) and weights (T, K) to tokens (T, features).

        Tracers, exported programs and transforms of torch.func use `plain_forward`, at the cost of all experts.

        Raises:
            LayerError: if the experts are split over processes.
        """
        if self._is_expert_parallel:
            raise LayerError(
                f"structured experts of {self.kind.__name__} with expert parallelism: they are not split over processes",
                remedy="load the model without expert parallelism",
            )
        if not is_plain(hidden_states):
            return self.plain_forward(hidden_states, top_k_index, top_k_weights)
        groups = group(top_k_index, self._count)
        expert_of_row = top_k_index.reshape(-1).index_select(0, groups.slot_of_row)
        rows_RF = hidden_states.index_select(0, groups.token_of_row)
        rows_RF = self._activated(self._multiplied(UP, rows_RF, groups, expert_of_row))
        rows_RF = self._normed(self._multiplied(DOWN, rows_RF, groups, expert_of_row))
        gates_R = top_k_weights.reshape(-1).index_select(0, groups.slot_of_row)
        return combine(rows_RF * gates_R[:, None], groups).to(hidden_states.dtype)

    def plain_forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The output of `forward` by plain operations of torch: every token goes through all experts."""
        gates_TE = top_k_weights.new_zeros(hidden_states.shape[0], self._count).scatter_add(
            1, top_k_index, top_k_weights
        )
        rows_ETF = hidden_states.expand(self._count, -1, -1)
        rows_ETF = self._activated(self._multiplied_by_all(UP, rows_ETF))
        rows_ETF = self._normed(self._multiplied_by_all(DOWN, rows_ETF))
        return (rows_ETF * gates_TE.T[:, :, None]).sum(dim=0).to(hidden_states.dtype)

    @property
    def _count(self) -> int:
        return next(iter(self.structured.values())).experts

    def _bias(self, part: str) -> Tensor | None:
        return self._parameters.get(f"{self.slots[part]}_bias")

    def _activated(self, rows: Tensor) -> Tensor:
        activated: Tensor = self._apply_gate(rows) if self.has_gate else self.act_fn(rows)  # type: ignore[operator]
        return activated

    def _normed(self, rows: Tensor) -> Tensor:
        normed: Tensor = self.post_expert_norm(rows) if self.has_post_expert_norm else rows  # type: ignore[operator]
        return normed

    def _multiplied(self, part: str, rows_RF: Tensor, groups: Groups, expert_of_row: Tensor) -> Tensor:
        """Multiply each row by the matrix of its expert."""
        experts, bias = self._modules.get(part), self._bias(part)
        if isinstance(experts, Experts):
            rows_RF = experts.cut(experts(experts.padded(rows_RF), groups))
        else:
            parts = zip(rows_RF.split(groups.sizes()), self._matrices(part), strict=True)
            rows_RF = torch.cat([functional.linear(rows, weight) for rows, weight in parts])
        return rows_RF if bias is None else rows_RF + bias[expert_of_row].to(rows_RF.dtype)

    def _multiplied_by_all(self, part: str, rows_ETF: Tensor) -> Tensor:
        experts, bias = self._modules.get(part), self._bias(part)
        if isinstance(experts, Experts):
            rows_ETF = experts.cut(experts.plain_forward(experts.padded(rows_ETF)))
        else:
            rows_ETF = rows_ETF @ self._matrices(part).mT
        return rows_ETF if bias is None else rows_ETF + bias[:, None].to(rows_ETF.dtype)

    def _matrices(self, part: str) -> Tensor:
        """The packed weight of a part that is dense, as (E, out, in)."""
        weight = getattr(self, self.slots[part])
        return weight.mT if self.is_transposed else weight  # type: ignore[no-any-return]

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Adam learning rates of the factors relative to the muP rate of a dense layer; they are those of one expert."""
        return {
            f"{part}.{name}": value
            for part, experts in self.structured.items()
            for name, value in experts.learning_rate_multipliers().items()
        }

    @torch.no_grad()
    def dense(self) -> nn.Module:
        """The original module, with matrices formed from the factors.

        Dense parameters are copied; structured ones become new parameters.
        """
        found: Any = self.kind.__new__(self.kind)
        own = {name: value for name, value in vars(self).items() if name != "kind"}
        vars(found).update(own)
        found._modules = {
            name: copy.deepcopy(child) for name, child in self._modules.items() if not isinstance(child, Experts)
        }
        found._parameters = {
            name: None if value is None else nn.Parameter(value.detach().clone(), value.requires_grad)
            for name, value in self._parameters.items()
        }
        for part, experts in self.structured.items():
            eye = torch.eye(experts.in_features, device=experts.gain.device, dtype=experts.gain.dtype)
            columns = experts.cut(experts.plain_forward(experts.padded(eye).expand(experts.experts, -1, -1)))
            weight = columns if self.is_transposed else columns.mT
            found._parameters[self.slots[part]] = nn.Parameter(weight.contiguous(), experts.gain.requires_grad)
        return found  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The kind of experts, and which part is dense."""
        dense = [slot for part, slot in self.slots.items() if part not in self.structured]
        return ", ".join((self.kind.__name__, *(f"{slot} dense" for slot in dense)))
