"""The swaps of a model as noted in its config, under `quantization_config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from torch import nn

from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.moe import StructuredMoE
from einsearch_cli.moe.experts import Experts
from einsearch_cli.structures import LayerSpec
from einsearch_cli.swap import SwapReport
from einsearch_cli.swap.fused_experts import FusedExperts
from einsearch_cli.swap.pointwise import PointwiseConv
from einsearch_cli.swap.report import Swap

METHOD: Final = "einsearch"
FORMAT: Final = 1
"""The version of an entry's format, which rises when older versions of einsearch cannot read it."""


def remember_swaps(model: Any, reports: SwapReport | Sequence[SwapReport]) -> None:
    """Note the swaps in a model's config, so that `from_pretrained` loads whatever `save_pretrained` writes.

    This is for programs that save models themselves, such as a Trainer.

    Args:
        model: a `PreTrainedModel` of transformers, or a `ModelMixin` of diffusers.
        reports: what `swap_linear` gave, in the order of the calls. Swaps that the config notes already are kept.

    Raises:
        SpecError: for a model of another library, for reports of another model, and for quantised factors.
    """
    several = [reports] if isinstance(reports, SwapReport) else list(reports)
    if not (_is_of_diffusers(model) or hasattr(getattr(model, "config", None), "model_type")):
        raise SpecError(
            f"{type(model).__name__} has no config of transformers or diffusers, where swaps are noted",
            remedy="swap and note those inside: of a SentenceTransformer model[0].auto_model, which model.save then "
            "writes; of a pipeline its parts; of another module save its state_dict and report.to_json()",
        )
    entry = entry_with([report.to_json() for report in _all_swaps(model, several)])
    if _is_of_diffusers(model):
        model.register_to_config(quantization_config=entry)
    else:
        model.config.quantization_config = entry


def _all_swaps(model: Any, new: Sequence[SwapReport]) -> list[SwapReport]:
    """The swaps that the config notes already and the model still has, followed by `new`.

    Raises:
        SpecError: if they do not name exactly the model's structured layers, or factors are quantised.
    """
    layers = structured_layers(model)
    for name, layer in layers.items():
        if any(not parameter.is_floating_point() for parameter in layer.parameters()):
            raise SpecError(
                f"the factors of {name} are quantised: a folder holds those of floating dtypes alone",
                remedy="save the model before it is quantised, and quantise what is loaded",
            )
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    named: set[nn.Module] = set()
    for report in new:
        for swap in report.replaced:
            layer = _layer_of(swap, layers, prefix)
            wanted = swap.structure or report.structure
            if layer is None or _differs(layer, swap, wanted):
                there = "no structured layer" if layer is None else f"{_spec(layer)} {_widths(layer)}"
                raise SpecError(
                    f"the report says {wanted} {_widths(swap)} for {swap.name}: the model has {there} there",
                    remedy="give the reports of this model, as swap_linear or compress returned them",
                )
            named.add(layer)
    noted = []
    for report in _noted(model):
        layer_of = {swap: _layer_of(swap, layers, prefix) for swap in report.replaced}
        kept = tuple(
            swap
            for swap, layer in layer_of.items()
            if layer not in named
            and layer is not None
            and not _differs(layer, swap, swap.structure or report.structure)
        )
        if kept:
            noted.append(replace(report, replaced=kept))
            named.update(layer for swap in kept if (layer := layer_of[swap]) is not None)
    if left := [name for name, layer in layers.items() if layer not in named]:
        raise SpecError(
            f"{len(left)} structured layers of the model are in no report, such as {left[0]}",
            remedy="give the reports of all calls of swap_linear, in their order",
        )
    return [*noted, *new]


def structured_layers(model: nn.Module) -> dict[str, Any]:
    """The layers that swaps created, by their names in the reports, aliases included."""
    found: dict[str, Any] = {}
    inside: set[nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        own = name.replace("_orig_mod.", "").removesuffix(".base_layer")  # wrappers of torch.compile and of peft
        if isinstance(module, PointwiseConv):
            found[own] = module.linear
            inside.add(module.linear)
        elif isinstance(module, FusedExperts):
            found |= {f"{own}.{module.slots[part]}": experts for part, experts in module.structured.items()}
        elif isinstance(module, EinsumLinear | StructuredMoE) and module not in inside:
            found[own] = module
    return {name: layer for name, layer in found.items() if isinstance(layer, EinsumLinear | StructuredMoE | Experts)}


def _layer_of(swap: Swap, layers: Mapping[str, Any], prefix: str) -> Any:
    """The layer by its name in the model, in its body, or in a model of which this one is the body."""
    names = (swap.name, prefix + swap.name, swap.name.removeprefix(prefix))
    return next((layers[name] for name in names if name in layers), None)


def _differs(layer: Any, swap: Swap, structure: LayerSpec) -> bool:
    widths = (layer.in_features, layer.out_features)
    return (swap.in_features, swap.out_features) != widths or structure != _spec(layer)


def _spec(layer: Any) -> LayerSpec:
    found: LayerSpec = layer.mixture if isinstance(layer, StructuredMoE) else layer.structure
    return found


def _widths(layer: Any) -> str:
    return f"{layer.in_features} -> {layer.out_features}"


def _noted(model: Any) -> list[SwapReport]:
    if method_of(model.config) != METHOD:
        return []
    is_mapping = isinstance(model.config, Mapping)
    entry = model.config["quantization_config"] if is_mapping else model.config.quantization_config
    return swaps_of(entry if isinstance(entry, Mapping) else entry.to_dict())


def forget_swaps(model: nn.Module) -> None:
    """Remove what `remember_swaps` noted from the configs of a model and its parts, whose layers are dense again."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if method_of(config) != METHOD:
            continue
        if _is_of_diffusers(module):
            values = {name: value for name, value in config.items() if name != "quantization_config"}
            module._internal_dict = type(config)(values)
        else:
            del config.quantization_config


def method_of(config: Any) -> Any:
    """The `quant_method` of a config's entry, if it has one."""
    entry = (
        config.get("quantization_config")
        if isinstance(config, Mapping)
        else getattr(config, "quantization_config", None)
    )
    return entry.get("quant_method") if isinstance(entry, Mapping) else getattr(entry, "quant_method", None)


def _is_of_diffusers(model: Any) -> bool:
    return hasattr(model, "register_to_config")


def entry_with(swaps: Any) -> dict[str, Any]:
    """The entry of a config that notes these swaps."""
    return {"quant_method": METHOD, "format": FORMAT, "swaps": swaps}


def swaps_of(entry: Mapping[str, Any]) -> list[SwapReport]:
    """The swaps in an entry of a config; SpecError for a damaged entry and one of a newer version."""
    if entry.get("format") != FORMAT:
        raise SpecError(
            f"the swaps of the model are of format {entry.get('format')}, and this version of einsearch reads {FORMAT}",
            remedy="pip install --upgrade einsearch",
        )
    try:
        return [SwapReport.from_json(one) for one in entry["swaps"]]
    except (ValueError, KeyError, TypeError, AttributeError, EinsearchError) as error:
        raise SpecError(
            f"the swaps of the model are not a list of swap reports: {error}",
            remedy="give the folder that save_swapped wrote",
        ) from error
