"""Statements of studies on a structure, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from einsearch_cli.advice.candidates import exact_sizes
from einsearch_cli.advice.evidence import Evidence, Finding, matching
from einsearch_cli.structures import LayerSpec, Structure, expert_of, short_name
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
    verdict: str
    """Verdict of the study: 'cannot tell' also if the best width lies at an end of its grid, whatever the gain is."""
    confirmed: bool
    """Whether the gain comes from runs that had no part in any decision."""
    budget_flops: float | None
    narrowest: int
    """Width of the study's narrowest network."""
    widest: int
    at_this_scale: bool
    """Whether both dimensions of the layer are in the range of the widths of the study's networks."""

    @property
    def is_contrary(self) -> bool:
        """Whether the whole interval of the gain lies below 1."""
        return self.gain_high is not None and self.gain_high < 1


def statements_on(structure: Structure, evidence: Sequence[Evidence], d_in: int, d_out: int) -> Iterator[Statement]:
    """Each study's statement on this very structure, or else on the nearest one of its family.

    The choice looks at sizes alone: the interval of a gain does not hold for the best of several structures.
    """
    sizes = exact_sizes(structure, d_in, d_out)

    def distance(other: LayerSpec) -> tuple[float, str]:
        """Sum over the indices of |log(size / size)| in this layer; the notation decides between equals."""
        theirs = exact_sizes(expert_of(other), d_in, d_out)
        away = sum(abs(math.log(sizes.get(index, 1) / theirs.get(index, 1))) for index in {**sizes, **theirs})
        return round(away, 9), str(other)

    for study in evidence:
        if found := list(matching([study], structure)):
            _, finding, same = min(found, key=lambda match: distance(match[1].structure))
            yield _statement(study, finding, same, d_in, d_out)


def _statement(study: Evidence, finding: Finding, same: bool, d_in: int, d_out: int) -> Statement:
    """A statement in words and numbers."""
    gain, low, high = finding.gain or (None, None, None)
    subject = f"{short_name(finding.structure)}{'' if same else ' (the family with another parameter)'}"
    against = short_name(study.yardstick)
    if gain is None:
        said = f"{subject}: no gain over {against} was measured"
    else:
        interval = (
            f" (95% interval {low:.2f} to {high:.2f})" if low is not None and high is not None else ", no interval"
        )
        kind = "confirmed by new seeds" if finding.confirmed_gain is not None else "not confirmed"
        said = f"{subject}: gain over {against} {gain:.2f} in training FLOPs{interval}, {kind}"
    budget = "" if finding.budget_flops is None else f", {finding.budget_flops:.2g} FLOPs a run"
    fits = study.least_width <= min(d_in, d_out) and max(d_in, d_out) <= study.most_width
    here = "" if fits else f": no evidence at this scale, as this layer is {d_in:,} × {d_out:,}"
    scale = f"task {study.task}{budget}, widths {study.least_width} to {study.most_width}{here}"
    text = f"{said}, verdict {finding.verdict!r}; {scale} [{study.source}]"
    return Statement(
        text=text,
        source=study.source,
        task=study.task,
        structure=str(finding.structure),
        same=same,
        gain=gain,
        gain_low=low,
        gain_high=high,
        verdict=finding.verdict,
        confirmed=finding.confirmed_gain is not None,
        budget_flops=finding.budget_flops,
        narrowest=study.least_width,
        widest=study.most_width,
        at_this_scale=fits,
    )
