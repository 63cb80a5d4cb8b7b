"""Hugging Face models with swapped layers: folders that `from_pretrained` loads in processes that import einsearch.

The config of a folder contains the swaps under `quantization_config`, by which transformers finds the code that changes
a model before its weights are loaded. Its `model_type` begins with `einsearch-`. So without einsearch, the `Auto…`
classes refuse the folder; otherwise they would fill the layers with random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from torch import nn

from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.files import make_folder, write_atomically
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.moe import StructuredMoE
from einsearch_cli.moe.experts import Experts
from einsearch_cli.structures import LayerSpec
from einsearch_cli.swap import SwapReport, apply_swaps
from einsearch_cli.swap.attention import SplitMultiheadAttention
from einsearch_cli.swap.finding import find_sites
from einsearch_cli.swap.fused_experts import FusedExperts
from einsearch_cli.swap.pointwise import PointwiseConv
from einsearch_cli.swap.report import Swap

METHOD: Final = "einsearch"
PREFIX: Final = "einsearch-"
"""The beginning of `model_type` in the config of a swapped model."""
FORMAT: Final = 1
"""The version of an entry's format, which rises when older versions of einsearch cannot read it."""
_CHECKED_LATER: ContextVar[bool] = ContextVar("_CHECKED_LATER", default=False)
"""Whether the caller of `from_pretrained` checks for missing weights itself."""
_PLACES: Final = (
    *("revision", "token", "subfolder", "cache_dir", "local_files_only", "force_download", "proxies"),
    "trust_remote_code",
)
"""Options of `from_pretrained` that are also needed to find the config."""
_README: Final = """\
Linear layers of this model are structured matrices: it loads where einsearch is imported:

    import einsearch_cli  # then from_pretrained(folder), as for any model
"""
SWAPS: Final = "einsearch_swaps.json"
"""The file that earlier versions wrote next to the config instead of the entry in it."""


def save_swapped(model: Any, reports: SwapReport | Sequence[SwapReport], folder: str | Path, **options: Any) -> None:
    """Write a model of transformers or diffusers whose linear layers `swap_linear` replaced.

    `from_pretrained(folder)`, of `AutoModel…` or of the class, loads it in a process that has imported einsearch.
    Without the import, the `Auto…` classes and diffusers refuse it, and a concrete class of transformers only warns.
    The swaps are also noted in the model's config (`remember_swaps`).

    Args:
        model: a `PreTrainedModel` of transformers, or a `ModelMixin` of diffusers.
        reports: what `swap_linear` returned, in the order of the calls. Swaps that the config notes already are kept.
        folder: created if missing. It gets a README.md that says how it loads, unless it has one.
        options: `max_shard_size`, `push_to_hub` and whatever else `save_pretrained` takes.

    Raises:
        OutputError: if the folder or its config cannot be written.
        SpecError: for a model of another library, for reports of another model, and for quantised factors.
    """
    folder = Path(folder)
    remember_swaps(model, reports)
    make_folder(folder)
    model.save_pretrained(folder, **options)
    if not (folder / "README.md").exists():
        write_atomically(folder / "README.md", _README)


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
    entry = _entry([report.to_json() for report in _all_swaps(model, several)])
    if _is_of_diffusers(model):
        model.register_to_config(quantization_config=entry)
    else:
        model.config.quantization_config = entry


def _all_swaps(model: Any, new: Sequence[SwapReport]) -> list[SwapReport]:
    """The swaps that the config notes already and the model still has, followed by `new`.

    Raises:
        SpecError: if they do not name exactly the model's structured layers, or factors are quantised.
    """
    layers = _structured_layers(model)
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


def _structured_layers(model: nn.Module) -> dict[str, Any]:
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
    if _method_of(model.config) != METHOD:
        return []
    is_mapping = isinstance(model.config, Mapping)
    entry = model.config["quantization_config"] if is_mapping else model.config.quantization_config
    return swaps_of(entry if isinstance(entry, Mapping) else entry.to_dict())


def forget_swaps(model: nn.Module) -> None:
    """Remove what `remember_swaps` noted from the configs of a model and its parts, whose layers are dense again."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if _method_of(config) != METHOD:
            continue
        if _is_of_diffusers(module):
            values = {name: value for name, value in config.items() if name != "quantization_config"}
            module._internal_dict = type(config)(values)
        else:
            del config.quantization_config


def _method_of(config: Any) -> Any:
    """The `quant_method` of a config's entry, if it has one."""
    entry = (
        config.get("quantization_config")
        if isinstance(config, Mapping)
        else getattr(config, "quantization_config", None)
    )
    return entry.get("quant_method") if isinstance(entry, Mapping) else getattr(entry, "quant_method", None)


