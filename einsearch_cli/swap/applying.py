"""Carry out a planned swap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError, SizeError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.machine import memory_bytes
from einsearch_cli.moe.experts import Experts
from einsearch_cli.moe.layer import StructuredMoE
from einsearch_cli.projection.experts import project_experts_
from einsearch_cli.projection.projecting import Projection, project_
from einsearch_cli.structures import LayerSpec, MixtureOfExperts
from einsearch_cli.swap.attention import SplitMultiheadAttention
from einsearch_cli.swap.finding import Site, find_sites
from einsearch_cli.swap.fused_experts import FusedExperts
from einsearch_cli.swap.planning import Filter, plan_swaps
from einsearch_cli.swap.pointwise import KINDS, PointwiseConv
from einsearch_cli.swap.products import conv1d_class
from einsearch_cli.swap.report import Swap, SwapReport


def swap_linear(
    model: nn.Module, structure: LayerSpec | str, filter: Filter | None = None, project: bool = False
) -> SwapReport:
    """Replace the linear layers of a model by structured ones, in place.

    Replaced are `nn.Linear`, the `Conv1D` of transformers, convolutions of kernel size 1, the four projections of
    `nn.MultiheadAttention`, and the packed weights of the experts of transformers, each of which becomes several
    structured matrices. The new layers start from random values, to be trained from scratch. With `project`, they start
    from the nearest matrix to the old weight (see `project_`) and the old bias, to compress a trained model. Device,
    dtype, training mode, `requires_grad` and the presence of a bias are kept. Tied weights stay tied: a module held
    twice is converted once, and linear layers that share a weight become layers that share factors. Make the optimizer
    after the swap. Call it again, with another filter, to give other layers another structure.

    The report begins with the share of the model's parameters and FLOPs that is covered, and lists every other weight
    of two or more dimensions by kind: embeddings, convolutions, fused experts, and so on. It also holds the order in
    which every new layer counts its features. A layer that only a list or another plain Python object holds cannot be
    reached and is named. A layer that such an object holds in addition to the model stays, since code that reads it
    there would go on with the dense layer.

    Code that reads `layer.weight` without calling the layer gets the dense matrix, formed at each access: correct, but
    slower than a dense layer. Code that writes there gets a LayerError.

    Args:
        model: any module that is not itself a linear layer.
        structure: a `Structure`, a `MixtureOfExperts`, or any text that `parse_layer` reads, such as
            `btt-moe:experts=16,top=2`; with experts, train with `AuxiliaryLoss(model)`.
        filter: called with a `DenseLayer` and its name for every linear layer that can be replaced; False leaves it.
            By default all are replaced except the output layer of a model of transformers, so that its vocabulary
            can still be resized.
        project: keep as much of the old weights as the structure can hold; the report has the errors.

    Raises:
        LayerError: if the model itself is a linear layer, or compiled, or
            wrapped for distributed training; with `project`, for a mixture of experts
            and for weights that are not finite.
        StructureError: if the text is not a structure.
        SizeError: if the new parameters do not fit the memory of their device.

    >>> mlp = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> print(swap_linear(mlp, "monarch", lambda layer, name: layer.out_features > 10))
    XA^1/2 XAB^1/2 YB^1/2 YAB^1/2
    replaced 85.2% of the parameters and 86.5% of the FLOPs (1 of 2 linear layers)
      these layers: 4,096 -> 1,024 parameters, 8,192 -> 2,048 FLOPs
      whole model:  4,810 -> 1,739 parameters, 9,472 -> 3,328 FLOPs
      FLOPs are per token: 2 per multiply-add with a weight, each layer once;
          attention scores are left out
    stays as it is, 14.8% of the parameters:
      parameters  share  FLOPs/token  kind of weights
             640  13.3%        1,280  nn.Linear
              74   1.5%               biases and other vectors
    replaced 1:
      0  64 -> 64: 4,096 -> 1,024 parameters, 8,192 -> 2,048 FLOPs
    left 1:
      2: filter said no
    """
    return apply_swaps(model, plan_swaps(model, structure, filter), project)


Projecting = Callable[[Swap, EinsumLinear, Tensor], Projection]
"""Gives a new layer the values nearest to a weight (out_features, in_features); its bias is the old one."""


def apply_swaps(model: nn.Module, plan: SwapReport, project: bool | Projecting = False) -> SwapReport:
    """Carry out a plan on the model for which it was made, or on one built like it.

    Everything that can be checked is checked first, memory included. Then layers are replaced one after another, so
    that their old weights can be freed.

    Raises:
        LayerError: if the model does not have the linear layers of the plan, or has weights
            that cannot be projected.
        SizeError: if the new parameters do not fit the memory of their device.

    >>> stored = plan_swaps(nn.Sequential(nn.Linear(64, 64)), "monarch").to_json()
    >>> rebuilt = nn.Sequential(nn.Linear(64, 64))
    >>> apply_swaps(rebuilt, SwapReport.from_json(stored)).applied
    True
    """
    sites = {site.name: site for site in find_sites(model)}
    for swap in plan.replaced:
        _check_site(swap, sites.get(swap.name))
    _check_layers_can_be_built(plan)
    _check_memory(model, plan, sites)
    if project:
        _check_projection(plan, sites)
    del sites  # it holds every old layer, which would keep all old weights in memory
    replaced = _replace_all(model, plan, project)
    _keep_fast_paths_off(model)
    return replace(plan, applied=True, replaced=replaced)


def _check_site(swap: Swap, site: Site | None) -> None:
    widths = f"{swap.in_features} -> {swap.out_features}"
    if site is not None and site.reason is None:
        if (swap.kind, swap.in_features, swap.out_features) == (site.kind, site.in_features, site.out_features):
            return
        there = f"{site.kind} {site.in_features} -> {site.out_features}"
    else:
        there = "none" if site is None else f"one that stays: {site.reason}"
    raise LayerError(
        f"the plan replaces {swap.name}, a linear layer {widths} in {swap.kind}: the model has {there} there",
        remedy="make the plan again with plan_swaps(model, ...), after the last change to the model",
    )


def check_projection(model: nn.Module, plan: SwapReport) -> None:
    """Raise LayerError for a plan that projects weights to which no structure is near.

    Raises:
        LayerError: naming a layer, or the mixture of experts.
    """
    _check_projection(plan, {site.name: site for site in find_sites(model)})


def _check_projection(plan: SwapReport, sites: dict[str, Site]) -> None:
    if isinstance(plan.structure, MixtureOfExperts):
        raise LayerError(
            f"{plan.structure} with project: a dense matrix has no nearest mixture of experts",
            remedy="give a structure without experts, or train from scratch",
        )
    for swap in plan.replaced:
        weight = sites[swap.name].weight
        if weight is not None and not bool(torch.isfinite(weight).all()):
            raise LayerError(
                f"the weight of {swap.name} has entries that are NaN or infinite: nothing is near to it",
                remedy="leave that layer by a filter, or start from an earlier checkpoint",
            )


def _check_layers_can_be_built(plan: SwapReport) -> None:
    for swap in {(s.in_features, s.out_features, s.order, s.structure): s for s in plan.replaced}.values():
        _new_layer(swap, plan.structure, bias=False, device="meta")


def _check_memory(model: nn.Module, plan: SwapReport, sites: dict[str, Site]) -> None:
    """Raise SizeError if the model would no longer fit the memory of a device after the swap."""
    growth: dict[torch.device, int] = defaultdict(int)
    for swap in plan.replaced:
        weight = sites[swap.name].weight
        if weight is not None and swap.tied_to is None:
            growth[weight.device] += (swap.costs.params_after - swap.costs.params_before) * weight.itemsize
    for device, more in growth.items():
        held = [p for p in model.parameters() if p.device == device and not nn.parameter.is_lazy(p)]
        needed = more + sum(p.numel() * p.itemsize for p in held)
        available = memory_bytes(device)
        if more > 0 and available is not None and needed > available:
            raise SizeError(
                f"{plan.structure} makes the parameters of the model {more:,} bytes larger, {needed:,} in all: "
                f"device {device} has {available:,} bytes; nothing was replaced",
                remedy="choose a smaller rank, or leave the largest layers by a filter",
            )


def _replace_all(model: nn.Module, plan: SwapReport, project: bool | Projecting) -> tuple[Swap, ...]:
    """Replace all layers of a plan; returns the swaps with the errors of their projections."""
    done: list[Swap] = []
    news: dict[str, EinsumLinear | StructuredMoE] = {}
    biases: dict[Tensor, nn.Parameter] = {}
    for swap in plan.replaced:
        names = (swap.name, *swap.aliases)
        holders = tuple(name.rpartition(".")[0] for name in names)
        if swap.kind == FusedExperts.__name__:
            done.append(_replace_experts(model, holders, swap, swap.structure or plan.structure, project))
            continue
        if swap.kind == "MultiheadAttention":
            _split_attention(model, holders)
        old = model.get_submodule(swap.name)
        new = news[swap.name] = _converted(old, swap, plan.structure)
        if swap.tied_to is not None:
            _share_matrix(news[swap.tied_to], new)
        found = _keep(old, swap, new, project) if project else None
        if found is not None:
            swap = replace(swap, relative_error=found.relative_error, output_error=found.output_error)
        ordered = new.experts if isinstance(new, StructuredMoE) else new
        done.append(replace(swap, order=str(ordered.order)))
        old_bias = old._parameters["bias"]
        if old_bias is not None and isinstance(new.bias, nn.Parameter):
            new.bias = biases.setdefault(old_bias, new.bias)
        _put(model, names, PointwiseConv(new, old) if isinstance(old, KINDS) else new)
    return tuple(done)


def _replace_experts(
    model: nn.Module, holders: tuple[str, ...], swap: Swap, structure: LayerSpec, project: bool | Projecting
) -> Swap:
    """Replace one packed weight of fused experts; returns the swap with the error of its projection."""
    assert not isinstance(structure, MixtureOfExperts)
    fused = model.get_submodule(holders[0])
    if not isinstance(fused, FusedExperts):
        fused = FusedExperts(fused)
        _put(model, holders, fused)
    slot = swap.name.rpartition(".")[2]
    weight = fused._parameters[slot]
    assert weight is not None
    new = Experts(swap.in_features, swap.out_features, structure, swap.experts, weight.device, weight.dtype, swap.order)
    new.requires_grad_(weight.requires_grad).train(fused.training)
    error = swap.relative_error
    if project:
        error = project_experts_(new, weight.mT if fused.is_transposed else weight)
    fused.put(next(part for part, name in fused.slots.items() if name == slot), new)
    return replace(swap, relative_error=error, order=str(new.order))


def _keep(old: nn.Module, swap: Swap, new: nn.Module, project: bool | Projecting) -> Projection | None:
    """Project the old weight and copy the bias; returns the errors, None if the factors are shared."""
    assert isinstance(new, EinsumLinear)
    weight, bias = old._parameters["weight"], old._parameters["bias"]
    assert weight is not None
    if bias is not None and new.bias is not None:
        with torch.no_grad():
            new.bias.copy_(bias)
    if swap.tied_to is not None:
        return None
    matrix = matrix_of(old)
    return project(swap, new, matrix) if callable(project) else project_(new, matrix)


def matrix_of(layer: nn.Module) -> Tensor:
    """The dense matrix (out_features, in_features) of a linear layer that can be replaced."""
    weight = layer._parameters["weight"]
    assert weight is not None
    # The Conv1D of transformers is a linear layer, and the Conv1d of torch a convolution.
    return weight.T if conv1d_class(layer) is not None else weight.flatten(1)


def _new_layer(
    swap: Swap, structure: LayerSpec, bias: bool, device: torch.device | str, dtype: torch.dtype | None = None
) -> EinsumLinear | StructuredMoE:
    structure = swap.structure or structure
    if isinstance(structure, MixtureOfExperts):
        return StructuredMoE(swap.in_features, swap.out_features, structure, bias, device, dtype, swap.order)
    return EinsumLinear(swap.in_features, swap.out_features, structure, bias, device, dtype, swap.order)


def _share_matrix(first: EinsumLinear | StructuredMoE, second: EinsumLinear | StructuredMoE) -> None:
    """Share everything of the first layer but its bias with the second, whose dense weight was tied to the first's."""
    for name, child in first.named_children():
        setattr(second, name, child)
    if isinstance(first, EinsumLinear) and isinstance(second, EinsumLinear):
        second.factors, second.gain = first.factors, first.gain
        second.order = first.order


