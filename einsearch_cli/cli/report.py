"""`einsearch report`: rankings, tables and pages from stored runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.options import OVERWRITE, POSITIVE, out_file, path_parser, real_option, refuse_taken
from einsearch_cli.cli.output import Format, counted, format_option, render, table
from einsearch_cli.errors import Exit, SpecError

if TYPE_CHECKING:
    from einsearch_cli.reports import StudyReport
    from einsearch_cli.reports.training import TrainingReport

HELP = """Make the ranking, its tables and its page again from stored runs, or compare two studies.

RUN is a folder that `einsearch rank`, `search` or `train` wrote, or its
results.json. Nothing is trained: the ranking is computed again from the
stored runs. Two RUNs of `rank` are compared verdict by verdict.

Examples:

  einsearch report runs/demo

  einsearch report runs/demo --by seconds

  einsearch report runs/demo --at 1e13

  einsearch report runs/demo --csv runs.csv --out page.html

  einsearch report runs/seeds-0 runs/seeds-1
"""


class By(StrEnum):
    """The order of the table: the ranking itself, or the gain in another price."""

    flops = "flops"
    total = "total"
    seconds = "seconds"


BY = typer.Option(
    By.flops,
    metavar="PRICE",
    help="Order of the table: loss at equal FLOPs, or the gain in total FLOPs or in seconds, which are always shown.",
)


AT = real_option(
    "--at",
    rule=POSITIVE,
    example="1e13",
    help="Predict the loss of every structure at these training FLOPs by its scaling law; needs four rungs or more.",
)


_KEPT = ("study.db", "results.json")
"""Files of a study that hold its runs."""


def report_command(
    runs: list[Path] = typer.Argument(
        metavar="RUN", parser=path_parser("RUN"), help="One study, or two to compare: folders or results.json."
    ),
    by: By = BY,
    at: float | None = AT,
    csv: Path | None = typer.Option(
        None, parser=path_parser("--csv"), metavar="PATH", help="Write every run of the study to this CSV file."
    ),
    out: Path | None = out_file(help="Write the page to this file.", shown="report.html next to the results"),
    overwrite: bool = OVERWRITE,
    output: Format = format_option(help="How the ranking is written to standard output."),
) -> int:
    from einsearch_cli.reports import write_report
    from einsearch_cli.reports.stored import read_study, read_training

    if len(runs) > 2:
        raise SpecError(f"{len(runs)} studies: one is reported, or two are compared", remedy="einsearch report RUN RUN")
    if len(runs) == 2 and (csv or out):
        raise SpecError("--csv and --out are for one study", remedy="give one RUN")
    for option, target in (("--csv", csv), ("--out", out)):
        if target is not None and (target.name in _KEPT or target.resolve() in {path.resolve() for path in runs}):
            raise SpecError(f"{option} {target} holds the runs of a study", remedy=f"{option} another name")
        refuse_taken(target, overwrite, option)
    if csv is not None and out is not None and csv.resolve() == out.resolve():
        raise SpecError(f"--csv and --out are both {csv}", remedy="give two names")
    if len(runs) == 1 and (trained := read_training(runs[0])) is not None:
        if at is not None or csv is not None or by is not By.flops:
            raise SpecError(
                "--at, --by and --csv are for studies", remedy="leave them out for runs of `einsearch train`"
            )
        return _report_training(trained, output, out or _page_of(runs[0]))
    studies = [read_study(path, at) for path in runs]
    if len(studies) == 2:
        _compare(studies[0], studies[1], output)
        return Exit.OK
    (study,), (path,) = studies, runs
    console.data(ranking_text(study, output, by))
    tell(study, at)
    page = out or _page_of(path)
    write_report(page, study)
    console.talk(f"report:  {page}")
    if csv is not None:
        _write_runs(csv, study)
    return Exit.OK


def _page_of(run: Path) -> Path:
    """The page next to stored results."""
    return (run if run.is_dir() else run.parent) / "report.html"


TRAINED_LEAST: Final = ("FLOPs", "time", "steps", "params", "guided", "FLOPs of dense")
"""Columns of trained runs that a narrow terminal omits, the least important first."""


def _report_training(report: TrainingReport, output: Format, page: Path) -> int:
    """Runs of `einsearch train` again: their table, what it says, and their page."""
    from einsearch_cli.files import write_atomically
    from einsearch_cli.reports.training import result_rows, training_document, training_findings
    from einsearch_cli.reports.training_page import render_training

    rows = result_rows(report)
    shown = (
        json.dumps(training_document(report), indent=2)
        if output is Format.json
        else render(rows, rows, output, least=TRAINED_LEAST)
    )
    console.data(shown)
    console.talk("\n".join(["", *training_findings(report), ""]))
    write_atomically(page, render_training(report) + "\n")
    console.talk(f"report:  {page}")
    return Exit.OK


_LEAST: Final = (
    "FLOPs per run", "learning rate", "width", "ν", "ψ", "ω", "trend", "in total FLOPs", "in seconds", "vs yardstick",
    "compute gain", "confirmed gain", "loss ± 95%",
)  # fmt: skip
"""Columns of the ranking that a narrow terminal omits, the least important first; never the one that orders it."""
_PRICED: Final = {By.flops: "loss ± 95%", By.total: "in total FLOPs", By.seconds: "in seconds"}


def ranking_text(study: StudyReport, output: Format, by: By = By.flops) -> str:
    """The ranking in one of the formats."""
    from einsearch_cli.reports import ranking_table, results_document

    document: dict[str, Any] = results_document(study)
    if output is Format.json:
        return json.dumps(document, indent=2, ensure_ascii=False)
    if output is not Format.table and output is not Format.markdown:
        place = {str(entry.structure): number for number, entry in enumerate(study.ranking.ordered(by.value))}
        rows = sorted(document["ranking"], key=lambda row: place[row["structure"]])
        return render(_counted_from_1(rows) if output is Format.csv else rows, rows, output)
    shown = ranking_table(study, by.value)
    if output is Format.markdown:
        return shown.to_markdown()
    rows = [dict(zip(shown.headers, row, strict=True)) for row in shown.rows]
    return table(rows, least=[name for name in _LEAST if name != _PRICED[by]], folded=("structure",))


def tell(study: StudyReport, at: float | None = None) -> None:
    """Print the findings of the ranking in sentences."""
    from einsearch_cli.reports.headline import headline
    from einsearch_cli.reports.law_section import no_predictions, prediction_text
    from einsearch_cli.reports.spending_facts import spending_sentences

    console.talk(f"loss: {study.loss_name}, at the best width")
    budgets = {entry.budget_flops for entry in study.ranking.entries if entry.budget_flops is not None}
    if len(budgets) > 1:
        console.talk(
            "rows with fewer FLOPs per run were stopped earlier: compare their losses with dense's at the same FLOPs "
            "('vs yardstick'), not with the rows above"
        )
    console.talk("\n".join(["", *headline(study), *spending_sentences(study), ""]))
    for entry in study.ranking.entries:
        if entry.prediction is not None:
            console.talk(prediction_text(entry, entry.prediction))
    for sentence in [] if at is None else no_predictions(study.ranking.entries):
        console.talk(sentence)
    for warning in study.warnings:
        console.talk(f"warning: {warning}")


def _write_runs(path: Path, study: StudyReport) -> None:
    from einsearch_cli.files import write_atomically

    rows = _counted_from_1(study.records())
    write_atomically(path, render(rows, rows, Format.csv).rstrip("\n") + "\n")
    console.talk(f"wrote {path}, {counted(len(rows), 'run')}")


def _counted_from_1(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose rungs are counted as people count them; the documents for programs count from 0."""
    return [{**row, "rung": None if row["rung"] is None else row["rung"] + 1} for row in rows]


def _compare(first: StudyReport, second: StudyReport, output: Format) -> None:
    from einsearch_cli.reports.repeated import agreement

    found = agreement(first, second)
    console.data(render(found.rows, found.rows, output))
    console.talk(found.sentence)
