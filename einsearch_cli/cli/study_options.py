"""The options of a study that `einsearch rank` and `einsearch search` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

from einsearch_cli.cli.completing import complete_task, offer, one_of
from einsearch_cli.cli.options import (
    CORE_LIMIT,
    LEAST_WORKER_BYTES,
    MANY,
    POSITIVE,
    duration_option,
    flag,
    memory_option,
    out_folder,
    path_parser,
    real_option,
    whole_option,
)
from einsearch_cli.cli.output import Format, format_option
from einsearch_cli.errors import SpecError
from einsearch_cli.search.engines import DEFAULT, engine_names
from einsearch_cli.shipped import Kind, names_of

DEFAULT_PACK: Final = 8
"""The default of the most runs in a pack: in a pack of eight, a narrow run takes half its time alone; more gain little.
"""
MOST_PACKED: Final = 256
"""The largest possible number, which is tried on a GPU."""

STUDY_HELP: Final = f"A file, a study that comes with einsearch ({', '.join(names_of(Kind.study))})"
TASK = typer.Option(
    None,
    metavar="NAME",
    autocompletion=complete_task,
    help="Proxy task; `einsearch tasks` lists them.",
    show_default="teacher",
)
TEXT = typer.Option(
    None,
    parser=path_parser("--text"),
    metavar="PATH",
    help="File or folder of text to train on; implies --task text.",
)
IMAGES = typer.Option(
    None,
    parser=path_parser("--images"),
    metavar="PATH",
    help="Image, .npy array or folder of images to train on; implies --task pixels.",
)
WIDTHS = typer.Option(
    None,
    metavar="N,N,...",
    help="Widths of the network, such as 64,128,256.",
    show_default="each candidate's best width and its neighbours",
)
BUDGET = real_option(
    "--budget",
    rule=POSITIVE,
    example="1e11",
    help="Training FLOPs of every run of the last rung.",
    shown="1e11",
)
TOTAL = real_option(
    "--total-flops",
    rule=POSITIVE,
    example="1e13",
    help="Training FLOPs of all runs together, in place of --budget.",
)
TIME = typer.Option(
    None,
    metavar="TIME",
    help="Time that the study is estimated to take here, such as 2h: it sets the budget, not a limit.",
)
RUNGS = whole_option(
    "--rungs",
    example=1,
    within=(1, 10),
    help="Compute levels of successive halving; the last is the full budget.",
    shown="3",
)
SEEDS = whole_option("--seeds", example=3, within=(1, 1000), help="Runs per candidate and width.", shown="3")
FIRST_SEED = whole_option(
    "--first-seed",
    example=3,
    within=(0, 999),
    help="The first of these seeds; the same study from other seeds repeats it.",
    shown="0",
)
MOST_SEEDS = whole_option(
    "--most-seeds",
    example=12,
    within=(1, 1000),
    help="Most seeds for a candidate that would be without a verdict.",
    shown="the number of --seeds",
)
RATES = typer.Option(
    None,
    metavar="HOW",
    autocompletion=one_of("tuned", "fixed"),
    help="Learning rates: tuned for every candidate, or fixed, one for all.",
    show_default="tuned",
)
CONTROLS = typer.Option(
    None,
    "--controls/--no-controls",
    help="Also train candidates without their experts and bonds.",
    show_default="on",
)
COORDINATES = flag("--coordinates", "Also check how the outputs of layers change with the width.", default=None)
CONFIRM = whole_option(
    "--confirm",
    example=1,
    within=(0, 100),
    help="How many of the best are confirmed with new seeds.",
    shown="1",
)
OUT = out_folder(help="Folder of the study.", shown="runs/NAME")
WORKERS = whole_option(
    "--workers",
    example=2,
    within=(1, MANY),
    limit=f"{CORE_LIMIT} with --engine local,",
    help="Runs at once; with --engine local, processes.",
    shown="one per core or CUDA device",
)
ENGINE = typer.Option(
    DEFAULT,
    metavar="NAME",
    autocompletion=engine_names,
    help=f"What trains the runs: {', '.join(engine_names())}, or one that a plug-in registers.",
)
ENGINE_OPTIONS = typer.Option(
    [],
    "--engine-option",
    metavar="KEY=VALUE",
    help="Setting of the engine, such as address=auto; repeatable.",
)
DEVICE = typer.Option(
    "auto",
    metavar="NAMES",
    autocompletion=offer("auto", "cpu", "cuda"),
    help="What runs train on: cpu; cuda, for all CUDA devices; some of them, such as cuda:0,cuda:1; or auto: cuda where "
    "there is one and else cpu, and cpu on clusters.",
)
PRECISION = typer.Option(
    None,
    metavar="TYPE",
    autocompletion=one_of("float32", "bfloat16"),
    help="Numbers of the matrix products.",
    show_default="float32",
)
PACK = whole_option(
    "--pack",
    example=DEFAULT_PACK,
    within=(1, MOST_PACKED),
    help="Runs of one structure and width that a worker trains at once, where that is faster; 1 trains each alone.",
    shown=f"{DEFAULT_PACK} on a CPU, as many as its memory allows on a GPU",
)
RUN_TIMEOUT = duration_option(
    "--run-timeout",
    example="30m",
    help="A run that takes longer, such as 30m, is killed and has failed.",
    shown="no limit",
)
WORKER_MEMORY = memory_option(
    "--worker-memory",
    least=LEAST_WORKER_BYTES,
    help="A run whose worker needs more, such as 4GB, has failed.",
)
CHECKPOINT_EVERY = duration_option(
    "--checkpoint-every",
    default="5m",
    example="5m",
    help="Time between two saves of a run in progress, such as 90s or 5m.",
)
DRY_RUN = flag("--dry-run", "Show the plan with its cost, and stop.")
OUTPUT: Format = format_option(help="How the ranking is written to standard output.")


def given_settings(
    *, budget: float | None, total: float | None, time: str | None, rungs: int | None, **others: Any
) -> Mapping[str, Any]:
    """The settings of a study that options give; None for those left out.

    Raises:
        SpecError: two options say what a run may cost.
    """
    budgets = [name for name, value in (("--budget", budget), ("--total-flops", total), ("--time", time)) if value]
    if len(budgets) > 1:
        raise SpecError(f"{budgets[0]} and {budgets[1]} say the same in two ways", remedy="give one of them")
    halving = None if rungs is None else {"rungs": rungs}
    return {"budget_flops": budget, "total_flops": total, "time": time, "halving": halving, **others}
