"""Products of modules with their own weights: kinds of modules, their products and FLOPs."""

# A FLOP count is 2 per multiply-add with a weight, for one token; a module counts once. None means "not known": the
# count then depends on the input, or on code that this package does not know.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.modules.rnn import RNNCellBase

from einsearch_cli.layers.learning_rates import StructuredLayer
from einsearch_cli.moe.experts import Experts
from einsearch_cli.swap.fused_experts import FusedExperts
from einsearch_cli.swap.pointwise import CONVOLUTIONS, is_pointwise

LOOKUP: Final = "a lookup, not a product"
_ELEMENTWISE: Final = (
    nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}

_COUNTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_experts", "groups")
_TOP: Final = (
    "num_experts_per_tok", "num_experts_per_token", "_experts_per_token", "num_selected_experts", "moe_top_k",
    "moe_topk", "moe_k", "top_k_experts", "router_top_k",
)  # fmt: skip
# Configs of transformers have had a top_k for sampling.
_TOP_OF_MODULES: Final = (*_TOP, "top_k", "topk")


def conv1d_class(module: nn.Module) -> type[nn.Module] | None:
    """The Conv1D class of transformers that this is an instance of, found by name so that transformers stays optional."""
    for kind in type(module).__mro__:
        if kind.__name__ == "Conv1D" and kind.__module__.split(".")[0] == "transformers":
            return kind
    return None


def width(module: nn.Module, side: str) -> int:
    """The in_features or out_features of a module; 0 if it has none."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A module with the weights that only it uses."""

    name: str
    module: nn.Module
    above: tuple[nn.Module, ...]
    """The modules that contain it, the nearest first."""
    tensors: dict[str, nn.Parameter]
    """Its parameters of two or more dimensions, and those of unknown shape, by name."""
    buffer_entries: int
    """Elements of its buffers that look like weights."""


@dataclass(frozen=True, slots=True)
class Product:
    """The product of a module with its weights."""

    kind: str
    flops: int | None
    """Forward FLOPs per token; None if not known."""
    note: str = ""
    dense: bool = True
    """Whether the weights are dense; False for structured layers."""


def product_of(place: Place) -> Product | None:
    """The product of a module with its own weights; None if it has none."""
    if any(nn.parameter.is_lazy(value) for value in place.tensors.values()):
        return Product(_label(place.module), None, "its size is not known before its first call")
    return next((found for rule in _RULES if (found := rule(place)) is not None), None)


def is_opaque(module: nn.Module) -> bool:
    """Whether a module's product is known as a whole, so that its insides are not searched."""
    return isinstance(module, StructuredLayer) or (not isinstance(module, nn.Linear) and is_foreign_linear(module))


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
    (StructuredLayer, lambda m: int(m.flops_per_token), "structured already"),
    (nn.Linear, lambda m: 2 * m.in_features * m.out_features, ""),
    (
        nn.MultiheadAttention,
        lambda m: 2 * m.embed_dim * (m.embed_dim + m.kdim + m.vdim),
        "queries, keys and values",
    ),
    ((nn.Embedding, nn.EmbeddingBag), lambda _: 0, LOOKUP),
    (CONVOLUTIONS, lambda m: _conv_flops(m), "kernel {size}; {flops}"),
    (nn.RNNBase, _recurrent_flops, "recurrent"),
    (RNNCellBase, _cell_flops, ""),
    (nn.Bilinear, _bilinear_flops, ""),
)
"""FLOPs by class of the module, with a note."""


def _conv_flops(module: Any) -> int | None:
    """FLOPs at one position for a kernel of size 1, which is a linear layer there."""
    return 2 * module.in_channels * module.out_channels if is_pointwise(module) else None


