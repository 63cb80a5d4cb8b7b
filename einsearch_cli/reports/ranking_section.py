"""The ranking table of the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import NOTHING, Html, element, joined
from einsearch_cli.reports.numbers import (
    MISSING,
    count_text,
    factor_text,
    flops_text,
    interval_text,
    loss_text,
    percent_text,
)
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.plot import Scale, data_of, mark, swatch
from einsearch_cli.reports.study import StudyReport, relative_difference, short_name
from einsearch_cli.reports.tables import gain_text
from einsearch_cli.scaling import Level, RankingEntry
from einsearch_cli.structures import LayerSpec
from einsearch_cli.taxonomy import Taxonomy

_HEADS = (
    ("#", True),
    ("structure", False),
    ("verdict", False),
    ("compute gain", True),
    ("loss against yardstick", True),
    ("better ◂ 0 ▸ worse", False),
    ("loss", True),
    ("best width", True),
    ("ω", True),
    ("ψ", True),
    ("ν", True),
)

_VERDICTS = {"not compared": "one seed", "failed": "no run finished"}

FOREST_WIDTH, FOREST_HEIGHT = 132, 20
WIDEST = 0.6
"""Differences beyond this share of the yardstick's loss are cut off in the small bars."""


def ranking_section(page: Page) -> Html:
    """The table, split where structures were stopped with less compute, and how to read it."""
    study = page.study
    scale = forest_scale(study.ranking.entries)
    rows: list[Html] = []
    rung: int | None = None
    for position, (structure, look) in enumerate(page.looks.items()):
        entry = look.entry
        if position and entry.rung != rung:
            rows.append(_divider(entry))
        rung = entry.rung
        rows.append(_row(look, study.classes[structure], study.levels[structure], scale))
    heads = [element("th", name, class_="number" if right else None) for name, right in _HEADS]
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
    return joined([element("div", table, class_="scroll", tabindex="0"), _how_to_read(study)])


def structure_cell(structure: LayerSpec, sign: Html = NOTHING) -> Html:
    """A table cell with the name of a structure over its notation, if that is not the name already."""
    name, notation = short_name(structure), str(structure)
    below = element("span", notation, class_="notation") if name != notation else NOTHING
    return element("td", sign, element("b", name), below, class_="name")


def _divider(entry: RankingEntry) -> Html:
    said = (
        f"Stopped earlier, after {flops_text(entry.budget_flops)} FLOPs per run (rung {entry.rung + 1}): "
        "less compute, so these losses are not comparable with those above"
        if entry.rung is not None
        else "No finished run"
    )
    return element("tr", element("td", said, colspan=str(len(_HEADS))), class_="divider")


def _row(look: Identity, known: Taxonomy, levels: Sequence[Level], scale: Scale) -> Html:
    entry = look.entry
    name = structure_cell(entry.structure, swatch(look.marker, look.tone))
    exponents = [_number(str(value)) for value in (known.omega, known.psi, known.nu)]
    return element(
        "tr",
        _number(look.number),
        name,
        *comparison_cells(entry, look, scale),
        _number(loss_text(entry.loss), interval_text(entry.ci_low, entry.ci_high)),
        _width(entry, levels),
        *exponents,
        class_=look.tone,
        data_s=look.key,
    )


def comparison_cells(entry: RankingEntry, look: Identity, scale: Scale) -> list[Html]:
    """Verdict, compute gain, difference in loss, and the difference as a bar."""
    share = relative_difference(entry)
    return [
        element("td", element("span", _VERDICTS.get(entry.verdict, entry.verdict), class_=_verdict_class(entry))),
        _gain(entry),
        _number(*_difference(share)),
        element("td", _forest(share, look, scale)),
    ]


def _width(entry: RankingEntry, levels: Sequence[Level]) -> Html:
    """The best width, with an arrow where it is the widest or narrowest tried, so that a better one may lie beyond."""
    if entry.width is None:
        return _number(MISSING)
    return _number(f"{_edge(levels)}{entry.width}", f"{count_text(entry.params)} params")


