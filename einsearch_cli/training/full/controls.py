"""Controls of a guided run: the same network without guides, on equal tokens and on equal FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from einsearch_cli.errors import SpecError
from einsearch_cli.training.full.train_plan import plan_run
from einsearch_cli.training.full.train_spec import TrainSpec


def with_controls(specs: Sequence[TrainSpec], vocabulary_of: Callable[[TrainSpec], int]) -> list[TrainSpec]:
    """The runs, followed for each that asks for `controls` by its two controls, unless the list has them already.

    NAME-equal-tokens takes as many steps as the guided run. NAME-equal-flops takes as many as the guided run's training
    FLOPs pay for, embeddings and head included.

    Raises:
        SpecError: a control has the name of another run.
    """
    found = list(specs)
    for spec in specs:
        if spec.guidance is None or not spec.controls:
            continue
        plan = plan_run(spec, vocabulary_of(spec))
        plain_flops = plan.phases.body_flops + plan.phases.head_flops
        for kind, steps in (("tokens", plan.phases.steps), ("flops", round(plan.total_flops / plain_flops))):
            changes = {"name": f"{spec.name}-equal-{kind}", "guidance": None, "steps": steps, "tokens": None}
            control = TrainSpec(**{**dict(spec), **changes})
            if any(control.same_run() == other.same_run() and control.data == other.data for other in found):
                continue
            if any(control.name == other.name for other in found):
                raise SpecError(
                    f"controls: true adds a run named {control.name!r}, and another run has that name",
                    remedy="name that run differently",
                )
            found.append(control)
    return found
