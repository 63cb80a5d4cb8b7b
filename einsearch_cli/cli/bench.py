"""`einsearch bench`: how fast layers are on this machine."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.calibrate import calibration_text
from einsearch_cli.cli.completing import complete
from einsearch_cli.cli.options import (
    CORE_LIMIT,
    MANY,
    MAX_DIMENSION,
    MAX_TOKENS,
    OVERWRITE,
    Device,
    Dtype,
    flag,
    out_file,
    refuse_taken,
    refuse_too_many,
    whole_list,
    whole_option,
)
from einsearch_cli.cli.output import Format, counted, format_option, render, table
from einsearch_cli.errors import Exit, OutputError, SpecError
from einsearch_cli.shipped import Kind

if TYPE_CHECKING:
    from einsearch_cli.speed import Bench, BenchResult, Case, Entrant, Measurement, Mode
    from einsearch_cli.structures import Structure

HELP = """Compare the speed of layers with nn.Linear and with their own bare matrix products.

SPEC is a structure, as for `einsearch classify`, or a file of structures. All
layers of a case run in turn, round after round: the ratios are the result, not
the seconds. Ctrl-C ends the run and shows what was measured so far.

Modes:

  forward   inference on more than 64 tokens
  decode    inference on up to 64 tokens, with merged layers (`einsearch_cli.merge`), as in generation
  training  a forward and a backward pass

Columns:

  speed-up     over nn.Linear
  possible     the speed-up that the FLOPs promise
  realised     the share of it that was reached
  × bare       the time over that of the layer's matrix products alone; 1 is no overhead
  over einsum  the speed-up over one torch.einsum after another

Examples:

  einsearch bench monarch btt:r=4 --widths 1024 --tokens 16,4096

  einsearch bench --modes training --out speed.json --out speed.html

  einsearch bench --calibrate --threads 2

  einsearch bench --device cuda --dtype bfloat16 --widths 4096,8192 --tokens 16384
