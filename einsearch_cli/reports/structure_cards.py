"""A card for each structure: its network, einsum, parameters and FLOPs, ω ψ ν in words, and the code that uses it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from einsearch_cli.errors import EinsearchError, SizeError
from einsearch_cli.reports.diagram_network import PAPER, TensorNetwork
from einsearch_cli.reports.diagram_text import legend
from einsearch_cli.reports.looks import Look
from einsearch_cli.reports.markup import NOTHING, Html, element
from einsearch_cli.reports.page import fill
from einsearch_cli.reports.plot import swatch
from einsearch_cli.reports.table import card_id
from einsearch_cli.structures import LayerSpec, MixtureOfExperts, expert_of, notations, parse_layer, short_name
from einsearch_cli.taxonomy import Classification, classify, formula_texts, layer_costs, readable_formula

DRAWN_WIDTH: Final = 1024
"""Rows and columns of the matrix if no width is known."""
MARGIN: Final = 60.0
"""Room around the row of tensors, for labels."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A structure that has a card, at a width of its matrix."""

    spec: LayerSpec
    look: Look
    width: int


def known_layer(text: str) -> LayerSpec | None:
    """The structure of a stored text; None where this version does not read it.

    >>> known_layer("monarch"), known_layer("of another version")
    (parse_structure('XA^1/2 XAB^1/2 YB^1/2 YAB^1/2'), None)
    """
    try:
        return parse_layer(text)
    except EinsearchError:
        return None


def structure_cards(shown: Iterable[Shown]) -> Html:
    """The cards, one below the other."""
    return fill("cards.html", cards=[_card(item) for item in shown])


def _card(item: Shown) -> dict[str, object]:
    spec = item.spec
    name = short_name(spec)
    card: dict[str, object] = {
        "id": card_id(item.look),
        "key": item.look.key,
        "tone": item.look.tone,
        "sign": swatch(item.look.marker, item.look.tone),
        "name": name,
        "notation": "" if str(spec) == name else str(spec),
        "code": code_of(spec, item.width),
    }
    try:
        known = classify(expert_of(spec), item.width, item.width)
    except SizeError as error:  # sizes of its own that do not divide the width
        return {**card, "drawing": NOTHING, "facts": {}, "meanings": [], "note": error.problem}
    return {
        **card,
        "drawing": _drawing(known),
        "facts": _facts(spec, known),
        "meanings": [pair for pair in legend(known) if pair[0] != "cost"],
        "note": known.padding or "",
    }


def _drawing(known: Classification) -> Html:
    """The tensor network without title and legend."""
    network = TensorNetwork.of(known)
    width = network.row + network.node_width(0) + 2 * MARGIN
    left, top = network.node_width(0) / 2 + MARGIN, 50 - network.top
    height = top + network.bottom + 40
    return element(
        "svg",
        element("rect", width=width, height=height, fill=PAPER, rx=8),
        element("g", network.svg(left - 8), transform=f"translate({left:g} {top:g})"),
        class_="network",
        viewBox=f"0 0 {width:g} {height:g}",
        style=f"max-width:{width:.0f}px",
        font_size=13,
        role="img",
        aria_label=f"Tensor network: x enters at X, y leaves at Y; {known.structure}",
    )


def _facts(spec: LayerSpec, known: Classification) -> dict[str, str]:
    """Einsum, parameters and FLOPs, in d and at the width of the drawing."""
    params, flops = map(readable_formula, formula_texts(known.structure))
    width = f"at d = {known.d_in:,}"
    facts = {
        "Einsum": notations(known.structure, known.d_in, known.d_out)["einsum"] or known.einsum,
        "Parameters": f"{params}; {width}: {known.params:,}, {_of_dense(known.params, known.dense_params)}",
        "FLOPs per token": f"{flops}; {width}: {known.flops_per_token:,}, "
        f"{_of_dense(known.flops_per_token, known.dense_flops_per_token)}",
        "Rank": f"at most {known.rank_bound:,} of {known.d_in:,}, by the cut {known.cut}",
    }
    if not isinstance(spec, MixtureOfExperts):
        return facts
    if spec.feed_forward:
        return {**facts, "Experts": f"{spec.experts} whole feed-forward networks, of which a token uses {spec.top}."}
    costs = layer_costs(spec, known.d_in, known.d_out)
    return {
        **{f"{name} of one expert": said for name, said in facts.items()},
        "Experts": f"{spec.experts}, of which a token uses {spec.top}; with the router {costs.params:,} parameters and "
        f"{costs.flops_per_token:,} FLOPs per token {width}",
    }


def _of_dense(value: int, dense: int) -> str:
    return f"{value / dense:.3g}× dense"


def code_of(spec: LayerSpec, width: int) -> str:
    """Python code that makes a layer of this structure, and that puts it into a model.

    >>> from einsearch_cli.structures import parse_structure
    >>> print(code_of(parse_structure("monarch"), 64))
    from einsearch_cli import EinsumLinear, swap_linear
    <BLANKLINE>
    layer = EinsumLinear(64, 64, "monarch")
    report = swap_linear(model, "monarch")  # all linear layers of a model, in place
    """
    name = short_name(spec)
    if not isinstance(spec, MixtureOfExperts):
        return (
            "from einsearch_cli import EinsumLinear, swap_linear\n\n"
            f'layer = EinsumLinear({width}, {width}, "{name}")\n'
            f'report = swap_linear(model, "{name}")  # all linear layers of a model, in place'
        )
    if spec.feed_forward:
        return (
            "from einsearch_cli.models import Transformer, TransformerConfig\n\n"
            f"config = TransformerConfig(vocabulary=256, width={width}, layers=2, heads=1, context=128, "
            f'structure="{name}")\n'
            "model = Transformer(config)"
        )
    return (
        "from einsearch_cli import StructuredMoE, swap_linear\n\n"
        f'layer = StructuredMoE({width}, {width}, "{name}")\n'
        f'report = swap_linear(model, "{name}")  # all linear layers of a model; train it with AuxiliaryLoss(model)'
    )
