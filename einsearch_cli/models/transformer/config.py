"""`TransformerConfig`: everything that determines the shape of a transformer, as plain values for a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from einsearch_cli.errors import SizeError, SpecError, StructureError
from einsearch_cli.settings import Origin, Settings, Whole, in_code, read_settings
from einsearch_cli.structures import LayerSpec, MixtureOfExperts, parse_layer
from einsearch_cli.structures.scalars import exact_whole

HIDDEN_MULTIPLE: Final = 64
"""The default hidden size of SwiGLU, 8/3 of the width, is rounded up to a multiple of this."""

_FARTHEST: Final = 10_000
"""The largest distance at which divisors are proposed."""

_SIZES: Final = ("vocabulary", "width", "layers", "heads", "kv_heads", "head_size", "hidden", "context")
_LARGEST: Final = {"vocabulary": 1 << 32, "layers": 10_000}
"""The largest sizes: beyond them, even a network without memory takes minutes, or its sizes overflow."""

_LARGEST_WIDTH: Final = 1 << 24


class TransformerConfig(Settings):
    """Shape of a decoder-only transformer, and which of its layers are structured.

    Raises:
        SizeError: a size below 1 or too large for any memory, or sizes that do not fit each other.
        StructureError: a text that is not a structure.
        SpecError: experts that the chosen layers have no place for.

    >>> config = TransformerConfig(vocabulary=256, width=128, layers=2, heads=4, kv_heads=2, activation="swiglu")
    >>> config.head_size, config.hidden, config.attention_width
    (32, 384, 128)
    >>> TransformerConfig(vocabulary=256, width=100, layers=2, heads=3)
    Traceback (most recent call last):
    ...
    einsearch_cli.errors.SizeError: 3 heads in a width of 100: the heads have to divide the width
    try: give 2 or 4 heads, or a head_size of your own
    """

    vocabulary: Whole = Field(examples=[32_000])
    """Distinct tokens."""
    width: Whole = Field(examples=[768])
    """Size of the residual stream."""
    layers: Whole = Field(examples=[12])
    """Blocks of attention and feed-forward network."""
    heads: Whole = Field(examples=[12])
    """Attention heads of the queries."""
    kv_heads: Whole = Field(default=0, examples=[4])
    """Heads of keys and values, each shared by heads / kv_heads query heads; by default `heads`."""
    head_size: Whole = Field(default=0, examples=[64])
    """Numbers per head; by default width / heads. heads × head_size may be smaller than the width."""
    hidden: Whole = Field(default=0, examples=[3072])
    """Width inside the feed-forward network; by default 4 × width with GELU, 8/3 × width with SwiGLU."""
    activation: Literal["gelu", "swiglu"] = "gelu"
    """GELU: down(gelu(up(x))); SwiGLU: down(silu(gate(x)) · up(x))."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm or RMSNorm, before attention, before the feed-forward network and before the head."""
    tied: bool = False
    """Whether the embedding matrix is the head too; logits are then divided by the root of the width."""
    bias: bool = False
    """Whether linear layers have a bias; the head never has."""
    qk_norm: bool = False
    """RMSNorm of every query and key head before the rotation."""
    context: Whole = 1024
    """Tokens that attention sees."""
    rotary_base: float = Field(default=10_000.0, gt=1)
    """Longest wavelength of the rotary embedding, in positions per radian."""
    structure: str = "dense"
    """The structure of structured layers: any text that `parse_layer` reads."""
    structured: Literal["ffn", "attn", "all"] = "ffn"
    """The layers that are structured: feed-forward networks, attention projections, or both; the head never is."""
    first_ffn_dense: bool = False
    """Whether the feed-forward network of the first block stays dense."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        filled = {key: exact_whole(value) for key, value in values.items() if value is not None}
        width, heads = filled.get("width"), filled.get("heads")
        if not (type(width) is int and type(heads) is int and min(width, heads) >= 1):
            return filled
        if "head_size" not in filled and width % heads:
            raise SizeError(
                f"{heads} heads in a width of {width}: the heads have to divide the width",
                remedy=f"give {_near_divisors(heads, width)} heads, or a head_size of your own",
                keys=("heads", "width"),
            )
        filled.setdefault("kv_heads", heads)
        filled.setdefault("head_size", width // heads)
        filled.setdefault("hidden", _swiglu_hidden(width) if filled.get("activation") == "swiglu" else 4 * width)
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in _SIZES:
            size = getattr(self, name)
            if size < 1:
                raise SizeError(
                    f"{name} {size}: every size has to be at least 1", remedy=f"give a positive {name}", keys=(name,)
                )
        self._check_limits()
        if self.heads % self.kv_heads:
            raise SizeError(
                f"{self.kv_heads} kv_heads for {self.heads} heads: each has to serve equally many",
                remedy=f"give {_near_divisors(self.kv_heads, self.heads)} kv_heads",
                keys=("kv_heads", "heads"),
            )
        if self.head_size % 2:
            raise SizeError(
                f"a head_size of {self.head_size}: rotary embeddings turn pairs of numbers, it has to be even",
                remedy=f"use {self.head_size + 1}, or other heads",
                keys=("head_size", "heads", "width"),
            )
        self._check_experts()
        return self

    def _check_limits(self) -> None:
        sizes = {**{name: getattr(self, name) for name in _SIZES}, "heads × head_size": self.attention_width}
        for name, size in sizes.items():
            largest = _LARGEST.get(name, _LARGEST_WIDTH)
            if size > largest:
                shown = f"{size:,}" if size < 10**15 else "over 10^15"
                keys = tuple(name.split(" × "))
                raise SizeError(
                    f"{name} {shown}: at most {largest:,} is possible", remedy=f"give a smaller {name}", keys=keys
                )

    def _check_experts(self) -> None:
        if not self.has_expert_networks:
            return
        if self.structured == "attn":
            raise SpecError(
                f"structure {self.structure} with structured: attn: its experts are feed-forward networks",
                remedy="use structured: ffn, or experts that are single layers, such as btt-moe:experts=8,top=2",
                keys=("structure", "structured"),
            )
        if self.activation != "gelu" or self.bias:
            raise SpecError(
                f"structure {self.structure} with activation {self.activation} and bias {self.bias}: networks of "
                "experts use GELU and have no bias",
                remedy="use activation: gelu and bias: false, or experts that are single layers",
                keys=("structure", "activation", "bias"),
            )

    @property
    def layer_spec(self) -> LayerSpec:
        """The structure of structured layers, or experts of it."""
        try:
            return parse_layer(self.structure)
        except StructureError as error:
            error.keys = ("structure",)
            raise

    @property
    def has_expert_networks(self) -> bool:
        """Whether whole feed-forward networks are the experts."""
        layer = self.layer_spec
        return isinstance(layer, MixtureOfExperts) and layer.feed_forward

    @property
    def attention_width(self) -> int:
        """Numbers in all query heads together."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Numbers in all key heads together; the values are as wide."""
        return self.kv_heads * self.head_size


