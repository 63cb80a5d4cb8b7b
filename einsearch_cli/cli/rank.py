"""`einsearch rank`: train candidates at equal compute and rank them against dense."""

from __future__ import annotations

from pathlib import Path

import typer

from einsearch_cli.cli import study_options as options
from einsearch_cli.cli.completing import complete
from einsearch_cli.cli.option_names import naming_options
from einsearch_cli.cli.output import Format
from einsearch_cli.cli.report import BY, By
from einsearch_cli.cli.study_input import overrides_of, read_study
from einsearch_cli.cli.study_session import Trainers, start_study
from einsearch_cli.shipped import Kind

HELP = """Train candidates at equal training FLOPs and rank them against dense.

STUDY is a study in YAML, one that comes with einsearch, a file that `einsearch enumerate` wrote, structures, or
grid:Q for the pruned two-factor space (ψ = 1, ω = 0). Options replace what the
study says; their defaults are for a study that does not say it.

Dense is always trained too, as the yardstick, and so are controls: candidates
without their experts or bonds. Every candidate gets its own learning rate and is
trained from all seeds around its best width. The best half goes on to the next
rung. With --most-seeds, candidates without a verdict get more seeds on the last
rung. At the end the best is confirmed with new seeds.

Stop it at any time and run the same command again: finished runs are kept. Ask
for more --seeds, candidates or rungs above in the same --out, and only what is
missing is trained.

Examples:

  einsearch rank demo

  einsearch rank monarch btt:r=2 low-rank --budget 1e10 --out runs/three

  einsearch rank monarch low-rank --widths 64,96,128 --rates fixed --confirm 0

  einsearch rank grid:2 --task text --text my_corpus/ --dry-run

  einsearch rank monarch btt:r=2 --images my_photos/ --budget 1e11

  einsearch rank demo --engine ray --engine-option address=auto
"""


def rank_command(
    study: list[str] = typer.Argument(
        metavar="STUDY",
        autocompletion=complete(Kind.study, Kind.structures),
        help=options.STUDY_HELP + ", structures, files of structures, or grid:Q.",
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
    most_seeds: int | None = options.MOST_SEEDS,
    rates: str | None = options.RATES,
    controls: bool | None = options.CONTROLS,
    coordinates: bool | None = options.COORDINATES,
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
        most_seeds=most_seeds,
        rates=rates,
        precision=precision,
        controls=controls,
        coordinates=coordinates,
        confirm=confirm,
    )
    with naming_options(study, given):
        spec, folder = read_study(study, overrides_of(task, text, widths, given, images))
        return start_study(spec, folder, trainers, out, dry_run=dry_run, by=by, output=output)
