"""Planned, spent and saved runs of a study, for the facts of its report and for the terminal."""

from __future__ import annotations

from einsearch_cli.reports.numbers import flops_text
from einsearch_cli.reports.study_report import StudyReport


def seeds_text(study: StudyReport) -> str:
    """Seeds per width: the number for every candidate, and the most that one got."""
    plan = study.spending
    if plan is None or not plan.extended:
        return str(len({result.trial.seed for result in study.results}))
    return f"{plan.looks[0]} to {plan.looks[len(plan.extended)]}"


def spending_facts(study: StudyReport) -> list[tuple[str, str]]:
    """(name, value) of the plan and of what was spent."""
    plan = study.spending
    if plan is None:
        return []
    own = [result for result in study.all_runs if result.trained_as is None]
    spent = flops_text(sum(result.train_flops for result in own))
    return [
        ("Planned, all stages", f"about {plan.planned_runs:,} runs, {flops_text(plan.planned_flops)} FLOPs"),
        ("Spent, all stages", f"{len(own):,} runs, {spent} FLOPs"),
    ]


def spending_sentences(study: StudyReport) -> list[str]:
    """Sentences on the candidates with more seeds, and on the runs that this saved; empty for a study with one look."""
    plan = study.spending
    if plan is None or len(plan.looks) == 1:
        return []
    first, *others = plan.looks
    given = [f"{count} got {look} seeds" for count, look in zip(plan.extended, others, strict=False)]
    more = f"Candidates without a verdict got more: {', '.join(given)}"
    added = more if given else "On the last rung all were decided, so none got more"
    return [
        f"Every candidate had {first} seeds a width. {added}. "
        f"Up to {plan.looks[-1]} seeds were allowed: {plan.saved_runs:,} runs ({flops_text(plan.saved_flops)} FLOPs) were "
        "saved. Verdicts keep their level over all looks (bounds of Pocock 1977)."
    ]