def split_attentions(model: nn.Module, plan: SwapReport) -> None:
    """Split the attentions whose projections a plan replaces; the model computes the same."""
    for swap in plan.replaced:
        if swap.kind == "MultiheadAttention":
            _split_attention(model, tuple(name.rpartition(".")[0] for name in (swap.name, *swap.aliases)))
    _keep_fast_paths_off(model)


def _split_attention(model: nn.Module, names: tuple[str, ...]) -> None:
    """Split the attention under these names, unless an earlier layer of the plan has done so."""
    attention = model.get_submodule(names[0])
    if isinstance(attention, nn.MultiheadAttention):
        _put(model, names, SplitMultiheadAttention(attention))


def _put(model: nn.Module, names: tuple[str, ...], new: nn.Module) -> None:
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)


def _converted(old: nn.Module, swap: Swap, structure: LayerSpec) -> EinsumLinear | StructuredMoE:
    weight, bias = old._parameters["weight"], old._parameters["bias"]
    assert weight is not None
    new = _new_layer(swap, structure, bias is not None, weight.device, weight.dtype)
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(bias.requires_grad if name == "bias" and bias is not None else weight.requires_grad)
    return new.train(old.training)


_WITHOUT_FAST_PATH = (EinsumLinear, StructuredMoE, SplitMultiheadAttention)


def _keep_fast_paths_off(model: nn.Module) -> None:
    """Make torch's transformer encoders call their structured layers in eval mode too.

    Their fast path reads `layer.weight`, for which a structured layer forms its whole dense matrix at every call. It
    also makes nested tensors, which a structured attention does not accept.
    """
    for module in model.modules():
        if not any(isinstance(inner, _WITHOUT_FAST_PATH) for inner in module.modules()):
            continue
        # torch itself sets this where the fast path does not apply.
        if isinstance(module, nn.TransformerEncoderLayer):
            vars(module)["activation_relu_or_gelu"] = 0
        elif isinstance(module, nn.TransformerEncoder):
            vars(module)["use_nested_tensor"] = False
