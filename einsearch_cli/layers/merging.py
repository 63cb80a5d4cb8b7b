"""Merging on request: layers keep the product of their factors between calls without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakSet

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.execution.merged import Merging
from einsearch_cli.layers.torch_private import storage_of
from einsearch_cli.layers.tracing import is_plain_type

_Model = TypeVar("_Model", bound=nn.Module)
_layers: WeakSet[EinsumLinear] = WeakSet()
"""Layers that are merged, and some that no longer are."""
_lock = Lock()


def merge(model: _Model) -> _Model:
    """Let structured layers keep merged matrices, for many calls without gradients, as in decoding.

    A merged layer forms each matrix that its planner prefers when a call first needs it, and keeps it with the layer's
    scale. Without merging, a layer reads its factors at every call and keeps nothing that depends on their values. Only
    calls without gradients (`torch.no_grad`, `torch.inference_mode`) use kept matrices.

    Merging ends with `unmerge`, `train()`, a step of an optimizer of the layer's parameters, `load_state_dict`, a move
    to another device or dtype, and any change of a parameter that torch can see. Copies of a merged layer are not
    merged. Some edits are invisible to torch, such as those through `.data`, a NumPy view or a replayed CUDA graph:
    call `unmerge` before them.

    Args:
        model: any module; its layers of type `EinsumLinear` are merged, the others stay as they are.

    Returns:
        The same model.

    >>> model = merge(nn.Sequential(EinsumLinear(16, 16, "btt:r=2"), nn.ReLU()).eval())
    >>> model[0].is_merged, model.train()[0].is_merged
    (True, False)
    """
    for layer in _structured(model):
        with _lock:
            merging = _begin(layer)
            if merging is not None:
                merging.is_asked = True
    return model


def unmerge(model: _Model) -> _Model:
    """End the merging of all structured layers, even if a context of `merged` is still open.

    >>> model = unmerge(merge(EinsumLinear(16, 16, "btt:r=2")))
    >>> model.is_merged
    False
    """
    for layer in _structured(model):
        layer._merging = None
    return model


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Merge the structured layers of a model for as long as the context is open; see `merge`.

    At the end, every layer is unmerged again, unless `merge` or another open context asked for it. If merging ended
    inside the context, it stays ended.

    >>> import torch
    >>> layer, x = EinsumLinear(16, 16, "btt:r=2"), torch.randn(3, 16)
    >>> with merged(layer), torch.no_grad():
    ...     y = layer(x)
    >>> layer.is_merged, torch.allclose(y, layer(x), atol=1e-6)
    (False, True)
    """
    held: list[tuple[EinsumLinear, Merging]] = []
    try:
        for layer in _structured(model):
            with _lock:
                merging = _begin(layer)
                if merging is not None:
                    merging.contexts += 1
                    held.append((layer, merging))
        yield
    finally:
        for layer, merging in held:
            with _lock:
                merging.contexts -= 1
                if layer._merging is merging and not merging.contexts and not merging.is_asked:
                    layer._merging = None


def _structured(model: nn.Module) -> list[EinsumLinear]:
    return [layer for layer in model.modules() if isinstance(layer, EinsumLinear)]


def _begin(layer: EinsumLinear) -> Merging | None:
    """The layer's merging, a new one if there is none; None if torch cannot say whether parameters change."""
    if not layer.is_merged:
        parameters: dict[str, Any] = {name: layer._parameters.get(name) for name in ("gain", *layer._names)}
        can_be_watched = all(is_plain_type(p) and not p.is_inference() and not p.is_meta for p in parameters.values())
        layer._merging = Merging(parameters) if can_be_watched else None
    if layer._merging is not None:
        _layers.add(layer)
    return layer._merging


def _end_where_trained(optimizer: Optimizer, *_: Any) -> None:
    """End the merging of layers that an optimizer trains: fused optimizers do not raise versions of parameters."""
    if not _layers:
        return
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Sharded parameters change others that are gathered from them, so these end all merging.
    storages = {storage_of(tensor) for tensor in trained} if all(map(is_plain_type, trained)) else None
    with _lock:
        for layer in list(_layers):
            merging = layer._merging
            if merging is None or storages is None or merging.touches(storages):
                layer._merging = None
                _layers.discard(layer)


register_optimizer_step_post_hook(_end_where_trained)
