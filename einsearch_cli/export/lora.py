"""LoRA of peft on structured layers. Importing this module registers it, which importing peft does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft.tuners.lora.config import LoraConfig
from peft.tuners.lora.layer import Linear
from peft.tuners.lora.model import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear

_ALL = "all-linear"


class EinsumLora(Linear):
    """A structured layer with adapters of low rank: y = W x + b + scaling · B A x.

    The adapters stay separate. Their sum with W is in general not a matrix of W's structure, so merging is refused.
    """

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        return module.in_features, module.out_features  # type: ignore[return-value]

    @property
    def lora_variants(self) -> dict[tuple[str, ...], None]:
        """Only plain LoRA: its variants read or change a dense weight."""
        return {(): None}

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raise LayerError, unless the layer inside was made dense."""
        refuse_merge([self])
        super().merge(safe_merge, adapter_names)


def refuse_merge(modules: Any) -> None:
    """Raise LayerError if adapters of structured layers are among these modules."""
    for module in modules:
        if isinstance(module, EinsumLora) and isinstance(module.get_base_layer(), EinsumLinear):
            raise LayerError(
                f"merging LoRA adapters into structured layers, {type(module.get_base_layer()).__name__}: W + B A is in "
                "general no matrix of the structure of W",
                remedy="keep the adapters apart, as PeftModel.from_pretrained loads them; or, for a dense model, "
                "einsearch_cli.export.dense_copy(model).merge_and_unload()",
            )


def _register_layer(config: Any) -> None:
    start: Callable[..., None] = config.__post_init__

    def start_with_layer(self: Any) -> None:
        start(self)
        self._register_custom_module({EinsumLinear: EinsumLora})

    config.__post_init__ = start_with_layer


def _find_all_linear(model_class: Any) -> None:
    prepare: Callable[..., None] = model_class._prepare_model

    def prepare_with_structured(self: Any, peft_config: Any, model: nn.Module) -> None:
        prepare(self, peft_config, model)
        if str(peft_config.target_modules).lower() != _ALL:
            return
        if any(isinstance(module, EinsumLinear) for module in model.modules()):
            peft_config.target_modules = _linear(model) - _left(model)

    model_class._prepare_model = prepare_with_structured


def _linear(model: nn.Module) -> set[str]:
    """Names of linear layers, and of those that already have adapters."""
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D, EinsumLinear, Linear)
    return {name for name, module in model.named_modules() if isinstance(module, kinds)}


def _left(model: nn.Module) -> set[str]:
    """The names that peft skips: the output layer, and everything inside adapters."""
    name_head = getattr(model, "get_output_embeddings", None)
    head = name_head() if callable(name_head) else None
    modules = dict(model.named_modules())
    adapters: list[tuple[str, Any]] = [
        (name, module) for name, module in modules.items() if isinstance(module, BaseTunerLayer)
    ]
    inside = {f"{name}.{suffix}" for name, module in adapters for suffix, _ in module.named_modules() if suffix}
    return inside | {name for name, module in modules.items() if module is head}


def _refuse_merges(model_class: Any) -> None:
    check: Callable[..., None] = model_class._check_merge_allowed

    def check_structured(self: Any) -> None:
        refuse_merge(self.model.modules())  # before the first layer is merged
        check(self)

    model_class._check_merge_allowed = check_structured


_register_layer(LoraConfig)
_find_all_linear(LoraModel)
_refuse_merges(LoraModel)