def config_from(values: Mapping[str, Any], origin: Origin = in_code) -> TransformerConfig:
    """A config from plain values, as a file or a command line gives them; `origin` says how they were given.

    Raises:
        SettingError: an unknown key, a missing one, or a value of the wrong type.
        SizeError: as in `TransformerConfig`.

    >>> config_from({"vocabulary": 10, "width": "wide", "layers": 1, "heads": 1})
    Traceback (most recent call last):
    ...
    einsearch_cli.settings.reading.SettingError: width is 'wide': a whole number is needed
    try: width: 768
    """
    return read_settings(TransformerConfig, values, origin)


def _swiglu_hidden(width: int) -> int:
    """The hidden size at which three matrices have as many parameters as two of 4 × width."""
    return -(-8 * width // (3 * HIDDEN_MULTIPLE)) * HIDDEN_MULTIPLE


def _near_divisors(wanted: int, number: int) -> str:
    """The nearest divisors below and above, within `_FARTHEST`."""
    lower = range(wanted - 1, max(0, wanted - _FARTHEST), -1)
    upper = range(wanted + 1, min(number, wanted + _FARTHEST) + 1)
    found = [next((size for size in sizes if number % size == 0), None) for sizes in (lower, upper)]
    return " or ".join(str(size) for size in found if size is not None) or "1"
