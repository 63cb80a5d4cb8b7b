"""What the modules of a model multiply by their own weights: the kind of product, and its FLOPs."""

# A FLOP count is 2 per multiply-add with a weight, for one token, and a module counts once. None is "not known":
# the count then depends on the input, or on code that this package does not know.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.modules.rnn import RNNCellBase

from einsearch_cli.layers.learning_rates import STRUCTURED
from einsearch_cli.layers.swap.fused_experts import expert_count, experts_per_token, is_router
from einsearch_cli.layers.swap.kinds import conv1d_class, is_adapter, is_foreign_linear, width

LOOKUP: Final = "a lookup, not a product"
_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A module with the weights that only it uses."""

    name: str
    module: nn.Module
    above: tuple[nn.Module, ...]
    """The modules that hold it, the nearest first."""
    tensors: dict[str, nn.Parameter]
    """Its parameters of two or more dimensions, and those of unknown shape, by name."""
    buffer_entries: int
    """Elements of its buffers that look like weights."""


@dataclass(frozen=True, slots=True)
class Product:
    """What a module does with its weights."""

    kind: str
    flops: int | None
    """Forward per token; None where it is not known."""
    note: str = ""
    dense: bool = True
    """False for what is structured already."""


def product_of(place: Place) -> Product | None:
    """The product of a module with its own weights; None if it has none."""
    if any(nn.parameter.is_lazy(value) for value in place.tensors.values()):
        return Product(_label(place.module), None, "its size is not known before its first call")
    return next((found for rule in _RULES if (found := rule(place)) is not None), None)


def is_opaque(module: nn.Module) -> bool:
    """Whether a module's product is known as a whole, so that its insides are not looked into."""
    return isinstance(module, STRUCTURED) or (not isinstance(module, nn.Linear) and is_foreign_linear(module))


def _label(module: nn.Module) -> str:
    kind = type(module)
    if kind is NonDynamicallyQuantizableLinear:  # the out_proj of an attention
        return "nn.Linear"
    if kind.__module__.startswith("torch.nn.modules."):
        return f"nn.{kind.__name__}"
    return f"{kind.__module__}.{kind.__name__}" if kind.__module__.startswith("torch.ao.") else kind.__name__


def _recurrent_flops(module: nn.RNNBase) -> int:
    directions = 2 if module.bidirectional else 1
    width_out = module.proj_size or module.hidden_size
    rows = _GATES[module.mode.partition("_")[0]] * module.hidden_size
    weights = 0
    for layer in range(module.num_layers):
        width_in = width_out * directions if layer else module.input_size
        weights += directions * (rows * (width_in + width_out) + module.hidden_size * module.proj_size)
    return 2 * weights


def _cell_flops(module: RNNCellBase) -> int:
    names = " ".join(kind.__name__ for kind in type(module).__mro__)
    gates = next(gates for kind, gates in _GATES.items() if kind in names)
    return 2 * gates * module.hidden_size * (module.input_size + module.hidden_size)


def _bilinear_flops(module: nn.Bilinear) -> int:
    first, second = module.in1_features, module.in2_features
    return 2 * module.out_features * (first * second + min(first, second))


_BY_CLASS: Final[tuple[tuple[Any, Callable[[Any], int | None], str], ...]] = (
    (STRUCTURED, lambda m: int(m.flops_per_token), "structured already"),
    (nn.Linear, lambda m: 2 * m.in_features * m.out_features, ""),
    (
        nn.MultiheadAttention,
        lambda m: 2 * m.embed_dim * (m.embed_dim + m.kdim + m.vdim),
        "queries, keys and values",
    ),
    ((nn.Embedding, nn.EmbeddingBag), lambda _: 0, LOOKUP),
    (_ConvNd, lambda _: None, "kernel {size}; FLOPs depend on the size of the input"),
    (nn.RNNBase, _recurrent_flops, "recurrent"),
    (RNNCellBase, _cell_flops, ""),
    (nn.Bilinear, _bilinear_flops, ""),
)
"""Class of a module, its FLOPs, and a note on them."""


def _of_known_class(place: Place) -> Product | None:
    module = place.module
    for kind, flops, note in _BY_CLASS:
        if isinstance(module, kind):
            size = "x".join(map(str, module.kernel_size)) if isinstance(module, _ConvNd) else ""
            dense = not isinstance(module, STRUCTURED)
            return Product(_label(module), flops(module), note.format(size=size), dense)
    if conv1d_class(module) is not None:
        return Product("Conv1D", 2 * int(module.nx) * int(module.nf))  # type: ignore[arg-type]
    if place.tensors and isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm | nn.PReLU | _NormBase):
        return Product(_label(module), 0, "elementwise, not a product")
    return None


def _experts(place: Place) -> Product | None:
    """Tensors of three dimensions are matrices of experts; of those of two, biases only add."""
    tensors = place.tensors
    count = expert_count(place.module, tensors)
    if count is None:
        return None
    multiplied = sum(value.numel() for name, value in tensors.items() if not _is_bias(name, value.ndim, value, count))
    top = experts_per_token(place.module, place.above, count)
    said = f"FLOPs of {top} of {count} experts" if top else f"FLOPs of all {count} experts, an upper bound"
    return Product(_label(place.module), 2 * multiplied * (top or count) // count, f"fused experts; {said}")


def _is_bias(name: str, ndim: int, value: nn.Parameter, count: int) -> bool:
    return ndim == 2 and value.shape[0] == count and "bias" in name.rpartition(".")[2]


def _router(place: Place) -> Product | None:
    own = list(place.tensors.values())
    if len(own) != 1 or not is_router(place.module, own[0]):
        return None
    return Product(_label(place.module), 2 * own[0].numel(), "scores experts")


def _other_linear(place: Place) -> Product | None:
    module = place.module
    if "base_layer" in module._modules:
        return None
    if is_foreign_linear(module):
        note = "" if place.tensors else "its weight is not a parameter"
        return Product(_label(module), 2 * width(module, "in_features") * width(module, "out_features"), note)
    weight = module._parameters.get("weight")
    if is_adapter(module) and weight is not None and weight.ndim == 2:
        return Product(_label(module), 2 * weight.numel(), "with an adapter")
    return None


def _any_other(place: Place) -> Product | None:
    if place.tensors:
        return Product(_label(place.module), None, "its products are not known")
    if place.buffer_entries:
        note = f"{place.buffer_entries:,} entries in buffers, not parameters; its products are not known"
        return Product(_label(place.module), None, note)
    if any(hasattr(place.module, name) for name in ("_packed_params", "_all_weight_values")):
        return Product(_label(place.module), None, "its weight is packed, not a parameter")
    return None


_RULES: Final = (_of_known_class, _experts, _router, _other_linear, _any_other)
