"""The confirmation in numbers: what new seeds reached at every width, and at the best one."""

from __future__ import annotations

from dataclasses import dataclass

from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.scaling import Cell
from einsearch_cli.structures import LayerSpec
from einsearch_cli.structures.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedWidth(Record):
    """Finished runs of the confirmation of one structure at one width."""

    width: int
    seeds: tuple[int, ...]
    """Seed of each run."""
    losses: tuple[float, ...]
    """Loss of each run, in the order of `seeds`."""
    mean: float
    """Geometric mean of the losses."""
    mean_low: float | None
    mean_high: float | None
    """95% interval for `mean`; None without two seeds in the ranking."""
    outlier: int | None
    """Seed of the run whose loss is far from the others; None if chance explains all of them."""
    deviations: float | None
    """Distance of that run from the others in standard deviations of one run, in log loss; negative if it is lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed(Record):
    """The result of new seeds with one structure; its gain is `confirmed_gain` of the ranking."""

    structure: LayerSpec
    rung: int
    budget_flops: float
    learning_rate: float | None
    """Base learning rate of the runs."""
    widths: tuple[ConfirmedWidth, ...]
    """Every width with a finished run, narrow to wide."""
    best_width: float
    """Width at the lowest point of a parabola in log width through the means; that of the lowest mean without one."""
    loss: float
    loss_low: float | None
    loss_high: float | None
    """Loss at `best_width` with its 95% interval."""
    width_reason: str | None
    """Why there is no parabola, so that `loss` is only an upper bound; None if there is one."""


def confirmed_structures(study: StudyReport) -> list[Confirmed]:
    """The structures that were confirmed, best first."""
    rates = {result.trial.structure: result.learning_rate for result in study.confirmation if result.learning_rate}
    found = []
    for item, fitted in study.confirmed.items():
        (lowest,) = fitted.minima
        low, high = study.interval_of(item, lowest.loss, fitted.covariance[0, 0]) or (None, None)
        found.append(
            Confirmed(
                structure=item,
                rung=lowest.level.rung,
                budget_flops=lowest.level.budget_flops,
                learning_rate=rates.get(item),
                widths=tuple(_width(study, item, cell) for cell in lowest.level.cells),
                best_width=lowest.width,
                loss=lowest.loss,
                loss_low=low,
                loss_high=high,
                width_reason=lowest.reason,
            )
        )
    return found


def _width(study: StudyReport, structure: LayerSpec, cell: Cell) -> ConfirmedWidth:
    low, high = study.cell_interval(structure, cell) or (None, None)
    outlier = next((item for item in study.outliers if item.run in cell.runs), None)
    return ConfirmedWidth(
        width=cell.width,
        seeds=cell.seeds,
        losses=tuple(loss for _, loss in cell.losses),
        mean=cell.mean,
        mean_low=low,
        mean_high=high,
        outlier=None if outlier is None else outlier.run.seed,
        deviations=None if outlier is None else outlier.deviations,
    )
