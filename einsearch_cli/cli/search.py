"""`einsearch search`: look for better structures in the continuous space, then rank them against dense and known families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from einsearch_cli.cli import study_options as options
from einsearch_cli.cli.options import whole_option
from einsearch_cli.cli.output import Format
from einsearch_cli.cli.report import BY, By
from einsearch_cli.cli.study_input import overrides_of, read_study
from einsearch_cli.cli.study_session import Trainers, start_study

HELP = """Search structures with any exponents, and confirm the best against dense and known families.

Exponents are continuous, not on a grid. A sampler proposes structures; what fails
the pruning criteria (ψ, ω, ν) is never trained, and no network is trained twice.
Each proposal gets one run on the cheapest rung, the best get more seeds. Then the
best few are ranked with dense and named families as `einsearch rank` does it, and
confirmed with new seeds. STUDY is a study in YAML, or structures to begin with.
Stop it at any time and run the same command again: finished runs are kept.

[bold]Examples[/bold]

  einsearch search --task teacher --factors 2

  einsearch search --factors 3 --runs 200 --budget 1e10 --out runs/three-factors

  einsearch search monarch low-rank --min-psi 1/2 --sampler cma-es --time 2h

  einsearch search specs/text.yaml --dry-run
"""


def search_command(
    study: list[str] | None = typer.Argument(
        None,
        metavar="[STUDY.yaml|STRUCTURE...]",
        help="A study, or structures to begin with; known families if not given.",
    ),
    factors: int | None = whole_option(
        "--factors", "-N", example=2, within=(1, 4), help="Largest number of factors; 2 if not given."
    ),
    runs: int | None = whole_option(
        "--runs",
        example=60,
        within=(10, 100_000),
        help="Runs of the cheapest rung that the search takes; 60 if not given.",
    ),
    sampler: str | None = typer.Option(
        None,
        metavar="tpe|cma-es|random",
        autocompletion=lambda: ["tpe", "cma-es", "random"],
        help="Who proposes exponents; tpe if not given.",
    ),
    finalists: int | None = whole_option(
        "--finalists", example=3, within=(1, 50), help="How many of the best found are ranked; 3 if not given."
    ),
    batch: int | None = whole_option(
        "--batch", example=4, within=(1, 1000), help="Structures that are proposed at once; 4 if not given."
    ),
    min_psi: str | None = typer.Option(None, help="Smallest rank exponent ψ; 1 if not given."),
    max_omega: str | None = typer.Option(None, help="Largest parameter sharing ω; 0 if not given."),
    max_nu: str | None = typer.Option(None, help="Largest compute exponent ν; 1, that of dense, if not given."),
    task: str | None = options.TASK,
    text: Path | None = options.TEXT,
    images: Path | None = options.IMAGES,
    widths: str | None = options.WIDTHS,
    budget: float | None = options.BUDGET,
    total: float | None = options.TOTAL,
    time: str | None = options.TIME,
    seeds: int | None = options.SEEDS,
    first_seed: int | None = options.FIRST_SEED,
    rates: str | None = options.RATES,
    controls: bool | None = options.CONTROLS,
    confirm: int | None = options.CONFIRM,
    out: Path | None = options.OUT,
    workers: int | None = options.WORKERS,
    engine: str = options.ENGINE,
    engine_options: list[str] = options.ENGINE_OPTIONS,
    device: str = options.DEVICE,
    precision: str | None = options.PRECISION,
    pack: int | None = options.PACK,
    run_timeout: float | None = options.RUN_TIMEOUT,
    worker_memory: int | None = options.WORKER_MEMORY,
    checkpoint_every: float = options.CHECKPOINT_EVERY,
    dry_run: bool = options.DRY_RUN,
    by: By = BY,
    output: Format = options.OUTPUT,
) -> int:
    trainers = Trainers(
        engine=engine,
        engine_options=engine_options,
        workers=workers,
        device=device,
        pack=pack,
        run_timeout=run_timeout,
        worker_memory=worker_memory,
        checkpoint_every=checkpoint_every,
    )
    trainers.check()
    given = options.given_settings(
        budget=budget,
        total=total,
        time=time,
        seeds=seeds,
        first_seed=first_seed,
        rates=rates,
        precision=precision,
        controls=controls,
        confirm=confirm,
    )
    explore: dict[str, Any] = {
        "factors": factors,
        "runs": runs,
        "sampler": sampler,
        "finalists": finalists,
        "batch": batch,
        "min_psi": min_psi,
        "max_omega": max_omega,
        "max_nu": max_nu,
    }
    overrides = overrides_of(task, text, widths, given, images)
    overrides["explore"] = {key: value for key, value in explore.items() if value is not None}
    if not study:
        overrides["name"] = "search"
    spec, folder = read_study(study or [], overrides)
    return start_study(spec, folder, trainers, out, dry_run=dry_run, by=by, output=output)
