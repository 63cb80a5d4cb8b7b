"""Find the linear layers of a model, and the reasons why some cannot be replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.torch_private import has_gradient_hooks, is_compiled_in_place
from einsearch_cli.moe.experts import Experts
from einsearch_cli.moe.feed_forward import FeedForwardMoE
from einsearch_cli.moe.layer import StructuredMoE
from einsearch_cli.swap.attention import PARTS
from einsearch_cli.swap.fused_experts import FusedExperts, packed_slots
from einsearch_cli.swap.pointwise import KINDS, is_pointwise
from einsearch_cli.swap.products import conv1d_class, experts_per_token, unknown_kind, width
from einsearch_cli.swap.references import Reference, plain_references
from einsearch_cli.swap.subclasses import acts_as_linear


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A linear layer as a filter sees it, whatever kind of module holds its weight."""

    in_features: int
    out_features: int
    bias: bool
    module: nn.Module
    """The nn.Linear, Conv1D or convolution; or the nn.MultiheadAttention or fused experts that hold the weight."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One linear layer in a model."""

    name: str
    aliases: tuple[str, ...]
    kind: str
    module: nn.Module
    """The module at that name; for a projection in nn.MultiheadAttention, the attention."""
    holder: nn.Module
    """The module that holds the parameters."""
    weight_slot: str
    bias_slot: str
    in_features: int
    out_features: int
    reason: str | None
    """Why the layer cannot be replaced."""
    experts: int = 1
    """Number of matrices in the weight."""
    top: int = 1
    """Number of these that a token uses."""

    @property
    def weight(self) -> nn.Parameter | None:
        return self.holder._parameters.get(self.weight_slot)

    @property
    def bias(self) -> nn.Parameter | None:
        return self.holder._parameters.get(self.bias_slot)

    @property
    def flops(self) -> int:
        """Forward FLOPs per token of the dense layer; for experts, those of the experts that a token uses."""
        return 2 * self.in_features * self.out_features * self.top

    @property
    def shown(self) -> DenseLayer:
        return DenseLayer(self.in_features, self.out_features, self.bias is not None, self.module)


Holders = dict[nn.Parameter, list[tuple[nn.Module, str, str]]]
"""Every parameter with the modules that hold it, their names, and its name in each."""


def find_sites(model: nn.Module) -> list[Site]:
    """The linear layers of a model in its order; adapters are not searched.

    A model that is itself a linear layer, wrapped or compiled raises LayerError, as new parameters would go unnoticed.
    """
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    for module, (name, *_) in names.items():
        _refuse_wrapper(module, name)
    holders = parameter_holders(model)
    inside: set[nn.Module] = set()
    sites: list[Site] = []
    for module, (name, *aliases) in names.items():
        if module in inside:
            continue
        found = list(_sites_of(model, module, name, tuple(aliases), holders))
        if found and module is model:
            raise LayerError(
                f"the model itself is {type(module).__name__}: a module cannot be replaced inside itself",
                remedy="wrap it, nn.Sequential(layer), or build EinsumLinear(in_features, out_features, structure)",
            )
        if found:
            inside.update(module.modules())
        sites += found
    return _without_held(model, sites)


def _without_held(model: nn.Module, sites: list[Site]) -> list[Site]:
    """The sites; those whose module or weight a plain Python object holds too get a reason to stay.

    Code that reads it there would continue with the dense layer.
    """
    held = {reference.target: reference for reference in plain_references(model)}
    return [
        replace(site, reason=f"{found.path}, a plain Python reference, holds it too and would keep the dense layer")
        if site.reason is None and (found := _reference_to(site, held)) is not None
        else site
        for site in sites
    ]


def _reference_to(site: Site, held: dict[nn.Module | Tensor, Reference]) -> Reference | None:
    own = (site.module, site.holder, *site.holder._parameters.values())
    found = (held.get(target) for target in own if target is not None)
    return next((each for each in found if each is not None and each.origin not in (site.module, site.holder)), None)