def _of_known_class(place: Place) -> Product | None:
    module = place.module
    for kind, flops, note in _BY_CLASS:
        if isinstance(module, kind):
            known = flops(module)
            if isinstance(module, CONVOLUTIONS):
                said = "FLOPs depend on the size of the input" if known is None else "FLOPs at one position"
                note = note.format(size="x".join(map(str, module.kernel_size)), flops=said)
            dense = not isinstance(module, StructuredLayer)
            return Product(_label(module), known, note, dense)
    if conv1d_class(module) is not None:
        return Product("Conv1D", 2 * int(module.nx) * int(module.nf))  # type: ignore[arg-type]
    if place.tensors and isinstance(module, _ELEMENTWISE):
        return Product(_label(module), 0, "elementwise, not a product")
    return None


def _experts(place: Place) -> Product | None:
    """The product of fused experts: tensors of three dimensions are matrices, those of two are added biases."""
    tensors = place.tensors
    if isinstance(place.module, Experts):
        experts = place.module
        used = experts_per_token(experts, place.above, experts.experts) or experts.experts
        return Product("FusedExperts", used * experts.plan.flops_per_token, "structured already", dense=False)
    if isinstance(place.module, FusedExperts) and tensors and all("bias" in name for name in tensors):
        return Product("FusedExperts", 0, "biases of experts, not a product")
    count = _expert_count(place.module, tensors)
    if count is None:
        return None
    multiplied = sum(value.numel() for name, value in tensors.items() if not _is_bias(name, value.ndim, value, count))
    top = experts_per_token(place.module, place.above, count)
    said = f"FLOPs of {top} of {count} experts" if top else f"FLOPs of all {count} experts, an upper bound"
    return Product(_label(place.module), 2 * multiplied * (top or count) // count, f"fused experts; {said}")


def _expert_count(module: nn.Module, weights: Mapping[str, Tensor]) -> int | None:
    """Number of experts in a module's tensors; None if it has no fused experts.

    The first dimension of a three-dimensional tensor counts experts; a two-dimensional tensor may contain the rows of
    all experts, one below the other.
    """
    noted = next(_integers((module,), _COUNTS), None)
    leading = {value.shape[0] for value in weights.values() if value.ndim == 3}
    if leading:
        count = min(leading)
        is_named = any(word in type(module).__name__.lower() for word in ("expert", "moe"))
        return count if len(leading) == 1 and count > 1 and (count == noted or is_named) else None
    stacked = [value.shape[0] for value in weights.values() if value.ndim == 2]
    if noted is None or len(stacked) < 2 or "expert" not in type(module).__name__.lower():
        return None
    return noted if all(rows % noted == 0 and rows > noted for rows in stacked) else None


def experts_per_token(module: nn.Module, above: Iterable[nn.Module], count: int) -> int | None:
    """Number of experts per token, from attributes of the module, those around it, or a config; else None.

    Args:
        module: the module that holds the experts.
        above: the modules that hold it, the nearest first.
        count: number of experts.
    """
    around = list(above)
    near = [module, *(each for parent in around[:2] for each in (parent, *parent.children()))]
    configs = [config for each in (module, *around) if (config := getattr(each, "config", None)) is not None]
    inner = [text for config in configs if (text := getattr(config, "text_config", None)) is not None]
    found = (*_integers(near, _TOP_OF_MODULES), *_integers((*inner, *configs), _TOP))
    return next((top for top in found if top <= count), None)


def _is_router(module: nn.Module, weight: Tensor) -> bool:
    """Whether a matrix scores experts: it has one row for each."""
    return weight.ndim == 2 and weight.shape[0] in set(_integers((module,), _COUNTS))


def _integers(holders: Iterable[Any], names: Iterable[str]) -> Iterator[int]:
    for holder in holders:
        for name in names:
            value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                yield value


def _is_bias(name: str, ndim: int, value: nn.Parameter, count: int) -> bool:
    return ndim == 2 and value.shape[0] == count and "bias" in name.rpartition(".")[2]


def _router(place: Place) -> Product | None:
    own = list(place.tensors.values())
    if len(own) != 1 or not _is_router(place.module, own[0]):
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
