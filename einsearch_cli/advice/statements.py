"""What studies say on a structure, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from einsearch_cli.advice.evidence import Evidence, Finding, matching
from einsearch_cli.structures import Structure, short_name
from einsearch_cli.structures.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(Record):
    """The statement of one study on a structure, or on another one of its family."""

    text: str
    source: str
    """File from which the evidence was made."""
    task: str
    structure: str
    """The structure that was studied."""
    same: bool
    """Whether the studied structure is the suggested one; if not, it is of the same family with other parameters."""
    gain: float | None
    """The yardstick's training FLOPs divided by the structure's at equal loss."""
    gain_low: float | None
    gain_high: float | None
    """95% interval."""
    confirmed: bool
    """Whether the gain comes from runs that had no part in any decision."""
    budget_flops: float | None
    widest: int
    """Width of the study's widest network."""
    at_this_scale: bool
    """Whether the layer is no wider than the networks of the study."""


def statements_on(structure: Structure, evidence: Sequence[Evidence], width: int) -> Iterator[Statement]:
    """Each study's statement on this very structure, or else on the best one of its family.

    `width` is the larger dimension of the layer.
    """
    for study in evidence:
        found = list(matching([study], structure))
        if not found:
            continue
        _, finding, same = max(found, key=lambda match: (match[2], _gain_of(match[1])))
        yield _statement(study, finding, same, width)


def _gain_of(finding: Finding) -> float:
    return finding.gain[0] if finding.gain else 0.0


def _statement(study: Evidence, finding: Finding, same: bool, width: int) -> Statement:
    """A statement in words and numbers; `width` is the larger dimension of the layer."""
    gain, low, high = finding.gain or (None, None, None)
    subject = f"{short_name(finding.structure)}{'' if same else ' (the family with another parameter)'}"
    against = short_name(study.yardstick)
    if gain is None:
        said = f"{subject}: no gain over {against} was measured, verdict {finding.verdict!r}"
    else:
        interval = (
            f" (95% interval {low:.2f} to {high:.2f})" if low is not None and high is not None else ", no interval"
        )
        kind = "confirmed by new seeds" if finding.confirmed_gain is not None else "not confirmed"
        said = f"{subject}: gain over {against} {gain:.2f} in training FLOPs{interval}, {kind}"
    budget = "" if finding.budget_flops is None else f", {finding.budget_flops:.2g} FLOPs a run"
    fits = width <= study.most_width
    here = "" if fits else f": no evidence at this scale, as this layer is {width:,} wide"
    text = f"{said}; task {study.task}{budget}, widths {study.least_width} to {study.most_width}{here} [{study.source}]"
    return Statement(
        text=text,
        source=study.source,
        task=study.task,
        structure=str(finding.structure),
        same=same,
        gain=gain,
        gain_low=low,
        gain_high=high,
        confirmed=finding.confirmed_gain is not None,
        budget_flops=finding.budget_flops,
        widest=study.most_width,
        at_this_scale=fits,
    )
