"""A claim of a paper, or a question of this project, as a row: what is measured, where, and with which verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.claims.inference import Claim, Estimate, Verdict
from benchmarks.claims.numbers import Unit, large, shown, span
from benchmarks.claims.studies import ROOT, TrainedRuns
from einsearch_cli.reports import StudyReport
from einsearch_cli.scaling.many import holm

SEARCHING = "Potapczynski et al. 2024"
FOUNDATIONS = "Wei et al. 2024"
SPENT = "Qiu et al. 2024"

ONE_SEED = "there is one seed, and the noise that its runs share, such as that of dense, is in no interval"

Kind = Literal["claim", "question"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim or question, measured once."""

    key: str
    topic: str
    """The section of the page."""
    kind: Kind
    """Whether a paper says it, or this project asks it and no paper says it."""
    claim: str
    """The claim, in one sentence; equal for all studies that measure it."""
    published: str
    """The paper's words or figures; for a question the nearest thing that it says."""
    source: str
    effect: str
    """Description of the figure."""
    unit: Unit
    value: float
    low: float
    high: float
    rule: str
    """The kind of claim: above, below or within the margin."""
    margin: float
    interval: str
    """Where the interval comes from."""
    p: float
    p_adjusted: float
    verdict: Verdict
    study: str
    scale: str
    """Sizes of the study's networks and runs; equal for all rows of a study."""
    flops: float
    """Training FLOPs of its largest run; 0 where nothing is trained."""
    control: str
    """Result of the control, in one sentence."""
    flaw: str
    """Reason why no interval can decide it, such as a best width at the end of the grid; empty without one."""
    would_tell: str
    """The command whose result would tell more, and where it has to run."""

    def shown(self) -> tuple[str, str]:
        """Figure and interval as texts."""
        return shown(self.value, self.low, self.high, self.unit)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A row before p values were adjusted for all rows."""

    key: str
    topic: str
    claim: str
    published: str
    source: str
    effect: str
    says: Claim
    found: Estimate
    study: str
    scale: str
    control: str
    would_tell: str
    kind: Kind = "claim"
    unit: Unit = "plain"
    flops: float = 0.0
    flaw: str = ""


def finished(drafts: Sequence[Draft]) -> list[Row]:
    """Rows with verdicts: p values are adjusted by Holm's method over all rows that can be judged.

    So the page as a whole has a wrong verdict in at most 5% of cases. A row with a flaw is not judged and costs nothing.
    """
    judged = [draft for draft in drafts if not _flaw(draft)]
    ps = holm([draft.says.p(draft.found) for draft in judged])
    adjusted = {id(draft): p for draft, p in zip(judged, ps, strict=True)}
    return [_row(draft, adjusted.get(id(draft), draft.says.p(draft.found))) for draft in drafts]


def _flaw(draft: Draft) -> str:
    return draft.flaw or (ONE_SEED if "of one seed" in draft.found.how else "")


def _row(draft: Draft, p_adjusted: float) -> Row:
    found = draft.found
    if not all(map(math.isfinite, (found.value, found.low, found.high))):
        raise ValueError(f"{draft.key} has no interval: {found.low} to {found.high}")
    flaw = _flaw(draft)
    plain = {name: getattr(draft, name) for name in Row.__dataclass_fields__ if hasattr(draft, name)} | {"flaw": flaw}
    return Row(
        **plain,
        value=found.value,
        low=found.low,
        high=found.high,
        rule=draft.says.kind,
        margin=draft.says.margin,
        interval=found.how,
        p=draft.says.p(found),
        p_adjusted=p_adjusted,
        verdict="cannot tell" if flaw else draft.says.verdict(found, p_adjusted),
    )


def said(found: Estimate, unit: Unit = "plain") -> str:
    """An estimate with its interval, for sentences."""
    return " ".join(shown(found.value, found.low, found.high, unit))


def percent(found: Estimate) -> str:
    """A difference of logs with its interval, as percentages."""
    return said(found, "percent")


def ranked_scale(study: StudyReport, runs: str = "") -> dict[str, Any]:
    """Sizes of a study of `einsearch rank` at its highest common rung."""
    rung, flops = max(study.common_rungs), max(study.common_rungs.values())
    main = [result for result in study.results if result.trial.rung == rung]
    tokens = [result.tokens for result in main if result.tokens]
    words = [
        study.task,
        f"{span([result.params for result in main])} parameters",
        f"{large(flops)} training FLOPs a run",
        f"{span(tokens)} tokens" if tokens else "",
        runs,
    ]
    return {"scale": ", ".join(filter(None, words)), "flops": flops}


def trained_scale(runs: TrainedRuns, used: Sequence[str]) -> dict[str, Any]:
    """Sizes of the runs of `einsearch train` with these names."""
    chosen = [run for mine in runs.seeds.values() for name, run in mine.items() if name in used]
    params, flops, tokens = ([float(run[name]) for run in chosen] for name in ("params", "flops", "tokens"))
    return {
        "scale": f"text, {span(params)} parameters, {span(flops)} training FLOPs a run, {span(tokens)} tokens",
        "flops": max(flops),
    }


def published_size(command: str, name: str) -> str:
    """The command that repeats a study at the size of the paper, and what it costs, from the head of its spec."""
    spec = ROOT / "specs" / "paper" / "full" / f"{name}.yaml"
    cost = re.search(r"^# Cost: (\S+) training FLOPs, (.+?) at 40%", spec.read_text("utf-8"), flags=re.MULTILINE)
    assert cost is not None, f"{spec} names no cost"
    return f"`einsearch {command} paper/full/{name}` ({large(float(cost[1]))} training FLOPs, {cost[2]})"