"""


_LEAST: Final = ("quartiles", "GFLOP/s", "peak memory", "possible", "over einsum")
"""Columns that a narrow terminal omits, the least important first."""


def bench_command(
    specs: list[str] = typer.Argument(
        None,
        metavar="SPEC",
        autocompletion=complete(Kind.structures),
        help="Structures, files of structures, or - for stdin.",
        show_default="the layers that people use most",
    ),
    widths: str | None = typer.Option(
        None, metavar="N,N,...", help="Widths of the layers.", show_default="256,512,1024,2048,4096"
    ),
    tokens: str | None = typer.Option(
        None,
        metavar="N,N,...",
        help="Tokens of a call.",
        show_default="1,4,16,64 in decode and 256,4096 in the others",
    ),
    modes: str = typer.Option(
        "decode,forward,training", metavar="MODE,MODE,...", help="What is measured, decode, forward or training."
    ),
    threads: int = whole_option(
        "--threads", default=1, within=(1, MANY), limit=CORE_LIMIT, help="CPU threads; ratios are steadiest with one."
    ),
    rounds: int | None = whole_option(
        "--rounds",
        example=5,
        within=(1, 1_000_000),
        help="Rounds of every case.",
        shown="5 to 31, fewer where a round takes long",
    ),
    calibrate: bool = flag(
        "--calibrate",
        "Measure this CPU for the layers' planner, with --threads and --dtype, and keep the result; takes seconds.",
    ),
    device: Device = typer.Option(Device.cpu, help="Where the layers run."),
    dtype: Dtype = typer.Option(Dtype.float32, help="Type of the tensors."),
    output: Format = format_option(),
    out: list[Path] = out_file(
        default=[], help="Also write FILE.json (all figures) or FILE.html (plots); repeatable.", shown="no file"
    ),
    overwrite: bool = OVERWRITE,
) -> int:
    _refuse_other_files(out)
    for path in out:
        refuse_taken(path, overwrite)
    refuse_too_many("--threads", threads)
    if calibrate:
        _refuse_beside_calibration(specs or [], device, out)
        _start_torch(threads)
        console.data(calibration_text(threads, dtype, output))
        return Exit.OK
    bench = _bench(_entrants(specs or []), _cases(modes, widths, tokens), rounds, threads, device, dtype)
    result = _measure(bench)
    if not result.measurements:
        raise KeyboardInterrupt
    command = shlex.join(["einsearch", *sys.argv[1:]])
    _write(result, out, command)
    console.data(_text(result, output))
    _summarize(result)
    return Exit.OK if result.complete else Exit.INTERRUPTED


def _cases(modes: str, widths: str | None, tokens: str | None) -> tuple[Case, ...]:
    from einsearch_cli.speed import WIDTHS, cases_of

    return cases_of(
        _modes(modes),
        whole_list("--widths", widths, 1, MAX_DIMENSION, example="256,1024") if widths is not None else WIDTHS,
        whole_list("--tokens", tokens, 1, MAX_TOKENS, example="256,1024") if tokens is not None else None,
    )


def _bench(
    entrants: tuple[Entrant, ...],
    cases: tuple[Case, ...],
    rounds: int | None,
    threads: int,
    device: Device,
    dtype: Dtype,
) -> Bench:
    """Check the requested benchmark; torch is loaded when sizes are known to fit."""
    from einsearch_cli.speed.cases import check_sizes

    check_sizes(entrants, cases)
    _start_torch(threads)
    import torch

    from einsearch_cli.speed import Bench

    place = torch.device(device.value)
    return Bench(entrants=entrants, cases=cases, rounds=rounds, device=place, dtype=getattr(torch, dtype.value))


def _start_torch(threads: int) -> None:
    import torch

    from einsearch_cli.machine import retain_memory

    retain_memory()
    torch.set_num_threads(threads)


def _refuse_other_files(out: Sequence[Path]) -> None:
    """Raise an error for files that are not results, before minutes are spent."""
    from einsearch_cli.files import refuse_unwritable

    for path in out:
        if path.suffix.lower() not in (".json", ".html"):
            raise OutputError(
                f"--out {str(path)!r} does not say what to write: the name must end in .json or .html",
                remedy=f"--out {path.stem or 'speed'}.json",
            )
        refuse_unwritable(path)


def _refuse_beside_calibration(specs: Sequence[str], device: Device, out: Sequence[Path]) -> None:
    given = [*specs, *(["--device cuda"] if device is Device.cuda else []), *(f"--out {path}" for path in out)]
    if given:
        raise SpecError(
            f"--calibrate with {', '.join(given)}: calibration measures this CPU, no structures, and writes no report",
            remedy="einsearch bench --calibrate --threads 2",
        )


def _entrants(specs: Sequence[str]) -> tuple[Entrant, ...]:
    from einsearch_cli.cli.structure_input import read_structures
    from einsearch_cli.speed import MARKET, Entrant
    from einsearch_cli.structures import family_text

    found: dict[Structure, Entrant] = {}
    for named in read_structures(specs or MARKET, None):
        if named.mixture is not None:
            raise SpecError(
                f"{named.mixture} is a layer of experts: single structures are measured",
                remedy=f"einsearch bench '{named.structure}'",
            )
        name = named.name or family_text(named.structure) or str(named.structure)
        found.setdefault(named.structure, Entrant(name, named.structure))
    return tuple(found.values())


def _modes(text: str) -> list[Mode]:
    from einsearch_cli.speed import Mode

    words = [part.strip() for part in text.split(",")]
    for word in words:
        if word not in set(Mode):
            raise SpecError(f"--modes {text}: {word!r} is none of {', '.join(Mode)}", remedy="--modes forward,training")
    return [Mode(word) for word in words]


def _measure(bench: Bench) -> BenchResult:
    from einsearch_cli.cli.progress import BenchProgress
    from einsearch_cli.reports.numbers import duration_text

    estimate = bench.estimate()
    total_s = sum(case.total_s for case in estimate.values())
    layers, cases = counted(len(bench.entrants), "layer"), counted(len(bench.cases), "case")
    console.talk(f"{layers} in {cases}: about {duration_text(total_s)}")
    with BenchProgress(console.talk_console(), estimate) as progress:
        return bench.run(progress)


def _write(result: BenchResult, out: Sequence[Path], command: str) -> None:
    from einsearch_cli.reports.speed_page import render_speed

    for path in out:
        is_json = path.suffix.lower() == ".json"
        console.data(_document(result) if is_json else render_speed(result, command), path)


def _document(result: BenchResult) -> str:
    return json.dumps(result.to_json(), indent=1, ensure_ascii=False)


def _text(result: BenchResult, output: Format) -> str:
    from einsearch_cli.reports.speed_table import by_case, case_title, speed_rows

    if output is Format.json:
        return _document(result)
    if output is Format.table:
        return "\n\n".join(f"{case_title(case)}\n{_case_table(items)}" for case, items in by_case(result))
    rows = speed_rows(result) if output is Format.markdown else result.records()
    if output is Format.yaml:  # a list of structures
        rows = list({row["structure"]: row for row in rows}.values())
    return render(rows, [item.to_json() for item in result.measurements], output)


def _case_table(items: Sequence[Measurement]) -> str:
    from einsearch_cli.reports.speed_table import case_rows

    return table(case_rows(items), least=_LEAST, folded=("layer",))


def _summarize(result: BenchResult) -> None:
    from einsearch_cli.reports.speed_table import speed_headline

    settings = result.settings
    console.talk(
        f"\n{result.machine['device']}, torch {result.machine['torch']}, {settings['dtype']}, "
        f"{counted(settings['threads'], 'thread')}, medians of {settings['clock']}"
    )
    console.talk("\n".join(speed_headline(result)))
