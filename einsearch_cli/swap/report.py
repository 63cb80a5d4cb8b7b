"""The effect of a swap on a model, as values, as text and as JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from einsearch_cli.showing import Tabular
from einsearch_cli.structures import FeatureOrder, LayerSpec, MixtureOfExperts, short_name
from einsearch_cli.structures.record import Record

_COLUMNS: Final = (
    *("layer", "kind", "d_in", "d_out", "params_before", "params_after", "flops_before", "flops_after"),
    *("relative_error", "tied_to", "left_because"),
)
_WIDTH: Final = 80
"""Columns of a report as text."""


@dataclass(frozen=True, slots=True)
class Costs(Record):
    """Parameters, and forward FLOPs per token of products with weights, before and after.

    FLOPs are 2 per multiply-add. Every layer counts once, however often the model calls it. Attention scores are not
    products with weights and do not count.
    """

    params_before: int
    params_after: int
    flops_before: int
    flops_after: int

    @classmethod
    def of_model(cls, params_before: int, params_after: int, kept: Sequence[Kept], replaced: Sequence[Swap]) -> Costs:
        """The costs of a whole model from its parameters, the weights that stay, and the replaced layers."""
        flops = sum(each.flops or 0 for each in kept)
        return cls(
            params_before,
            params_after,
            flops + sum(swap.costs.flops_before for swap in replaced),
            flops + sum(swap.costs.flops_after for swap in replaced),
        )

    def __str__(self) -> str:
        params = f"{self.params_before:,} -> {self.params_after:,} parameters"
        return f"{params}, {self.flops_before:,} -> {self.flops_after:,} FLOPs"


@dataclass(frozen=True, slots=True)
class Swap(Record):
    """One linear layer, or packed weight of experts, that becomes structured."""

    name: str
    kind: str
    """The kind of module that holds the weight: Linear, Conv1D, MultiheadAttention, Conv2d and so on, or FusedExperts.
    """
    aliases: tuple[str, ...]
    """Other names under which the model holds the same module."""
    tied_to: str | None
    """The layer whose factors this one shares, if the weights were tied."""
    in_features: int
    out_features: int
    costs: Costs
    """Costs without bias and gain; for experts all parameters, and the FLOPs of those that a token uses."""
    relative_error: float | None = None
    """‖W − structured W‖ / ‖W‖ (Frobenius) after a projection; None if the layer starts from random values.

    For packed experts, the norms run over all of them.
    """
    order: str | None = None
    """Order of the features of the new layer, as text of a `FeatureOrder`.

    None in plans, which leave it open, and in reports of versions that did not write it.
    """
    experts: int = 1
    """Number of matrices of these widths in the weight; more than one for packed experts."""
    output_error: float | None = None
    """√(E‖y − structured y‖² / E‖y‖²) of the outputs for calibration data; None without such data."""
    structure: LayerSpec | None = None
    """Structure of this layer if layers of the report differ; None for the structure of the report."""

    def __str__(self) -> str:
        also = "".join(f", also {alias}" for alias in self.aliases)
        tied = f", factors shared with {self.tied_to}" if self.tied_to else ""
        error = "" if self.relative_error is None else f", relative error {self.relative_error:.4f}"
        error += "" if self.output_error is None else f", of outputs {self.output_error:.4f}"
        if error and (order := self.sides):
            error += f", order {order}"
        widths = f"{self.in_features} -> {self.out_features}" + (f" x {self.experts}" if self.experts > 1 else "")
        more = f" (more {' and '.join(self.grows)} than dense)" if self.grows else ""
        own = "" if self.structure is None else f", {_short(self.structure)}"
        return f"{self.name}{also}  {widths}{own}: {self.costs}{error}{tied}{more}"

    @property
    def sides(self) -> str:
        """The order of the features, such as `XA,XB/YA,YB`; empty if it is not known, or the only one."""
        order = None if self.order is None else FeatureOrder.of_text(self.order)
        return "" if order is None or order.is_only_one else str(FeatureOrder(*order.sides))

    @property
    def grows(self) -> tuple[str, ...]:
        """Which of parameters and FLOPs the structured layer has more of than the dense one."""
        return tuple(
            what
            for what, before, after in (
                ("parameters", self.costs.params_before, self.costs.params_after),
                ("FLOPs", self.costs.flops_before, self.costs.flops_after),
            )
            if after > before
        )


@dataclass(frozen=True, slots=True)
class Kept(Record):
    """Weights of two or more dimensions that stay, of one kind of module."""

    kind: str
    """Class of the module that holds them, with `nn.` for torch's own."""
    names: tuple[str, ...]
    """Names of the parameters, including packed weights of which a part is replaced."""
    params: int
    """Number of elements that stay; a shared parameter counts once, where it is multiplied."""
    flops: int | None
    """Forward FLOPs per token; None if they depend on the input or are not known."""
    note: str = ""
    """A remark: what these weights do, and what their FLOPs stand for."""
    dense: bool = True
    """Whether the weights are dense; False for structured layers."""