def parameter_holders(model: nn.Module) -> Holders:
    """The modules that hold each parameter."""
    holders: Holders = defaultdict(list)
    for name, module in model.named_modules():
        for slot, parameter in module._parameters.items():
            if parameter is not None:
                holders[parameter].append((module, name, slot))
    return holders


def _refuse_wrapper(module: nn.Module, name: str) -> None:
    kinds = {kind.__name__ for kind in type(module).__mro__}
    where = f"{name} is" if name else "the model is"
    for wrapper in ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"):
        if wrapper in kinds:
            raise LayerError(
                f"{where} wrapped in {wrapper}, which keeps its own record of the parameters: it would miss new ones",
                remedy="swap the plain model first, then wrap it",
            )
    if "OptimizedModule" in kinds or is_compiled_in_place(module):
        raise LayerError(
            f"{where} compiled: the compiled code was made for the old layers",
            remedy="swap the plain model first (after torch.compile: model._orig_mod), then compile it",
        )


def _sites_of(
    model: nn.Module, module: nn.Module, name: str, aliases: tuple[str, ...], holders: Holders
) -> Iterator[Site]:
    """The linear layers that a module is or packs; empty for any other module."""
    if isinstance(module, nn.MultiheadAttention):
        yield from _attention_sites(module, name, aliases, holders)
    elif isinstance(module, EinsumLinear):
        yield _site(module, name, aliases, module.in_features, module.out_features, "already an EinsumLinear")
    elif isinstance(module, StructuredMoE):
        yield _site(module, name, aliases, module.in_features, module.out_features, "already a StructuredMoE")
    elif isinstance(module, FeedForwardMoE):
        yield _site(module, name, aliases, module.up.in_features, module.up.in_features, "already a FeedForwardMoE")
    elif isinstance(module, nn.Linear):
        yield _site(module, name, aliases, module.in_features, module.out_features, _reason(module, nn.Linear))
    elif isinstance(module, KINDS):
        if is_pointwise(module):
            kind = next(kind for kind in KINDS if isinstance(module, kind))
            yield _site(module, name, aliases, module.in_channels, module.out_channels, _reason(module, kind))
    elif packed_slots(module) is not None:
        yield from _expert_sites(model, module, name, aliases, holders)
    elif (conv1d := conv1d_class(module)) is not None:
        width_in, width_out = int(module.nx), int(module.nf)  # type: ignore[arg-type]
        yield _site(module, name, aliases, width_in, width_out, _reason(module, conv1d))
    elif (reason := unknown_kind(module)) is not None:
        yield _site(module, name, aliases, width(module, "in_features"), width(module, "out_features"), reason)


def _site(
    module: nn.Module, name: str, aliases: tuple[str, ...], width_in: int, width_out: int, reason: str | None
) -> Site:
    kind = next((kind.__name__ for kind in (nn.Linear, *KINDS) if isinstance(module, kind)), type(module).__name__)
    return Site(name, aliases, kind, module, module, "weight", "bias", width_in, width_out, reason)


def _attention_sites(
    attention: nn.MultiheadAttention, name: str, aliases: tuple[str, ...], holders: Holders
) -> Iterator[Site]:
    reason = _reason_to_keep_attention(attention, holders)
    width = attention.embed_dim
    for part, width_in in zip(PARTS, (width, attention.kdim, attention.vdim, width), strict=True):
        packed = attention._parameters.get("in_proj_weight") is not None
        slot = "weight" if part == "out_proj" else "in_proj_weight" if packed else f"{part}_weight"
        holder = attention.out_proj if part == "out_proj" else attention
        yield Site(
            f"{name}.{part}".lstrip("."),
            tuple(f"{alias}.{part}" for alias in aliases),
            "MultiheadAttention",
            attention,
            holder,
            slot,
            "bias" if part == "out_proj" else "in_proj_bias",
            width_in,
            width,
            reason or _reason_of_parameter(holder, slot),
        )