def _is_of_diffusers(model: Any) -> bool:
    return hasattr(model, "register_to_config")


def load_swapped(folder: str | Path, model_class: Any = None, **options: Any) -> Any:
    """Load a model written by `save_swapped`, or by a Trainer that continued with it, in evaluation mode.

    It calls `model_class.from_pretrained(folder, **options)`, and raises an error if weights are missing or left over.

    Args:
        folder: the folder that `save_swapped` wrote, or the name of such a model on the hub.
        model_class: the class of the model, such as `transformers.GPT2LMHeadModel`, or one of the `AutoModel…` classes;
            by default the class of transformers or diffusers that the folder's config names.
        options: `dtype`, `device_map`, `attn_implementation` and whatever else `from_pretrained` takes.

    Raises:
        SpecError: if the swaps or the weights are missing, damaged, or do not fit each other, or if no class is given and
            the config names none that transformers or diffusers has.
        LayerError: if the model has other linear layers than the swaps name.
    """
    from safetensors import SafetensorError

    try:
        model_class = model_class or _class_of(folder, **_places(options))
        if hasattr(model_class, "load_config"):  # a class of diffusers
            _check_entry(model_class.load_config(folder, **_places(options)).get("quantization_config"), folder)
        elif "config" not in options:
            options["config"] = _config(folder, **_places(options))
    except OSError as error:
        raise SpecError(
            f"the config of {folder} cannot be read: {error}",
            remedy="give the folder that save_swapped wrote, or the name of such a model on the hub",
        ) from error
    # Other shapes are accepted at first, because the error of transformers does not name them.
    ignores_shapes = options.get("ignore_mismatched_sizes", False)
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    token = _CHECKED_LATER.set(True)
    try:
        model, found = model_class.from_pretrained(folder, **options)
    except (OSError, SafetensorError) as error:
        raise SpecError(f"weights in {folder} cannot be read: {error}", remedy="save the model again") from error
    finally:
        _CHECKED_LATER.reset(token)
    if found.get("mismatched_keys") and not ignores_shapes:
        name, there, wanted = min(found["mismatched_keys"])
        raise SpecError(
            f"{folder}: {len(found['mismatched_keys'])} of the weights have other shapes than the model: {name} is "
            f"{tuple(there)} in the file, and {tuple(wanted)} by the swaps and the config",
            remedy="give a folder whose config and weights were saved together",
        )
    lost, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if lost or unexpected:
        raise SpecError(
            f"{folder}: the weights lack {', '.join(lost) or 'none'} of the model's, and have {len(unexpected)} that it "
            f"does not have{': ' + ', '.join(unexpected[:3]) if unexpected else ''}",
            remedy="give the folder that save_swapped wrote, and the class of that model",
        )
    return model


def _check_entry(entry: Any, folder: str | Path) -> None:
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        raise SpecError(
            f"{folder} says nowhere which layers were swapped: its config has no entry of einsearch",
            remedy="give the folder that save_swapped wrote",
        )
    swaps_of(entry)


def _class_of(folder: str | Path, **places: Any) -> Any:
    """The class that was saved: transformers notes it under `architectures`, and diffusers under `_class_name`."""
    from transformers import PretrainedConfig

    config, _ = PretrainedConfig.get_config_dict(folder, **places)
    library = "diffusers" if "_class_name" in config else "transformers"
    name = next(iter([config["_class_name"]] if library == "diffusers" else config.get("architectures") or []), None)
    found = getattr(import_module(library), str(name), None)
    if found is None:
        raise SpecError(
            f"the config of {folder} names {name or 'no class'} as that of the model: a class of {library} is needed",
            remedy="give the class, such as load_swapped(folder, transformers.AutoModelForCausalLM)",
        )
    return found


