"""Swapped models of transformers, which load by `from_pretrained` in processes that import einsearch."""

from __future__ import annotations

import json
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import nn

from einsearch_cli.errors import SpecError
from einsearch_cli.export.swap_notes import METHOD, method_of, structured_layers, swaps_of
from einsearch_cli.files import write_atomically
from einsearch_cli.swap import SwapReport, apply_swaps
from einsearch_cli.swap.attention import SplitMultiheadAttention
from einsearch_cli.swap.finding import find_sites
from einsearch_cli.swap.report import Swap

PREFIX: Final = "einsearch-"
"""The beginning of `model_type` in the config of a swapped model."""
CHECKED_LATER: ContextVar[bool] = ContextVar("CHECKED_LATER", default=False)
"""Whether the caller of `from_pretrained` checks for missing weights itself."""


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
            if not CHECKED_LATER.get():
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
        for name, layer in structured_layers(model).items()
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
        if method_of(self) == METHOD:
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
