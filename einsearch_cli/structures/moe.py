"""Layers of experts: a structure, the number of experts, and how many of them each token uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.carrier_notation import structure_of_terms
from einsearch_cli.structures.families import family_of, family_text
from einsearch_cli.structures.structure import Structure

MAX_EXPERTS = 4096
_FEED_FORWARD = "ffn-moe"
_EXAMPLE = "btt-moe:experts=16,top=2"
_WITH_SUFFIX = re.compile(r"(?P<expert>.+)\s+moe(?::(?P<rest>.*))?", re.ASCII | re.DOTALL)
_FAMILY = re.compile(r"(?P<family>[A-Za-z-]+)-moe(?::(?P<rest>.*))?", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """A sparse layer: every token goes through `top` of the `experts` matrices of one structure.

    With BTT experts this is BTT-MoE of Potapczynski et al. 2024 (arXiv 2410.02117), "BTT Mixture of
    Experts": the bond index of the structure, read as the number of the expert.

    >>> from einsearch_cli.structures import parse_layer
    >>> layer = parse_layer("low-rank-moe:r=32,experts=8,top=2")
    >>> print(layer.short_text, "=", layer)
    low-rank-moe:r=32,experts=8,top=2 = XA^1 YB^1 AB=32 moe:experts=8,top=2
    """

    structure: Structure
    """The structure of every expert."""
    experts: int
    top: int
    """The number of experts that a token goes through."""
    feed_forward: bool = False
    """Whether an expert is a whole feed-forward network, as in the standard sparse mixture.

    One router then serves the layers of the network, and all other linear layers carry the structure without experts.
    """

    def __post_init__(self) -> None:
        if not 1 <= self.experts <= MAX_EXPERTS:
            raise StructureError(
                f"experts={self.experts}: a layer has 1 to {MAX_EXPERTS} experts",
                remedy=f"write for example {_EXAMPLE}",
            )
        if not 1 <= self.top <= self.experts:
            raise StructureError(
                f"top={self.top} with experts={self.experts}: a token goes through at least 1 "
                f"and at most all {self.experts} experts",
                remedy=f"give a top from 1 to {self.experts}, or more experts",
            )

    @property
    def short_text(self) -> str:
        """The family with its parameters, or carrier sets where the structure has no such name."""
        name, _, parameters = (family_text(self.structure) or "").partition(":")
        if self.feed_forward or not name:
            return str(self)
        return f"{_family_of_mixture(name)}:{','.join(filter(None, (parameters, self._gating)))}"

    @property
    def family(self) -> str:
        """The name of the mixture, made of the expert's family: `btt-moe`, `ffn-moe`."""
        return _FEED_FORWARD if self.feed_forward else _family_of_mixture(family_of(self.structure))

    @property
    def _gating(self) -> str:
        return f"experts={self.experts},top={self.top}"

    def __str__(self) -> str:
        """The text that `parse_layer` reads back."""
        return f"{_FEED_FORWARD}:{self._gating}" if self.feed_forward else f"{self.structure} moe:{self._gating}"

    def to_json(self) -> dict[str, Any]:
        """Plain data that `layer_of_json` reads back."""
        return {
            "structure": self.structure.to_json(),
            "experts": self.experts,
            "top": self.top,
            "feed_forward": self.feed_forward,
        }


def _family_of_mixture(family: str) -> str:
    """The family of a mixture: Monarch experts make a BTT whose bond index is the number of the expert."""
    return "btt-moe" if family == "monarch" else f"{family}-moe"


LayerSpec = Structure | MixtureOfExperts
"""The layers that a network carries: a structure or a layer of experts."""


@dataclass(frozen=True, slots=True)
class NamedStructure:
    """A structure as a user wrote it: perhaps with a name, with dimensions, and as the expert of a mixture."""

    structure: Structure
    name: str | None = None
    d_in: int | None = None
    d_out: int | None = None
    mixture: MixtureOfExperts | None = None
    """The layer of experts whose structure this is, if there is one."""

    @property
    def layer(self) -> LayerSpec:
        """The structure or layer of experts that a linear layer carries."""
        return self.mixture or self.structure


