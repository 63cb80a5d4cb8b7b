"""Swapped models of diffusers, which load by `from_pretrained` in processes that import einsearch.

Elsewhere diffusers refuses their folders: "Unknown quantization type, got einsearch".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from einsearch_cli.export.swap_notes import METHOD, swaps_of
from einsearch_cli.swap import apply_swaps


class _Method(StrEnum):
    """An enumeration with one value, as diffusers asks a method for its value."""

    EINSEARCH = METHOD


def register_models() -> None:
    """Let diffusers swap layers before it loads weights; called when diffusers loads its quantisers."""
    from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
    from diffusers.quantizers.base import DiffusersQuantizer
    from diffusers.quantizers.quantization_config import QuantizationConfigMixin

    class SwapConfig(QuantizationConfigMixin):  # type: ignore[misc, unused-ignore]
        """The entry of a swapped model's config."""

        def __init__(self, **entry: Any) -> None:
            self.quant_method: Any = _Method.EINSEARCH
            self.entry = {**entry, "quant_method": METHOD}

        def to_dict(self) -> dict[str, Any]:
            return dict(self.entry)

        def to_diff_dict(self) -> dict[str, Any]:
            return self.to_dict()

    class Swapping(DiffusersQuantizer):  # type: ignore[misc, unused-ignore]
        """Swaps layers of the model without weights; the loaded model is not marked as quantised."""

        is_serializable = True
        is_trainable = True

        def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
            config: Any = self.quantization_config
            for report in swaps_of(config.entry):
                apply_swaps(model, report)

        def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
            model.is_quantized = False
            del model.quantization_method
            return model

    AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = SwapConfig
    AUTO_QUANTIZER_MAPPING[METHOD] = Swapping
