"""The plan of a study, as `einsearch rank` shows it before anything is trained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from einsearch_cli.cli.output import Format, counted, render, table

if TYPE_CHECKING:
    from einsearch_cli.search.estimate import StudyEstimate
    from einsearch_cli.search.spec import StudySpec
    from einsearch_cli.structures import LayerSpec


def plan_text(
    spec: StudySpec, candidates: list[LayerSpec], estimate: StudyEstimate, workers: int, output: Format
) -> str:
    """The plan of a study with its cost, before it starts."""
    from einsearch_cli.reports.numbers import duration_text
    from einsearch_cli.structures import short_name

    controls = spec.controls_of(candidates)
    if output in (Format.json, Format.jsonl):
        plan = {
            "task": spec.task,
            "structures": [str(s) for s in candidates],
            "controls": [str(s) for s in controls],
            "widths": spec.widths,
            "seeds": spec.seeds,
            "first_seed": spec.first_seed,
            "looks": list(spec.looks),
            "budget_flops": spec.budget_flops,
            "rates": spec.rates,
        }
        return json.dumps({**plan, "workers": workers, **estimate.to_json()}, indent=2, ensure_ascii=False)
    rows = [
        {
            "rung": stage.planned.rung + 1,
            "stage": stage.planned.stage,
            "candidates": stage.planned.structures,
            "runs": round(stage.planned.runs),
            "FLOPs a run": f"{stage.planned.budget_flops:.3g}",
            "time": duration_text(stage.seconds),
        }
        for stage in estimate.stages
    ]
    if output is not Format.table:
        return render([{"structure": str(s)} for s in candidates] if output is Format.yaml else rows, [], output)
    names = ", ".join(short_name(structure) for structure in candidates[:12])
    more = f" and {len(candidates) - 12} more" if len(candidates) > 12 else ""
    added = f"\ncontrols: {', '.join(map(short_name, controls))}" if controls else ""
    widths = f"widths {', '.join(map(str, spec.widths))}" if spec.widths else "the best widths of every candidate"
    equal = "".join(
        f"\nat width {width} these are one network, trained once: {', '.join(map(short_name, group))}"
        for width, group in estimate.equal
    )
    pays = f"\n{spec.time} pays for {spec.budget_flops:.3g} FLOPs a run of the last rung, {counted(spec.halving.rungs, 'rung')}"
    timed = pays if spec.time else ""
    others, start_up_s = estimate.runs - estimate.tuning_runs, estimate.start_up_s
    share = f" ({estimate.tuning_runs / max(1, others):.0%} more than without)"
    tuning = f"\n{estimate.tuning_runs} runs look for learning rates{share}" if estimate.tuning_runs else ""
    return (
        f"task {spec.task}, {len(candidates)} candidates ({names}{more}){added}\n"
        f"{widths}; {counted(spec.seeds, 'seed')} each; {counted(workers, 'worker')}{equal}\n{table(rows)}\n"
        f"in all {estimate.runs} runs, {estimate.train_flops:.3g} training FLOPs, about {duration_text(estimate.seconds)}"
        f"{f', of which the workers take {duration_text(start_up_s)} to start' if start_up_s >= 1 else ''}{tuning}{timed}"
    )
