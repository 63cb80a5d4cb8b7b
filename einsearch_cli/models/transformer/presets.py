"""Named sizes of transformers, and the network of the text task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import Field, ModelWrapValidatorHandler, SerializerFunctionWrapHandler, model_serializer, model_validator

from einsearch_cli.errors import SizeError, SpecError, near_name
from einsearch_cli.models.transformer.config import TransformerConfig, config_from
from einsearch_cli.settings import Origin, Whole, in_code

_PROXY_HEAD_SIZE: Final = 64
"""The most numbers per attention head in the text task's network, which has as few heads as possible."""

_COMMON: Final[dict[str, Any]] = {"vocabulary": 32_000, "context": 1024, "tied": True, "bias": True}
_WIDE: Final[dict[str, Any]] = {"layers": 24, "kv_heads": 4, "head_size": 64, "first_ffn_dense": True}
_PRESETS: Final[dict[str, dict[str, Any]]] = {
    "s": {"width": 768, "layers": 12, "heads": 12},
    "m": {"width": 1024, "layers": 24, "heads": 16},
    "l": {"width": 1536, "layers": 24, "heads": 12},
    "xl": {"width": 2048, "layers": 24, "heads": 16},
    "wide-m": {**_WIDE, "width": 1024, "heads": 8, "hidden": 4864, "structure": "low-rank:r=512"},
    "wide-l": {**_WIDE, "width": 1536, "heads": 12, "hidden": 7424, "structure": "low-rank:r=768"},
}

PRESETS: Final[dict[str, TransformerConfig]] = {
    name: TransformerConfig.model_validate({**_COMMON, **sizes}) for name, sizes in _PRESETS.items()
}
"""Named sizes. s, m, l, xl have 110M, 335M, 729M and 1.3B parameters when dense.

wide-m and wide-l have attention of half the width with 4 key-value heads, and wide low-rank feed-forward networks.
Sizes of Wei et al. 2024 (arXiv 2406.16450).
"""


def _preset_values(name: object) -> dict[str, Any]:
    if name not in _PRESETS:
        near = near_name(str(name), _PRESETS)
        known = f"all are {', '.join(_PRESETS)}"
        raise SpecError(
            f"no preset {str(name)[:40]!r}", remedy=f"use {near!r}; {known}" if near else known, keys=("preset",)
        )
    return {**_COMMON, **_PRESETS[str(name)]}


def preset(name: str, *, origin: Origin = in_code, **changes: object) -> TransformerConfig:
    """A preset with some values changed; sizes that depend on changed ones follow.

    Args:
        name: a key of `PRESETS`.
        origin: how the changes were given, for messages.
        changes: settings of `TransformerConfig`.

    Raises:
        SpecError: no such preset or setting.
        SizeError: values that do not fit each other.

    >>> preset("s").head_size, preset("s", heads=6).head_size
    (64, 128)
    >>> preset("xs")
    Traceback (most recent call last):
    ...
    einsearch_cli.errors.SpecError: no preset 'xs'
    try: use 's'; all are s, m, l, xl, wide-m, wide-l
    """
    return config_from({**_preset_values(name), **changes}, origin)


class ModelSettings(TransformerConfig):
    """The network of a run: a preset with changes, or all sizes. Written to a file, it contains what was given.

    >>> settings = ModelSettings.model_validate({"preset": "s", "width": 1536})
    >>> settings.hidden, settings.config(vocabulary=256).vocabulary, settings.model_dump()
    (6144, 256, {'width': 1536, 'preset': 's'})
    """

    preset: str | None = None
    """Name of a preset, whose sizes apply where nothing else is given."""
    vocabulary: Whole = Field(default=1, examples=[32_000])
    """Number of distinct tokens; by default that of the data."""

    @model_validator(mode="wrap")
    @classmethod
    def _of_preset(cls, values: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, Mapping):
            return make(values)
        given = {key: value for key, value in values.items() if value is not None}
        sizes = {**_preset_values(given["preset"]), "vocabulary": 1} if "preset" in given else {}
        made = make({**sizes, **given})
        made.__pydantic_fields_set__.intersection_update(given)
        return made

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key in self.model_fields_set}

    def config(self, vocabulary: int) -> TransformerConfig:
        """The network for data with this many distinct tokens; SpecError for a vocabulary that is smaller."""
        own = {name: getattr(self, name) for name in TransformerConfig.model_fields}
        if "vocabulary" not in self.model_fields_set:
            own["vocabulary"] = vocabulary
        elif self.vocabulary < vocabulary:
            raise SpecError(
                f"model.vocabulary is {self.vocabulary:,}: the data have {vocabulary:,} distinct tokens",
                remedy="leave model.vocabulary out, or give a larger one",
                keys=("vocabulary",),
            )
        return config_from(own)


def proxy_config(*, vocabulary: int, width: int, layers: int, context: int, structure: str) -> TransformerConfig:
    """The small network of the text task: heads of at most 64, LayerNorm, GELU, no bias, all but the head structured.

    Raises:
        SizeError: a width that does not divide into heads of even size, or a size below 1.

    >>> [proxy_config(vocabulary=11, width=w, layers=2, context=16, structure="dense").heads for w in (64, 96, 128)]
    [1, 2, 2]
    """
    heads = max(1, math.ceil(width / _PROXY_HEAD_SIZE))
    if width >= 1 and width % (2 * heads):
        raise SizeError(
            f"a proxy transformer of width {width}: it has {heads} heads of at most {_PROXY_HEAD_SIZE}, "
            f"so the width has to be a multiple of {2 * heads}",
            remedy=f"use {math.ceil(width / (2 * heads)) * 2 * heads}",
        )
    return TransformerConfig(
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        context=context,
        structure=structure,
        structured="all",
    )