def _edge(levels: Sequence[Level]) -> str:
    widths = [cell.width for cell in levels[-1].cells]
    best = levels[-1].best.width
    if len(widths) == 1 or min(widths) < best < max(widths):
        return ""
    return "↑ " if best == max(widths) else "↓ "


def _verdict_class(entry: RankingEntry) -> str:
    return f"verdict {entry.verdict.replace(' ', '-')}"


def _number(value: str, below: str = MISSING) -> Html:
    extra = element("span", below, class_="range") if below != MISSING else NOTHING
    return element("td", value, extra, class_="number")


def _difference(share: tuple[float, float | None, float | None] | None) -> tuple[str, str]:
    if share is None:
        return MISSING, MISSING
    value, low, high = share
    if low is None or high is None:
        return percent_text(value), MISSING
    return percent_text(value), f"[{percent_text(low)}, {percent_text(high)}]"


def _gain(entry: RankingEntry) -> Html:
    whole = gain_text(entry)
    value = factor_text(entry.compute_gain) if entry.compute_gain is not None else whole
    cell = _number(value, whole.removeprefix(value).strip() or MISSING)
    if entry.compute_gain_reason is None:
        return cell
    tip = f"Compute gain\n{entry.compute_gain_reason}"
    return element("td", element("span", value, tabindex="0", data_tip=tip), class_="number")


def forest_scale(entries: Iterable[RankingEntry]) -> Scale:
    """One scale for the small bars of all rows; its middle is 0."""
    ends = [abs(end) for entry in entries for end in relative_difference(entry) or () if end is not None]
    reach = min(WIDEST, max(ends, default=0.1) * 1.05) or 0.1
    return Scale(-reach, reach, 4, FOREST_WIDTH - 4, logarithmic=False)


def _forest(share: tuple[float, float | None, float | None] | None, look: Identity, scale: Scale) -> Html:
    """The difference to the yardstick and its interval on one scale for all rows; the middle is 0."""
    if share is None:
        return NOTHING
    middle, centre = FOREST_HEIGHT / 2, scale(0.0)
    parts = [element("line", x1=centre, x2=centre, y1=0.0, y2=float(FOREST_HEIGHT), class_="zero")]
    value, low, high = share
    if low is not None and high is not None:
        ends = [scale(min(max(end, scale.low), scale.high)) for end in (low, high)]
        carried = data_of(low=low, high=high)
        parts.append(element("line", x1=ends[0], x2=ends[1], y1=middle, y2=middle, class_="bar", **carried))
    if scale.low <= value <= scale.high:
        parts.append(mark(look.marker, scale(value), middle, 4.5, class_="dot", **data_of(x=value)))
    return element(
        "svg",
        *parts,
        class_=f"forest series {look.tone}",
        viewBox=f"0 0 {FOREST_WIDTH} {FOREST_HEIGHT}",
        aria_hidden="true",
    )


def _how_to_read(study: StudyReport) -> Html:
    sentences = [
        f"Loss: {study.loss_name}, mean over seeds at the best width, with its 95% Student-t interval.",
        "Difference: loss minus the yardstick's at the same FLOPs, paired by seed, as a share of the yardstick's loss;",
        "a verdict is given only where its 95% interval leaves out zero.",
        "Compute gain: the yardstick's FLOPs divided by this structure's FLOPs for the same loss",
        "(the lowest that both reach), with a paired bootstrap interval over seeds; above 1 is cheaper.",
        "Where the two curves share no loss only the measured bound is shown (< or >), never an extrapolation.",
        "The intervals cover seeds, not the choice of learning rate, task or set of widths.",
    ]
    if len(study.structures) > 2:
        sentences.append("Of 20 structures that equal the yardstick, about one is called better or worse by chance.")
    if any(levels and _edge(levels) for levels in study.levels.values()):
        sentences.append(
            "An arrow marks a best width that is the widest (↑) or narrowest (↓) tried: a better one may lie beyond it."
        )
    return element("p", " ".join(sentences), class_="caption")