def expert_of(layer: LayerSpec) -> Structure:
    """The structure of every expert, or the layer's own."""
    return layer.structure if isinstance(layer, MixtureOfExperts) else layer


def layer_family(layer: LayerSpec) -> str:
    """`family_of` for layers with and without experts."""
    return layer.family if isinstance(layer, MixtureOfExperts) else family_of(layer)


def short_text(layer: LayerSpec) -> str | None:
    """`family_text` for layers with and without experts."""
    return layer.short_text if isinstance(layer, MixtureOfExperts) else family_text(layer)


def short_name(layer: LayerSpec) -> str:
    """The name of a structure in every table, figure and sentence: its family with parameters, else its carrier sets.

    Two different structures never have the same name.

    >>> from einsearch_cli.structures import parse_structure
    >>> short_name(parse_structure("btt:r=2")), short_name(parse_structure("XA^1/2 XAB^1/2 YA^1/2 YB^1/2"))
    ('btt:r=2', 'XA^1/2 XAB^1/2 YA^1/2 YB^1/2')
    """
    return short_text(layer) or str(layer)


def layer_of_json(data: dict[str, Any]) -> LayerSpec:
    """Read what `to_json` of a structure or of a mixture of experts wrote."""
    if "experts" not in data:
        return structure_of_terms(data)
    return MixtureOfExperts(**{**data, "structure": structure_of_terms(data["structure"])})


def is_mixture(text: str) -> bool:
    """Whether a text names a layer of experts: `btt-moe:…`, or a structure followed by `moe:…`."""
    return bool(_FAMILY.fullmatch(text) or _WITH_SUFFIX.fullmatch(text))


def split_mixture(text: str) -> tuple[str, int, int, bool]:
    """The text of the expert, the number of experts, how many are used, and whether experts are whole networks.

    >>> split_mixture("low-rank-moe:r=32,experts=8,top=2"), split_mixture("ffn-moe:experts=8,top=2")
    (('low-rank:r=32', 8, 2, False), ('dense', 8, 2, True))
    """
    match = _WITH_SUFFIX.fullmatch(text) or _FAMILY.fullmatch(text)
    assert match is not None
    parts = [part.strip() for part in (match["rest"] or "").split(",") if part.strip()]
    numbers = {key: _number(key, parts, text) for key in ("experts", "top")}
    own = [part for part in parts if part.partition("=")[0].strip() not in numbers]
    groups = match.groupdict()
    feed_forward = "family" in groups and text.startswith(_FEED_FORWARD)
    if own and ("expert" in groups or feed_forward):
        raise StructureError(
            f"{own[0][:40]!r} in {text[:80]!r} is not a parameter of this mixture: it takes experts=…, top=…",
            remedy=f"write the expert's own sizes before 'moe', or for example {_EXAMPLE}",
        )
    if "expert" in groups:
        expert = groups["expert"]
    else:
        expert = "dense" if feed_forward else ":".join(filter(None, (groups["family"], ",".join(own))))
    return expert, numbers["experts"], numbers["top"], feed_forward


def _number(key: str, parts: list[str], text: str) -> int:
    values = [value.strip() for name, equals, value in (part.partition("=") for part in parts) if name.strip() == key]
    if len(values) != 1:
        raise StructureError(
            f"{text[:80]!r} gives {key} {len(values)} times: a layer of experts needs it once",
            remedy=f"write for example {_EXAMPLE}",
        )
    if not re.fullmatch(r"[0-9]{1,9}", values[0], re.ASCII):
        raise StructureError(
            f"{key}={values[0][:40]} in {text[:80]!r}: it must be a whole number of at most 9 digits",
            remedy=f"write for example {_EXAMPLE}",
        )
    return int(values[0])
