"""A report of a swap as text of 80 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from einsearch_cli.layers.swap.report import Kept, SwapReport

WIDTH: Final = 80


def report_lines(report: SwapReport) -> Iterator[str]:
    """The summary, then layer by layer what is replaced and what is left."""
    yield str(report.structure)
    yield from summary_lines(report)
    yield from _layer_lines(report)


def summary_lines(report: SwapReport) -> Iterator[str]:
    """What is covered first, then what stays by kind, and what could not be reached."""
    yield from _headline(report)
    yield from _wrapped(f"  these layers: {report.total}", tight=True)
    yield from _wrapped(f"  whole model:  {report.model}", tight=True)
    yield from _wrapped(
        "  FLOPs are per token: 2 per multiply-add with a weight, each layer once; attention scores are left out"
    )
    yield from _kept_table(report)
    if report.unreachable:
        yield from _wrapped("out of reach, as a plain Python object holds it (nn.ModuleList would register it):")
    for path, what in report.unreachable.items():
        yield from _wrapped(f"  {path}: {what}")


def _headline(report: SwapReport) -> Iterator[str]:
    """The share of parameters and FLOPs that the swap covers, and what is not known of it."""
    found = len(report.replaced) + len(report.skipped)
    done = "replaced" if report.applied else "would replace"
    known = "known " if report.uncounted or report.kept is None else ""
    yield from _wrapped(
        f"{done} {report.covered_params:.1%} of the parameters and {report.covered_flops:.1%} of the {known}FLOPs "
        f"({len(report.replaced)} of {found} linear layers)"
    )
    if report.kept is None:
        yield from _wrapped("an earlier version made this report: weights outside of linear layers are not counted")
    elif report.uncounted:
        share = sum(each.params for each in report.uncounted) / (report.model.params_before or 1)
        kinds = ", ".join(dict.fromkeys(each.kind for each in report.uncounted))
        yield from _wrapped(f"FLOPs are not known for {share:.1%} of the parameters: {kinds}")


def _kept_table(report: SwapReport) -> Iterator[str]:
    """A table of the weights that stay, by kind, with their shares of the model's parameters."""
    if not report.kept:
        return
    rows = [_row(report, each.params, _flops(each), _said(each)) for each in report.kept]
    rows.append(_row(report, report.vector_params, "", "biases and other vectors"))
    head = ("parameters", "share", "FLOPs/token", "kind of weights")
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(3)]
    staying = report.model.params_before - report.total.params_before
    yield f"stays as it is, {staying / (report.model.params_before or 1):.1%} of the parameters:"
    for row in (head, *rows):
        numbers = "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=False))
        yield from textwrap.wrap(
            row[3], WIDTH, initial_indent=f"  {numbers}  ", subsequent_indent=" " * (len(numbers) + 6)
        )


def _row(report: SwapReport, params: int, flops: str, said: str) -> tuple[str, str, str, str]:
    return f"{params:,}", f"{params / (report.model.params_before or 1):.1%}", flops, said


def _flops(kept: Kept) -> str:
    return "not known" if kept.flops is None else f"{kept.flops:,}"


def _said(kept: Kept) -> str:
    return f"{kept.kind}: {kept.note}" if kept.note else kept.kind


def _layer_lines(report: SwapReport) -> Iterator[str]:
    if report.replaced:
        yield f"{'replaced' if report.applied else 'would replace'} {len(report.replaced)}:"
    if grown := sum(bool(swap.grows) for swap in report.replaced):
        yield f"{grown} of the replaced layers {'has' if grown == 1 else 'have'} more parameters or FLOPs than dense"
    for swap in report.replaced:
        yield from _wrapped(f"  {swap}", tight=True)
    if report.skipped:
        yield f"left {len(report.skipped)}:"
    names: dict[str, list[str]] = {}
    for name, reason in report.skipped.items():
        names.setdefault(reason, []).append(name)
    for reason, alike in names.items():
        yield from _wrapped(f"  {', '.join(alike)}: {reason}")


def _wrapped(text: str, tight: bool = False) -> Iterator[str]:
    """Lines of 80 columns, indented as the text is; `before -> after` stays on one, with `tight` all between commas."""
    indent = " " * (len(text) - len(text.lstrip()))
    glued = re.sub(r"(?<=[^ ,:]) (?=[^ (])", "\0", text.lstrip()) if tight else text.lstrip().replace(" -> ", "\0->\0")
    wrapper = textwrap.TextWrapper(WIDTH, indent, f"{indent}    ", break_long_words=False, break_on_hyphens=False)
    yield from (line.replace("\0", " ") for line in wrapper.wrap(glued))