def _places(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say where the files are."""
    return {name: options[name] for name in _PLACES if name in options}


def _config(folder: str | Path, **places: Any) -> Any:
    """The config with its swaps, including those of an earlier version."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, **places)
    entry = getattr(config, "quantization_config", None)
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        path = Path(folder) / places.get("subfolder", "") / SWAPS
        try:
            config.quantization_config = _entry(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise SpecError(
                f"{folder} says nowhere which layers were swapped: its config has no entry of einsearch, and {path}: {error}",
                remedy="give the folder that save_swapped wrote",
            ) from error
    swaps_of(config.quantization_config)
    return config


def _entry(swaps: Any) -> dict[str, Any]:
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


def register_layers() -> None:
    """Let `from_pretrained` swap layers before it loads weights; called when transformers loads its quantisers."""
    from transformers.quantizers.auto import (
        AUTO_QUANTIZER_MAPPING,
        register_quantization_config,
        register_quantizer,
    )
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if METHOD in AUTO_QUANTIZER_MAPPING:
        return

    class SwapConfig(QuantizationConfigMixin):
        """The entry of a swapped model's config."""

        def __init__(self, **entry: Any) -> None:
            self.quant_method: Any = METHOD
            self.entry = {**entry, "quant_method": METHOD}

        def to_dict(self) -> dict[str, Any]:
            return dict(self.entry)

    class Swapping(HfQuantizer):
        """Swaps layers of the model without weights; the loaded model is not marked as quantised."""

        is_trainable = True
        quantization_config: SwapConfig

        def is_serializable(self) -> bool:
            return True

        def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
            # A concrete class, unlike an `Auto…` class, reads the config without `_Prefixed`.
            model.config.model_type = model.config.model_type.removeprefix(PREFIX)
            for report in swaps_of(self.quantization_config.entry):
                apply_swaps(model, _fitted(report, model))
            for module in model.modules():  # draws the packed weight of an attention that has none any more
                if any(isinstance(child, SplitMultiheadAttention) for child in module.children()):
                    module._is_hf_initialized = True

        def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
            if not _CHECKED_LATER.get():
                _refuse_missing(model)
            del model.hf_quantizer, model.quantization_method
            for module in model.modules():
                if hasattr(module, "is_quantized"):
                    module.is_quantized = module.config._is_quantized = False
            return model

    _write_prefixed_configs()
    register_quantization_config(METHOD)(SwapConfig)
    register_quantizer(METHOD)(Swapping)


def _refuse_missing(model: nn.Module) -> None:
    """Raise SpecError if transformers drew random parameters of structured layers because a file lacked them."""
    lost = [
        f"{name}.{key}"
        for name, layer in _structured_layers(model).items()
        for key, parameter in layer.named_parameters()
        if not (
            parameter.is_meta or getattr(parameter, "_is_hf_initialized", False)
        )  # on the meta device: on disk until a call
    ]
    if lost:
        raise SpecError(
            f"the weights lack {len(lost)} parameters of structured layers, or have other shapes: {', '.join(lost[:3])}",
            remedy="give the folder that save_swapped wrote, and the class of that model",
        )


def _write_prefixed_configs() -> None:
    """Let the configs of swapped models be written with the prefix, whoever writes them, such as a Trainer."""
    from transformers.configuration_utils import PreTrainedConfig

    config_class: Any = PreTrainedConfig
    write = config_class.to_json_file

    def write_prefixed(self: Any, json_file_path: Any, *words: Any, **named: Any) -> None:
        write(self, json_file_path, *words, **named)
        if _method_of(self) == METHOD:
            path = Path(json_file_path)
            config = json.loads(path.read_text(encoding="utf-8"))
            config["model_type"] = PREFIX + config["model_type"].removeprefix(PREFIX)
            write_atomically(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")

    config_class.to_json_file = write_prefixed


def _fitted(report: SwapReport, model: Any) -> SwapReport:
    """The swaps by the names of this model, which may be the body of the saved one, or contain it as its body."""
    prefix = f"{model.base_model_prefix}."
    names = {site.name for site in find_sites(model)}

    def named(swap: Swap) -> Swap | None:
        if swap.name in names:
            return swap
        if swap.name.startswith(prefix):
            return _renamed(swap, lambda name: name.removeprefix(prefix))
        return _renamed(swap, lambda name: prefix + name) if prefix + swap.name in names else None

    fitted = [named(swap) for swap in report.replaced]
    is_body = not hasattr(model, model.base_model_prefix)
    return replace(
        report,
        replaced=tuple(
            swap if own is None else own
            for swap, own in zip(report.replaced, fitted, strict=True)
            if own is not None or not is_body  # a body without a head
        ),
    )


def _renamed(swap: Swap, change: Any) -> Swap:
    tied = None if swap.tied_to is None else change(swap.tied_to)
    return replace(swap, name=change(swap.name), aliases=tuple(map(change, swap.aliases)), tied_to=tied)


def register_names() -> None:
    """Let transformers read configs whose `model_type` begins with `einsearch-`; called when it loads its configs."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    prefixed: Any = _Prefixed
    for name in list(CONFIG_MAPPING.keys()):
        if not name.startswith(PREFIX):
            CONFIG_MAPPING.register(PREFIX + name, prefixed, exist_ok=True)


class _Prefixed:
    """Stands for the class of every config with the prefix, and returns that of the model."""

    @classmethod
    def from_dict(cls, config: dict[str, Any], **options: Any) -> Any:
        """The config of the model under its own name."""
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        name = config["model_type"].removeprefix(PREFIX)
        return CONFIG_MAPPING[name].from_dict({**config, "model_type": name}, **options)
