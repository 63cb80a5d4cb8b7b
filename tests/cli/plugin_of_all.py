"""A plug-in with one of each: a family, a task, an optimizer, an engine and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from einsearch_cli import tasks
from einsearch_cli.data import Batch
from einsearch_cli.models import StructuredNetwork
from einsearch_cli.reports import Page, report_section
from einsearch_cli.reports.chart import Chart, Point, Series, linear_axis, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.markup import Html
from einsearch_cli.search import engines
from einsearch_cli.structures import families
from einsearch_cli.structures.extent import Extent
from einsearch_cli.tasks.teacher import TeacherSettings, TeacherTask
from einsearch_cli.training import optimizers
from einsearch_cli.training.groups import Group
from einsearch_cli.training.optimizers import UpdateSettings
from einsearch_cli.training.optimizers.adamw import AdamW
from tests.search.in_process import InProcess

HALF = Extent.power(Fraction(1, 2))

families.register(
    families.Family(
        name="half-monarch",
        carriers="XA XAB YA YB",
        parameters={},
        build=lambda _: dict.fromkeys(("XA", "XAB", "YA", "YB"), HALF),
        guess=lambda _: {},
        formulas=families.Formulas("0", "1", "1/2"),
        source="here",
    )
)


class AbsoluteSettings(TeacherSettings):
    """Settings of the task."""

    scale: float = 1.0
    """Factor of the loss."""


@tasks.register
class Absolute(TeacherTask):
    """The teacher task with another loss."""

    name = "absolute"
    settings_type = AbsoluteSettings
    settings: AbsoluteSettings
    loss_unit = "mean absolute error"

    def loss(self, model: StructuredNetwork, batch: Batch) -> Tensor:
        return self.settings.scale * (model(batch.inputs) - batch.targets).abs().mean()


class Momentum(AdamW):
    """SGD with momentum, with AdamW's groups."""

    name = "momentum"
    state_names = ("momentum_buffer",)
    least_state_bytes = 4

    def make(self, groups: Sequence[Group], settings: UpdateSettings) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, momentum=settings.beta1)


optimizers.register(Momentum())
engines.register(InProcess)


@report_section("duration", "How long runs took")
def duration_section(page: Page) -> Html:
    """Seconds and losses of all runs."""
    results = page.study.results
    series = [
        Series(
            look=look, points=[Point(x=r.elapsed_s, y=r.loss) for r in results if r.trial.structure == item and r.loss]
        )
        for item, look in page.looks.items()
    ]
    x = linear_axis("seconds", 1.1 * max(result.elapsed_s for result in results))
    y = log_axis(page.study.loss_name, [result.loss for result in results if result.loss])
    return figure("duration", "Seconds and losses of all runs", [Chart(x=x, y=y, series=series)])
