"""Which kind of linear layer a module is, told by its class and its attributes."""

from __future__ import annotations

from torch import nn


def conv1d_class(module: nn.Module) -> type[nn.Module] | None:
    """The Conv1D of transformers that this is an instance of, found by name so that transformers stays optional."""
    for kind in type(module).__mro__:
        if kind.__name__ == "Conv1D" and kind.__module__.split(".")[0] == "transformers":
            return kind
    return None


def width(module: nn.Module, side: str) -> int:
    """in_features or out_features of a module that may have none, which then counts as 0."""
    found = getattr(module, side, 0)
    return found if isinstance(found, int) else 0


def is_adapter(module: nn.Module) -> bool:
    """Whether a module adds something to a linear layer, as LoRA does."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    return "base_layer" in module._modules or ("lora" in kind.lower() and "weight" in module._parameters)


def is_foreign_linear(module: nn.Module) -> bool:
    """Whether a module looks like the linear layer of another library: it has both widths, and no nn.Linear inside."""
    has_widths = width(module, "in_features") > 0 and width(module, "out_features") > 0
    return has_widths and not any(isinstance(inner, nn.Linear) for inner in module.modules())


def unknown_kind(module: nn.Module) -> str | None:
    """The reason to leave an adapter or a linear layer of another library; None for others."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if is_adapter(module):
        return f"{kind} is an adapter around a linear layer"
    if is_foreign_linear(module):
        return f"{kind} is a linear layer of a kind that swap_linear does not know"
    return None
