"""Do ω, ψ and ν predict the loss? Claims of Potapczynski et al. 2024 on the exponents of structures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.claims.inference import Claim
from benchmarks.claims.numbers import large, p_text, signed
from benchmarks.claims.rows import SEARCHING, Draft, published_size, ranked_scale, said
from benchmarks.claims.studies import Store
from benchmarks.claims.taxonomy import (
    FULL,
    Sample,
    correlations,
    edges_at,
    exponent_differences,
    joint_slopes,
    nu_slope,
    slope_trend,
)
from einsearch_cli.reports import StudyReport

NU_MARGIN = 0.10
"""Log loss per unit of ν within which ν hardly matters: from ν = 1/2 to ν = 1 the loss changes by less than 5%."""
EXPONENT_MARGIN = 0.10
"""Relative difference of exponents within which they are equal: a gain changes by less than 26% for ten times the compute."""
MOST_AT_ENDS = 1 / 3
"""Share of structures whose best width may be an end of the grid before nothing is concluded from all of them."""
TAXONOMY = ("teacher", "teacher-small", "text", "text-small", "pixels", "pixels-small")
"""Studies `taxonomy-…` of structures with many exponents, by task."""


def exponent_rows(store: Store, task: str) -> Iterator[Draft]:
    """Effects of ω, ψ and ν on the loss of one task; nothing before its study has finished."""
    study = store.ranked(f"taxonomy-{task}")
    if study is None:
        return
    sample = Sample.of_study(study)
    bare, full = sample.without_dense(), sample.full()
    last, slopes, controls = len(sample.budgets) - 1, joint_slopes(sample), joint_slopes(bare)
    edges = edges_at(study, max(study.common_rungs))
    at_ends = f"{edges.narrowest} are best at the narrowest width and {edges.widest} at the widest"
    shared: dict[str, Any] = {
        "study": f"taxonomy-{task}",
        **ranked_scale(study, f"{len(sample.names)} structures, of which {at_ends}"),
        "flaw": _grid_flaw(edges.share),
        "would_tell": published_size("rank", f"taxonomy-{task.removesuffix('-small')}"),
    }
    for name, key, claim in (
        ("ω", "omega", "A smaller ω gives a lower loss"),
        ("1 − ψ", "psi", "A larger ψ gives a lower loss"),
    ):
        alone = correlations(sample, name, last)
        yield Draft(
            key=f"{key}-{task}",
            topic=key,
            claim=claim,
            published='"reliably led to better scaling laws"',
            source=f"{SEARCHING}, abstract",
            effect=f"log loss for each unit of {name}, other exponents held",
            says=Claim("above"),
            found=slopes[name][last],
            control=(
                f"Without dense the slope is {said(controls[name][last])}. By itself the exponent has a rank correlation of "
                f"{signed(alone['spearman'])} with the loss (permutation p {p_text(alone['p'])})."
            ),
            **shared,
        )
    within = full.where(full.inner)
    free = full.where([row["bond"] == 0 for row in full.exponents])
    span = float(np.ptp(full.log_losses[:, last]))
    allowed = NU_MARGIN * float(np.ptp([row["ν"] for row in full.exponents]))
    yield Draft(
        key=f"nu-{task}",
        topic="nu",
        claim="At ω = 0 and ψ = 1, ν hardly matters",
        published='"often negligible impact on the scaling laws"',
        source=f"{SEARCHING}, abstract",
        effect=f"log loss for each unit of ν, {FULL}, bonds held",
        says=Claim("within", NU_MARGIN),
        found=nu_slope(full, last),
        control=(
            f"With bonds not held, whose exponents grow with ν, the slope is {said(nu_slope(full, last, hold_bond=False))}; "
            f"the {len(free.names)} structures without such a bond have {_nu_text(free, last)}. Without dense, whose ν is 1, "
            f"it is {said(nu_slope(full.without_dense(), last))}. A small ν has a wide best network. Where the grid ends "
            f"before it, the loss is too large, and the slope too small: the {len(within.names)} whose best width lies inside "
            f"the grid have {_nu_text(within, last)}. All {len(full.names)} losses lie within {math.expm1(span):.1%}."
        ),
        **{**shared, "flaw": shared["flaw"] or _margin_flaw(span, allowed)},
    )
    if len(sample.budgets) > 1:
        yield from _trend_rows(study, task, sample, shared)


def _trend_rows(study: StudyReport, task: str, sample: Sample, shared: Mapping[str, Any]) -> Iterator[Draft]:
    """How the slopes of the exponents change with compute, at the rungs whose grid of widths is wide enough."""
    usable = [rung for rung, share in enumerate(sample.ends) if share <= MOST_AT_ENDS]
    mine = {**shared, "flaw": _trend_flaw(sample, usable)}
    if len(usable) > 1:
        sample = sample.at_rungs(usable)
    else:
        usable = list(range(len(sample.budgets)))
    full, bare = sample.full(), sample.without_dense()
    at = f"at {', '.join(map(large, sample.budgets))} FLOPs"
    for name, key, claim in (
        ("ω", "omega", "A smaller ω gives a steeper scaling law"),
        ("1 − ψ", "psi", "A larger ψ gives a steeper scaling law"),
    ):
        slopes = ", ".join(map(said, joint_slopes(sample)[name]))
        yield Draft(
            key=f"{key}-trend-{task}",
            topic=key,
            claim=claim,
            published='"reliably led to better scaling laws"',
            source=f"{SEARCHING}, abstract",
            effect=f"change of the slope of {name} for ten times the compute, other exponents held",
            says=Claim("above"),
            found=slope_trend(sample, name),
            control=f"The slopes are {slopes} {at}. Without dense the change is {said(slope_trend(bare, name))}.",
            **mine,
        )
    yield Draft(
        key=f"nu-trend-{task}",
        topic="nu",
        kind="question",
        claim="What ν costs fades with compute",
        published="whether it fades is not asked; on GPT-2 ν's impact was often negligible",
        source=f"{SEARCHING}, abstract",
        effect="change of the slope of ν for ten times the compute, other exponents held",
        says=Claim("below"),
        found=slope_trend(sample, "ν"),
        control=(
            f"Of the {len(full.names)} {FULL} alone the slopes, bonds held, are "
            + ", ".join(said(nu_slope(full, rung)) for rung in range(len(full.budgets)))
            + f" {at}."
        ),
        **mine,
    )
    yield Draft(
        key=f"laws-{task}",
        topic="laws",
        claim="Structures of ω = 0 and ψ = 1 have dense's scaling exponent",
        published='"often negligible impact on the scaling laws"',
        source=f"{SEARCHING}, abstract",
        effect="exponent of the loss over compute, against dense's",
        says=Claim("within", EXPONENT_MARGIN),
        found=exponent_differences(study, usable),
        unit="share",
        control=_extreme_trends(study),
        **mine,
    )


def _nu_text(sample: Sample, rung: int) -> str:
    if len({row["ν"] for row in sample.exponents}) < 2 or len(sample.names) < 3 + ("bond" in sample.varying):
        return "too few values of ν for a slope"
    return f"a slope of {said(nu_slope(sample, rung))}"


def _grid_flaw(share: float) -> str:
    if share <= MOST_AT_ENDS:
        return ""
    return f"the best width of {share:.0%} of the structures is an end of the grid, so losses there are too large"


def _margin_flaw(span: float, allowed: float) -> str:
    """A margin that no order of these structures can miss tells nothing of ν."""
    if span > allowed:
        return ""
    return (
        f"the losses of all these structures lie within {math.expm1(span):.1%}, and the margin allows "
        f"{math.expm1(allowed):.1%}: no order of them could miss it"
    )


def _trend_flaw(sample: Sample, usable: Sequence[int]) -> str:
    """A trend needs two rungs at which the grid of widths is wide enough."""
    if len(usable) > 1:
        return ""
    shares = ", ".join(f"{share:.0%}" for share in sample.ends)
    return f"rung by rung {shares} of the structures are best at an end of the grid, and a trend needs two rungs with fewer"


def _extreme_trends(study: StudyReport) -> str:
    trends = [
        (entry.trend.per_decade, str(entry.structure))
        for entry in study.ranking.entries
        if entry.trend is not None and entry.trend.per_decade is not None
    ]
    if not trends:
        return "No gain over dense can be read at two rungs, as best widths are the narrowest or the widest."
    words = [entry.trend.word for entry in study.ranking.entries if entry.trend is not None]
    (low, lowest), (high, highest) = min(trends), max(trends)
    return (
        f"Of all {len(trends)} structures {words.count('rising')} have a gain over dense that rises with compute and "
        f"{words.count('falling')} one that falls: by factors from {low:.2f} ({lowest}) to {high:.2f} ({highest}) a decade."
    )


def rung_table(store: Store, task: str) -> Iterator[dict[str, Any]]:
    """Correlation and slope of every exponent at every rung."""
    study = store.ranked(f"taxonomy-{task}")
    if study is None:
        return
    sample = Sample.of_study(study)
    slopes, bare = joint_slopes(sample), joint_slopes(sample.without_dense())
    for name in sample.varying:
        for rung, budget in enumerate(sample.budgets):
            found, without = slopes[name][rung], bare[name][rung]
            yield {
                "task": task,
                "exponent": name,
                "budget_flops": budget,
                "structures": len(sample.names),
                "at_ends": sample.ends[rung],
                **correlations(sample, name, rung),
                "slope": found.value,
                "slope_low": found.low,
                "slope_high": found.high,
                "slope_p": found.p_zero,
                "without_dense": without.value,
                "without_dense_low": without.low,
                "without_dense_high": without.high,
            }
