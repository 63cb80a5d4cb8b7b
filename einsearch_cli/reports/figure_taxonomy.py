"""How the loss depends on ω, ψ and ν: a chart for each over the same loss axis."""

from __future__ import annotations

from collections import Counter
from statistics import median

from einsearch_cli.reports.chart import Axis, Chart, Point, Rule, Series, category_axis, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import count_text, flops_text, loss_text
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.structures import LayerSpec

TALLEST = 12.0
"""The axis ends at this many times the median loss, as in the loss–compute plot."""

PANELS = (
    ("omega", "ω · parameter sharing", "0: every FLOP has its own parameter"),
    ("psi", "ψ · rank", "1: full rank"),
    ("nu", "ν · cost", "1: as costly as dense"),
)


def taxonomy_figure(page: Page) -> Html | None:
    """Loss at the largest budget common to all structures, against each exponent that takes several values.

    None without losses, and where no exponent does.
    """
    study = page.study
    losses = {item: loss for item, loss in study.common_losses.items() if loss > 0}
    if not losses or study.common_rung is None:
        return None
    varied = [panel for panel in PANELS if panel[0] not in constant_exponents(study)]
    if not varied:
        return None
    ceiling = TALLEST * median(losses.values())
    y = log_axis(study.loss_name, [loss for loss in losses.values() if loss <= ceiling], 0.08)
    charts = [_chart(page, losses, y, *panel) for panel in varied]
    budget = flops_text(study.common_rung[1])
    said = f"{study.loss_name} at {budget} training FLOPs against omega, psi and nu for {len(losses)} structures"
    return figure("taxonomy", said, charts)


def constant_exponents(study: StudyReport) -> dict[str, str]:
    """Exponents that are the same for all structures with a common loss, such as {'nu': 'ν = 1/2'}."""
    found = {name: {getattr(study.classes[item], name) for item in study.common_losses} for name, _, _ in PANELS}
    symbols = {name: title[0] for name, title, _ in PANELS}
    return {name: f"{symbols[name]} = {next(iter(some))}" for name, some in found.items() if len(some) == 1}


def _chart(page: Page, losses: dict[LayerSpec, float], y: Axis, field: str, title: str, hint: str) -> Chart:
    study, looks = page.study, page.looks
    values = {item: float(getattr(study.classes[item], field)) for item in losses}
    counts = Counter(values.values())
    # A crowded column gets more room than one with a single structure.
    sizes = {value: 1 + (counts[value] - 1) / 8 for value in sorted(counts)}
    labels = sorted({getattr(study.classes[item], field) for item in losses})
    columns = [[loss for item, loss in losses.items() if values[item] == value] for value in sizes]
    order = sorted(losses, key=lambda item: (not looks[item].stands_out, losses[item]))
    return Chart(
        x=category_axis(hint, sizes, [str(label) for label in labels]),
        y=y,
        series=[_series(study, looks[item], values[item], losses[item]) for item in order],
        rules=[
            Rule(points=[(value, median(column))] * 2)
            for value, column in zip(sizes, columns, strict=True)
            if len(column) > 1 and y.holds(median(column))
        ],
        panel=field,
        title=title,
        width=360,
    )


def _series(study: StudyReport, look: Identity, value: float, loss: float) -> Series:
    """A disc that carries the rank of a structure that stands out; a plain dot for the others."""
    known = study.classes[look.entry.structure]
    budget = flops_text(study.common_rung[1] if study.common_rung else None)
    tip = "\n".join((
        look.label,
        f"{look.entry.structure}",
        f"ω = {known.omega}, ψ = {known.psi}, ν = {known.nu}",
        f"{study.loss_name}: {loss_text(loss)} at {budget} FLOPs",
        f"{count_text(look.entry.params)} parameters at width {look.entry.width}",
    ))  # fmt: skip
    radius, number = (8.5, look.number) if look.stands_out else (4.0, "")
    point = Point(x=value, y=loss, kind="badge", tip=tip, radius=radius, label=number)
    return Series(look=look, points=[point], name=look.short_label if look.stands_out else "")
