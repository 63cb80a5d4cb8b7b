"""Experts fused into one tensor, and how many of them a token uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from torch import Tensor, nn

_COUNTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_experts", "groups")
_TOP: Final = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "num_selected_experts", "moe_top_k",
    "moe_topk", "moe_k", "top_k_experts", "router_top_k",
)  # fmt: skip
# Configs of transformers have had a top_k that is of sampling.
_TOP_OF_MODULES: Final = (*_TOP, "top_k", "topk")


def expert_count(module: nn.Module, weights: Mapping[str, Tensor]) -> int | None:
    """How many experts a module's tensors hold; None if it holds no fused experts.

    Every tensor of three dimensions has one entry per expert in its first; tensors of two dimensions
    may have the rows of all experts one below the other.
    """
    noted = next(_integers((module,), _COUNTS), None)
    leading = {value.shape[0] for value in weights.values() if value.ndim == 3}
    if leading:
        count = min(leading)
        is_named = any(word in type(module).__name__.lower() for word in ("expert", "moe"))
        return count if len(leading) == 1 and count > 1 and (count == noted or is_named) else None
    stacked = [value.shape[0] for value in weights.values() if value.ndim == 2]
    if noted is None or len(stacked) < 2 or "expert" not in type(module).__name__.lower():
        return None
    return noted if all(rows % noted == 0 and rows > noted for rows in stacked) else None


def experts_per_token(module: nn.Module, above: Iterable[nn.Module], count: int) -> int | None:
    """How many experts a router gives a token: noted by the module, those around it, or a config; else None.

    Args:
        module: the one that holds the experts.
        above: the modules that hold it, the nearest first.
        count: experts that there are.
    """
    around = list(above)
    near = [module, *(each for parent in around[:2] for each in (parent, *parent.children()))]
    configs = [config for each in (module, *around) if (config := getattr(each, "config", None)) is not None]
    inner = [text for config in configs if (text := getattr(config, "text_config", None)) is not None]
    found = (*_integers(near, _TOP_OF_MODULES), *_integers((*inner, *configs), _TOP))
    return next((top for top in found if top <= count), None)


def is_router(module: nn.Module, weight: Tensor) -> bool:
    """Whether a matrix scores experts: it has a row for each of those that the module notes."""
    return weight.ndim == 2 and weight.shape[0] in set(_integers((module,), _COUNTS))


def _integers(holders: Iterable[Any], names: Iterable[str]) -> Iterator[int]:
    for holder in holders:
        for name in names:
            value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                yield value
