"""`einsearch search`: look for better structures in the continuous space, then rank them against dense and known families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from einsearch_cli.cli import study_options as options
from einsearch_cli.cli.completing import complete, one_of
from einsearch_cli.cli.option_names import naming_options
from einsearch_cli.cli.options import whole_option
from einsearch_cli.cli.output import Format
from einsearch_cli.cli.report import BY, By
from einsearch_cli.cli.study_input import overrides_of, read_study
from einsearch_cli.cli.study_session import Trainers, start_study
from einsearch_cli.shipped import Kind

HELP = """Search structures with any exponents, and confirm the best against dense and known families.

Exponents are continuous, not on a grid. A sampler proposes structures. Those
that fail the pruning criteria (ψ, ω, ν) are not trained, and no network is
trained twice. Each proposal gets one run on the cheapest rung, and the best get
more seeds. The best few are then ranked with dense and named families, as
`einsearch rank` does it, and confirmed with new seeds.

STUDY is a study in YAML, one that comes with einsearch, or structures to begin with. Options replace what the
study says; their defaults are for a study that does not say it. Stop it at any
time and run the same command again: finished runs are kept.

Examples:

  einsearch search --task teacher --factors 2

  einsearch search --factors 3 --runs 200 --budget 1e10 --out runs/three-factors

  einsearch search monarch low-rank --min-psi 1/2 --sampler cma-es --time 2h

  einsearch search text --dry-run
"""


def search_command(
    study: list[str] | None = typer.Argument(
        None,
        metavar="STUDY",
        autocompletion=complete(Kind.study, Kind.structures),
        help=options.STUDY_HELP + ", or structures to begin with.",
        show_default="known families",
    ),
    factors: int | None = whole_option(
        "--factors", "-N", example=2, within=(1, 4), help="Largest number of factors.", shown="2"
    ),
    runs: int | None = whole_option(
        "--runs",
        example=60,
        within=(10, 100_000),
        help="Runs of the cheapest rung that the search takes.",
        shown="60",
    ),
    sampler: str | None = typer.Option(
        None,
        metavar="NAME",
        autocompletion=one_of("tpe", "cma-es", "random"),
        help="What proposes exponents.",
        show_default="tpe",
    ),
    finalists: int | None = whole_option(
        "--finalists", example=3, within=(1, 50), help="How many of the best found are ranked.", shown="3"
    ),
    batch: int | None = whole_option(
        "--batch", example=4, within=(1, 1000), help="Structures that are proposed at once.", shown="4"
    ),
    min_psi: str | None = typer.Option(None, metavar="BOUND", help="Smallest rank exponent ψ.", show_default="1"),
    max_omega: str | None = typer.Option(None, metavar="BOUND", help="Largest parameter sharing ω.", show_default="0"),
    max_nu: str | None = typer.Option(
        None, metavar="BOUND", help="Largest compute exponent ν; that of dense is 1.", show_default="1"
    ),
    task: str | None = options.TASK,
    text: Path | None = options.TEXT,
    images: Path | None = options.IMAGES,
    widths: str | None = options.WIDTHS,
    budget: float | None = options.BUDGET,
    total: float | None = options.TOTAL,
    time: str | None = options.TIME,
    rungs: int | None = options.RUNGS,
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
        rungs=rungs,
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
    with naming_options(study or [], {**given, **explore}):
        spec, folder = read_study(study or [], overrides)
        return start_study(spec, folder, trainers, out, dry_run=dry_run, by=by, output=output)