@dataclass(frozen=True, slots=True)
class SwapReport(Record, Tabular):
    """The effect of a swap on a model, with the layers that stay and the reasons.

    >>> from torch import nn
    >>> from einsearch_cli.swap import plan_swaps
    >>> report = plan_swaps(nn.Sequential(nn.Linear(64, 64)), "monarch")
    >>> report.total
    Costs(params_before=4096, params_after=1024, flops_before=8192, flops_after=2048)
    >>> SwapReport.from_json(report.to_json()) == report
    True
    """

    structure: LayerSpec
    applied: bool
    """False for a plan, True after it was carried out."""
    replaced: tuple[Swap, ...]
    skipped: dict[str, str]
    """The reason for each linear layer that stays, by name."""
    model: Costs
    """Costs of the whole model: all its parameters, including biases and gains, and all known FLOPs."""
    kept: tuple[Kept, ...] | None = None
    """All other weights of two or more dimensions, the largest kind first; None in reports that did not count them."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Descriptions by path of modules and parameters held by plain Python objects, which a swap cannot reach."""

    @property
    def total(self) -> Costs:
        """The sum over replaced layers without biases and gains; tied factors count once, their FLOPs each time."""
        own = [swap.costs for swap in self.replaced if swap.tied_to is None]
        before, after = sum(costs.params_before for costs in own), sum(costs.params_after for costs in own)
        return Costs.of_model(before, after, (), self.replaced)

    @property
    def covered_params(self) -> float:
        """Share of the model's parameters that the replaced layers had, without biases."""
        return _share(self.total.params_before, self.model.params_before)

    @property
    def covered_flops(self) -> float:
        """Share of the model's known FLOPs that the replaced layers had; `uncounted` lists what is not known."""
        return _share(self.total.flops_before, self.model.flops_before)

    @property
    def uncounted(self) -> tuple[Kept, ...]:
        """Kinds of weights whose FLOPs are not known."""
        return tuple(each for each in self.kept or () if each.flops is None)

    @property
    def vector_params(self) -> int:
        """Parameters in tensors of fewer than two dimensions before the swap: biases, scales of norms, gains."""
        return self.model.params_before - self.total.params_before - sum(each.params for each in self.kept or ())

    def records(self) -> list[dict[str, Any]]:
        """One row per linear layer, the replaced ones first; layers that stay have only a name and a reason.

        If layers have different structures or errors of outputs, there are columns for these.
        """
        more = [name for name in ("structure", "output_error") if {getattr(s, name) for s in self.replaced} - {None}]
        replaced = [
            {
                "layer": swap.name,
                "kind": swap.kind,
                "d_in": swap.in_features,
                "d_out": swap.out_features,
                "params_before": swap.costs.params_before,
                "params_after": swap.costs.params_after,
                "flops_before": swap.costs.flops_before,
                "flops_after": swap.costs.flops_after,
                "relative_error": swap.relative_error,
                "tied_to": swap.tied_to,
                "left_because": None,
                **{name: _plain(getattr(swap, name)) for name in more},
            }
            for swap in self.replaced
        ]
        return replaced + [
            {**dict.fromkeys((*_COLUMNS, *more)), "layer": name, "left_because": reason}
            for name, reason in self.skipped.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; `from_json` reads it back to an equal report for `apply_swaps`."""
        return {**Record.to_json(self), "total": self.total.to_json()}

    @property
    def summary(self) -> str:
        """A summary as text: what is covered, and what stays by kind; `str(report)` lists the layers too."""
        return "\n".join(_summary_lines(self))

    @property
    def structure_text(self) -> str:
        """The structure of all layers, or their structures, with ranges of sizes within a family."""
        own = dict.fromkeys(_short(swap.structure) for swap in self.replaced if swap.structure is not None)
        return "; ".join(_ranges(own)) if own else str(self.structure)

    def __str__(self) -> str:
        return "\n".join((self.structure_text, *_summary_lines(self), *_layer_lines(self)))


def _short(structure: LayerSpec) -> str:
    return structure.short_text if isinstance(structure, MixtureOfExperts) else short_name(structure)


def _plain(value: LayerSpec | float | None) -> str | float | None:
    return value if value is None or isinstance(value, float) else _short(value)


def _ranges(texts: Iterable[str]) -> Iterator[str]:
    """Texts of one family joined to a range: `low-rank:r=1` and `low-rank:r=31` become `low-rank, ranks 1–31`."""
    sizes: dict[tuple[str, str], list[int]] = {}
    for text in texts:
        found = re.fullmatch(r"([\w-]+):(r|blocks)=(\d+)", text)
        key, size = ((found[1], found[2]), [int(found[3])]) if found else ((text, ""), [])
        sizes.setdefault(key, []).extend(size)
    for (name, what), several in sizes.items():
        if len(several) > 1:
            yield f"{name}, {'ranks' if what == 'r' else what} {min(several)}–{max(several)}"
        else:
            yield f"{name}:{what}={several[0]}" if several else name


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _summary_lines(report: SwapReport) -> Iterator[str]:
    """Lines on what is covered, then on what stays by kind, and on what could not be reached."""
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
    """The share of parameters and FLOPs that the swap covers, and what is not known about it."""
    found = len(report.replaced) + len(report.skipped)
    done = "replaced" if report.applied else "would replace"
    known = "known " if report.uncounted or report.kept is None else ""
    yield from _wrapped(
        f"{done} {report.covered_params:.1%} of the parameters and {report.covered_flops:.1%} of the {known}FLOPs "
        f"({len(report.replaced)} of {found} linear layer{'s' * (found != 1)})"
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
    rows = [_row(report, each) for each in report.kept]
    rows.append((*_row(report, Kept("", (), report.vector_params, 0))[:2], "", "biases and other vectors"))
    head = ("parameters", "share", "FLOPs/token", "kind of weights")
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(3)]
    staying = report.model.params_before - report.total.params_before
    yield f"stays as it is, {staying / (report.model.params_before or 1):.1%} of the parameters:"
    for row in (head, *rows):
        numbers = "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=False))
        yield from textwrap.wrap(
            row[3], _WIDTH, initial_indent=f"  {numbers}  ", subsequent_indent=" " * (len(numbers) + 6)
        )


def _row(report: SwapReport, kept: Kept) -> tuple[str, str, str, str]:
    share = f"{kept.params / (report.model.params_before or 1):.1%}"
    flops = "not known" if kept.flops is None else f"{kept.flops:,}"
    return f"{kept.params:,}", share, flops, f"{kept.kind}: {kept.note}" if kept.note else kept.kind


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
    """Lines of 80 columns with the text's indentation; `before -> after` is not broken, with `tight` only commas break."""
    indent = " " * (len(text) - len(text.lstrip()))
    glued = re.sub(r"(?<=[^ ,:]) (?=[^ (])", "\0", text.lstrip()) if tight else text.lstrip().replace(" -> ", "\0->\0")
    wrapper = textwrap.TextWrapper(_WIDTH, indent, f"{indent}    ", break_long_words=False, break_on_hyphens=False)
    yield from (line.replace("\0", " ") for line in wrapper.wrap(glued))