def _expert_sites(
    model: nn.Module, module: nn.Module, name: str, aliases: tuple[str, ...], holders: Holders
) -> Iterator[Site]:
    """The packed weights of fused experts, with axes for experts, rows and columns."""
    reason = _reason_to_keep_experts(module, holders)
    above = [model.get_submodule(name.rsplit(".", end)[0]) for end in range(1, name.count(".") + 1)]
    for part, slot in (packed_slots(module) or {}).items():
        inner, weight = module._modules.get(part), module._parameters.get(slot)
        why: str | None
        if isinstance(inner, Experts):
            widths, count, why = (inner.in_features, inner.out_features), inner.experts, "already structured experts"
        elif weight is not None and weight.ndim == 3:
            count, *sides = weight.shape
            widths = (sides[0], sides[1]) if module.is_transposed else (sides[1], sides[0])
            why = reason or _reason_of_parameter(module, slot)
        else:
            continue
        top = experts_per_token(module, (*above, model), count) or count
        yield Site(
            f"{name}.{slot}".lstrip("."), tuple(f"{alias}.{slot}" for alias in aliases), FusedExperts.__name__,
            module, module, slot, f"{slot}_bias", *widths, why, count, top,
        )  # fmt: skip


def _reason_to_keep_experts(module: nn.Module, holders: Holders) -> str | None:
    if _is_hooked(module):
        return "the experts have hooks, which may rely on their weights"
    if "forward" in vars(module):
        return "the experts' forward was replaced by another function"
    if module._is_expert_parallel:
        return "the experts are split over processes"
    for slot, parameter in module._parameters.items():
        for other, name, _ in holders[parameter] if parameter is not None else ():
            if other is not module:
                return f"the experts' {slot} is shared with {name or 'the model itself'}"
    return None


def _reason_to_keep_attention(attention: nn.MultiheadAttention, holders: Holders) -> str | None:
    if type(attention) is not nn.MultiheadAttention:
        return _of_subclass(attention, nn.MultiheadAttention)
    if _is_hooked(attention) or _is_hooked(attention.out_proj):
        return "the attention has hooks, which may rely on its weights"
    if "forward" in vars(attention):
        return "the attention's forward was replaced by another function"
    for option, is_on in (("add_bias_kv", attention.bias_k is not None), ("add_zero_attn", attention.add_zero_attn)):
        if is_on:
            return f"the attention has {option}, which an attention with separate projections does not have here"
    if type(attention.out_proj) is not nn.modules.linear.NonDynamicallyQuantizableLinear:
        return f"the attention's out_proj is {type(attention.out_proj).__name__}"
    for slot, parameter in attention._parameters.items():
        for other, name, _ in holders[parameter] if parameter is not None else ():
            if other is not attention:
                return f"the attention's {slot} is shared with {name or 'the model itself'}"
    return None


def _reason(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """Why a linear layer of this kind cannot be replaced."""
    if type(module) is not kind and not (isinstance(module, nn.Linear) and acts_as_linear(module)):
        return _of_subclass(module, kind)
    if _is_hooked(module):
        return "it has hooks, which may rely on its weight"
    if "forward" in vars(module):
        return "its forward was replaced by another function"
    if module._modules or module._buffers or module._parameters.keys() - {"weight", "bias"}:
        return "it holds more than a weight and a bias, which would be lost"
    return _reason_of_parameter(module, "weight")


def _reason_of_parameter(holder: nn.Module, slot: str) -> str | None:
    weight = holder._parameters.get(slot)
    if not isinstance(weight, nn.Parameter):
        return "its weight is not a parameter of its own"
    if type(weight.data) is not torch.Tensor:
        return f"its weight is a {type(weight.data).__name__}, not a plain tensor"
    if not weight.is_floating_point() or weight.itemsize < 2:
        return f"its weight is {weight.dtype}: structured layers are floating, of 16 bits or more"
    if has_gradient_hooks(weight):
        return "its weight has hooks, which new parameters would not have"
    return None


def _of_subclass(module: nn.Module, kind: type[nn.Module]) -> str:
    base = f"nn.{kind.__name__}" if kind.__module__.startswith("torch.") else kind.__name__
    return f"{type(module).__name__} is a subclass of {base} whose own behaviour would be lost"


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
