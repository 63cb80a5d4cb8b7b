"""Every claim of the two papers as a row: what is measured of it, from which study, with which interval."""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.claims.inference import Claim, Estimate, StudentEstimate, Verdict, of_replicates, of_units
from benchmarks.claims.studies import Store, TrainedRuns
from benchmarks.claims.taxonomy import (
    FULL,
    Sample,
    correlations,
    exponent_differences,
    joint_slopes,
    nu_slope,
    slope_trend,
)
from einsearch_cli.reports import StudyReport
from einsearch_cli.scaling import levels_of
from einsearch_cli.scaling.many import holm
from einsearch_cli.scaling.noise import noise_of
from einsearch_cli.structures import LayerSpec, expert_of, parse_layer, short_name

NU_MARGIN = 0.10
"""Log loss per unit of ν within which ν hardly matters: from ν = 1/2 to ν = 1 the loss changes by less than 5%."""
EXPONENT_MARGIN = 0.10
"""Relative difference of exponents within which they are equal: a gain changes by less than 26% for ten times the compute."""

ONE_SEED = "there is one seed, and the noise that its runs share, such as that of dense, is in no interval"
NEARLY_EQUAL = 0.95
"""Share of dense's training FLOPs from which a network counts as trained with as many."""
MOST_AT_ENDS = 1 / 3
"""Share of structures whose best width may be an end of the grid before nothing is concluded from all of them."""

SMALL = 0.02
"""Figures and intervals below this are shown with four digits."""

Unit = Literal["percent", "plain", "factor", "share"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim, measured once."""

    key: str
    claim: str
    """The claim, in one sentence."""
    published: str
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
    control: str
    """Result of the control, in one sentence."""
    flaw: str
    """Reason why no interval can decide it, such as a best width at the end of the grid; empty without one."""
    would_tell: str
    """The command whose result would tell more, and where it has to run."""

    def shown(self) -> tuple[str, str]:
        """Figure and interval as texts."""
        digits = 2 if max(abs(self.low), abs(self.high)) >= SMALL else 4
        texts: dict[Unit, Callable[[float], str]] = {
            "percent": lambda x: f"{math.expm1(x):+.1%}".replace("-", "−"),
            "plain": lambda x: f"{x:+.{digits}f}".replace("-", "−"),
            "factor": lambda x: f"{math.exp(x):.2f}×",
            "share": lambda x: f"{x:+.0%}".replace("-", "−"),
        }
        one = texts[self.unit]
        return one(self.value), f"[{one(self.low)}, {one(self.high)}]"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A row before p values were adjusted for all rows of its study."""

    key: str
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
    unit: Unit = "plain"
    flaw: str = ""


def finished(drafts: Sequence[Draft]) -> list[Row]:
    """Rows with verdicts: p values are adjusted by Holm's method over the rows of each study."""
    by_study: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        by_study[draft.study].append(draft)
    adjusted = {}
    for mine in by_study.values():
        ps = holm([draft.says.p(draft.found) for draft in mine])
        adjusted.update({id(draft): p for draft, p in zip(mine, ps, strict=True)})
    return [_row(draft, adjusted[id(draft)]) for draft in drafts]


def _row(draft: Draft, p_adjusted: float) -> Row:
    found = draft.found
    if not all(map(math.isfinite, (found.value, found.low, found.high))):
        raise ValueError(f"{draft.key} has no interval: {found.low} to {found.high}")
    flaw = draft.flaw or (ONE_SEED if "of one seed" in found.how else "")
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


def all_rows(store: Store) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows of all claims, and the table of what exponents say rung by rung."""
    drafts = [
        *(draft for task in TAXONOMY for draft in taxonomy_rows(store, task)),
        *expert_rows(store),
        *feed_forward_rows(store),
        *overtraining_rows(store),
        *wide_rows(store),
        *guided_rows(store),
        *rate_rows(store),
        *speed_rows(store),
    ]
    return finished(drafts), [row for task in TAXONOMY for row in rung_table(store, task)]


# The taxonomy: claims of Potapczynski et al. 2024.

TAXONOMY = ("teacher", "teacher-small", "text", "pixels")
"""Studies `taxonomy-…` of structures with many exponents, by task."""
S = "Potapczynski et al. 2024"
F = "Wei et al. 2024"


def _power(flops: float) -> str:
    digits, _, power = f"{flops:.1e}".partition("e")
    raised = str(int(power)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits.removesuffix('.0')}·10{raised}"


def _ranked_scale(study: StudyReport, runs: str = "") -> str:
    main = study.results
    params = sorted({result.params for result in main if result.trial.rung == max(study.common_rungs)})
    tokens = sorted(result.tokens for result in main if result.tokens and result.trial.rung == max(study.common_rungs))
    said = [
        f"{study.task}: {params[0]:,} to {params[-1]:,} parameters",
        f"{_power(max(study.common_rungs.values()))} training FLOPs a run",
        f"{tokens[0]:.2g} to {tokens[-1]:.2g} tokens".replace("e+0", "e") if tokens else "",
        runs,
    ]
    return ", ".join(filter(None, said))


def taxonomy_rows(store: Store, task: str) -> Iterator[Draft]:
    """Effects of ω, ψ and ν on the loss of one task; nothing before its study has finished."""
    study = store.ranked(f"taxonomy-{task}")
    if study is None:
        return
    sample = Sample.of_study(study)
    bare, full = sample.without_dense(), sample.full()
    last, slopes, controls = len(sample.budgets) - 1, joint_slopes(sample), joint_slopes(bare)
    scale = _ranked_scale(study, f"{len(sample.names)} structures, {_edges(study)}")
    shared: dict[str, Any] = {
        "study": f"taxonomy-{task}",
        "scale": scale,
        "flaw": _grid_flaw(study),
        "would_tell": "`einsearch rank specs/paper/taxonomy-teacher.yaml --widths 48,96,192,384`"
        if task.startswith("teacher")
        else f"`einsearch rank specs/paper/taxonomy-{task}.yaml --budget 1e15`",
    }
    for name, key, claim in (
        ("ω", "omega", "A smaller ω gives a lower loss"),
        ("1 − ψ", "psi", "A larger ψ gives a lower loss"),
    ):
        alone = correlations(sample, name, last)
        yield Draft(
            key=f"{key}-{task}",
            claim=f"{claim} ({task})",
            published='"reliably led to better scaling laws"',
            source=f"{S}, abstract",
            effect=f"log loss for each unit of {name}, other exponents held",
            says=Claim("above"),
            found=slopes[name][last],
            control=(
                f"Without dense the slope is {_signed(controls[name][last])}. By itself the exponent has a rank correlation of "
                f"{alone['spearman']:+.2f} with the loss (permutation p {alone['p']:.2g})."
            ).replace("-", "−"),
            **shared,
        )
    within = full.where(full.inner)
    yield Draft(
        key=f"nu-{task}",
        claim=f"At ω = 0 and ψ = 1, ν hardly matters ({task})",
        published='"often negligible impact on the scaling laws"',
        source=f"{S}, README of its code",
        effect=f"log loss for each unit of ν, {FULL}",
        says=Claim("within", NU_MARGIN),
        found=nu_slope(full, last),
        control=(
            f"Without dense, whose ν is 1, the slope is {_signed(nu_slope(full.without_dense(), last))}. A small ν has "
            "a wide best network. Where the grid ends before it, the loss is too large, and the slope too small: the "
            f"{len(within.names)} whose best width lies inside the grid have {_nu_text(within, last)}."
        ),
        **shared,
    )
    at_first = [nu_slope(full, rung) for rung in range(len(full.budgets))]
    if len(sample.budgets) > 1:
        yield Draft(
            key=f"nu-trend-{task}",
            claim=f"What ν costs fades with compute ({task})",
            published="negligible at their scale",
            source=f"{S}, on GPT-2",
            effect="change of ν's slope for ten times the compute, other exponents held",
            says=Claim("below"),
            found=slope_trend(sample, "ν"),
            control=(
                f"Of the {len(full.names)} {FULL} alone the slopes are "
                + ", ".join(_signed(found) for found in at_first)
                + f" at {', '.join(map(_power, full.budgets))} FLOPs."
            ),
            **shared,
        )
        yield Draft(
            key=f"laws-{task}",
            claim=f"Structures of ω = 0 and ψ = 1 have dense's scaling exponent ({task})",
            published='"often negligible impact on the scaling laws"',
            source=f"{S}, README of its code",
            effect="exponent of the loss over compute, against dense's",
            says=Claim("within", EXPONENT_MARGIN),
            found=exponent_differences(study),
            unit="share",
            control=_extreme_trends(study),
            **shared,
        )


def _nu_text(sample: Sample, rung: int) -> str:
    if len({row["ν"] for row in sample.exponents}) < 2 or len(sample.names) < 3:
        return "too few values of ν for a slope"
    return f"a slope of {_signed(nu_slope(sample, rung))}"


def _edges(study: StudyReport) -> str:
    """At how many structures the best width is the narrowest or the widest, at the highest common rung."""
    rung = max(study.common_rungs)
    edges = [m.edge for item in study.exponents for m in study.surfaces[item].minima if m.level.rung == rung]
    return f"{edges.count('low')} are best at the narrowest width and {edges.count('high')} at the widest"


def _grid_flaw(study: StudyReport) -> str:
    rung = max(study.common_rungs)
    edges = [m.edge for item in study.exponents for m in study.surfaces[item].minima if m.level.rung == rung]
    share = sum(edge is not None for edge in edges) / len(edges)
    if share <= MOST_AT_ENDS:
        return ""
    return f"the best width of {share:.0%} of the structures is an end of the grid, so losses there are too large"


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


def _signed(found: Estimate) -> str:
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]".replace("-", "−")


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
                **correlations(sample, name, rung),
                "slope": found.value,
                "slope_low": found.low,
                "slope_high": found.high,
                "slope_p": found.p_zero,
                "without_dense": without.value,
                "without_dense_low": without.low,
                "without_dense_high": without.high,
            }


# Experts: claims of Potapczynski et al. 2024.

BTT8, BTT16 = "btt-moe:experts=8,top=2", "btt-moe:experts=16,top=2"
FFN8, FFN16 = "ffn-moe:experts=8,top=2", "ffn-moe:experts=16,top=2"
LOW8, DENSE8 = "low-rank-moe:experts=8,top=2", "dense-moe:experts=8,top=2"


def contrast(study: StudyReport, first: LayerSpec, second: LayerSpec) -> StudentEstimate | None:
    """Log loss of one structure minus another's at the highest common rung, each at its best width; None without one."""
    if not {first, second} <= set(study.surfaces) or first == second:
        return None
    rung = max(study.common_rungs)
    parts, value = [], 0.0
    for item, sign in ((first, 1.0), (second, -1.0)):
        fitted = study.surfaces[item]
        at = fitted.at(rung) or 0
        weights = np.zeros((1, len(fitted.minima)))
        weights[0, at] = sign
        parts.append(fitted.part(item, weights))
        value += sign * fitted.minima[at].log_loss
    variance = noise_of(levels_of(study.observations)).of_contrasts(*parts)
    if variance is None:
        return None
    seeds = min(entry.seeds for entry in study.ranking.entries if entry.structure in (first, second))
    degrees = float(variance[1][0])
    return StudentEstimate(
        value,
        math.sqrt(variance[0][0]),
        degrees,
        f"{seeds} seeds a width, noise pooled over the study, t with {degrees:.0f} degrees of freedom",
    )


def expert_rows(store: Store) -> Iterator[Draft]:
    """Experts in every layer against standard ones, dense, and themselves without experts."""
    names = [name for name in ("experts", "experts-small", "moe") if store.ranked(name) is not None]
    if "experts" in names:  # it has all that the others have, on more compute
        names = ["experts"]
    pairs = (
        ("btt-over-standard", "BTT experts in every layer beat the standard mixture", BTT8, FFN8),
        ("btt-over-dense", "BTT experts in every layer beat dense", BTT8, "dense"),
        ("standard-over-dense", "The standard mixture beats dense", FFN8, "dense"),
        ("btt-over-low-rank", "BTT experts beat low-rank experts", BTT8, LOW8),
        ("btt-over-dense-experts", "BTT experts beat dense experts", BTT8, DENSE8),
        ("more-btt", "16 BTT experts beat 8", BTT16, BTT8),
        ("more-standard", "16 experts of the standard mixture beat 8", FFN16, FFN8),
    )
    for name in names:
        study = store.ranked(name)
        assert study is not None
        for key, claim, one, other in pairs:
            first, second = parse_layer(one), parse_layer(other)
            found = contrast(study, first, second)
            if found is None:
                continue
            yield Draft(
                key=f"{key}-{name}",
                claim=claim,
                published="16 experts are better than 8"
                if key.startswith("more")
                else '"a substantial compute-efficiency gain"',
                source=f"{S}, section on experts" if key.startswith("more") else f"{S}, abstract",
                effect=f"loss of {_named(one)} against {_named(other)} at equal training FLOPs",
                says=Claim("below"),
                found=found,
                unit="percent",
                study=name,
                scale=_ranked_scale(study),
                control=_without_experts(study, first, second),
                flaw=_width_flaw(study, first, second),
                would_tell="`einsearch rank specs/paper/experts.yaml"
                + (" --budget 1e15`" if name == "experts" else "`"),
            )


def _width_flaw(study: StudyReport, *structures: LayerSpec) -> str:
    """Structures whose best width is the narrowest or the widest that was tried, at the highest common rung."""
    rung = max(study.common_rungs)
    ends = {
        item: minimum
        for item in structures
        for minimum in study.surfaces[item].minima
        if minimum.level.rung == rung and minimum.edge is not None
    }
    if not ends:
        return ""
    named = " and ".join(f"{short_name(item)} ({minimum.width:.0f})" for item, minimum in ends.items())
    return f"the best width of {named} is an end of the grid, so the loss there is too large by an unknown amount"


def _named(text: str) -> str:
    kind, _, numbers = text.partition(":experts=")
    return kind if not numbers else f"{kind} with {numbers.partition(',')[0]} experts"


def _without_experts(study: StudyReport, structure: LayerSpec, other: LayerSpec) -> str:
    """How the experts' structure does without experts; where that is the rival, the other costs of experts."""
    plain = expert_of(structure)
    found = contrast(study, structure, plain)
    if found is not None and plain != other:
        return f"Against the structure of its experts without experts its loss is {_percent(found)}."
    entry = study.ranking.entry_of(structure)
    if entry is None or entry.total_gain is None or entry.seconds_gain is None:
        return "The structure without experts was not trained." if found is None else "The rival is its control."
    return (
        f"Its gain over dense is {entry.total_gain:.2f} with the head counted and {entry.seconds_gain:.2f} in seconds."
    )


# Feed-forward networks: claims of Wei et al. 2024.


def _sized(runs: TrainedRuns) -> tuple[list[str], list[int]]:
    """Structures but dense, and sizes, of runs that are called STRUCTURE-SIZE."""
    split = [name.rpartition("-")[::2] for name in runs.names]
    kinds = [kind for kind in dict.fromkeys(kind for kind, _ in split) if kind != "dense"]
    return kinds, sorted({int(size) for _, size in split})


def _trained_scale(runs: TrainedRuns, used: Sequence[str]) -> str:
    chosen = [run for mine in runs.seeds.values() for name, run in mine.items() if name in used]

    def span(name: str, shown: Callable[[float], str]) -> str:
        values = sorted(float(run[name]) for run in chosen)
        return (
            shown(values[0]) if shown(values[0]) == shown(values[-1]) else f"{shown(values[0])} to {shown(values[-1])}"
        )

    return (
        f"text: {span('params', lambda x: f'{x:,.0f}')} parameters, {span('flops', _power)} training FLOPs, "
        f"{span('tokens', _power)} tokens"
    )


def feed_forward_rows(store: Store) -> Iterator[Draft]:
    """Are the curves of structured feed-forward networks steeper?"""
    runs = store.trained("ffn")
    if runs is None:
        yield from _steeper_on_the_teacher(store)
        return
    kinds, sizes = _sized(runs)
    by_seed: list[list[float]] = []
    equal: list[list[float]] = []
    used: set[str] = set()
    whole = [
        size
        for size in sizes
        if any(all(f"{kind}-{size}" in mine for kind in ("dense", *kinds)) for mine in runs.seeds.values())
    ]
    for mine in runs.seeds.values():
        if len(whole) < 2 or not all(f"{kind}-{size}" in mine for kind in ("dense", *kinds) for size in whole):
            continue
        used |= {f"{kind}-{size}" for kind in ("dense", *kinds) for size in whole}
        lines = {kind: _line(mine, kind, whole) for kind in ("dense", *kinds)}
        by_seed.append([lines[kind] - lines["dense"] for kind in kinds])
        equal.append([_at_equal_flops(mine, kind, whole) for kind in kinds] if len(whole) > 2 else [])
    found = of_units(by_seed, "structures")
    if found is None:
        yield from _steeper_on_the_teacher(store)
        return
    at_equal = of_units(equal, "structures")
    yield Draft(
        key="steeper",
        claim="Structured feed-forward networks have steeper curves in training FLOPs",
        published="steeper curves for all three structures",
        source=f"{F}, abstract",
        effect=(
            f"slope of log loss over log FLOPs minus dense's, mean of {len(kinds)} structures, "
            f"widths {', '.join(map(str, whole))}"
        ),
        says=Claim("below"),
        found=found,
        study="ffn",
        scale=_trained_scale(runs, sorted(used)),
        control=(
            "Cheaper networks stand to the left, where every curve is steeper. "
            + (
                "Three sizes are needed to read slopes at equal FLOPs."
                if at_equal is None
                else f"Read at equal FLOPs off dense's curve, the difference of slopes is {_signed_small(at_equal)}."
            )
            + _rates_control(store, runs, kinds)
        ),
        would_tell="`einsearch train specs/paper/ffn.yaml` with widths of 768 to 2048",
    )


def _rates_control(store: Store, runs: TrainedRuns, kinds: Sequence[str]) -> str:
    """How much the best rate of `ffn-rates` would have gained over the rates of these runs, at one size."""
    tuned = store.trained("ffn-rates")
    if tuned is None:
        return ""
    gains: dict[str, list[float]] = {"dense": [], "structured": []}
    for seed, mine in tuned.seeds.items():
        for kind in ("dense", *kinds):
            losses = [run["loss"] for name, run in mine.items() if re.fullmatch(rf"{kind}-[\d.]+e-\d", name)]
            own = runs.seeds.get(seed, {}).get(f"{kind}-48")
            if losses and own is not None:
                gains["dense" if kind == "dense" else "structured"].append(
                    math.log(min(*losses, own["loss"]) / own["loss"])
                )
    if not all(gains.values()):
        return ""
    dense, others = (f"{-math.expm1(statistics.fmean(values)):.1%}" for values in gains.values())
    return (
        f" Rates were tuned at width 48 (`ffn-rates`, one seed): the best that was tried there is better by {dense} for dense "
        f"and by {others} for structures."
    )


def _signed_small(found: Estimate) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]".replace("-", "−")


def _points(mine: Mapping[str, Mapping[str, Any]], kind: str, sizes: Sequence[int]) -> tuple[Any, Any]:
    chosen = [mine[f"{kind}-{size}"] for size in sizes]
    return np.log([run["flops"] for run in chosen]), np.log([run["loss"] for run in chosen])


def _line(mine: Mapping[str, Mapping[str, Any]], kind: str, sizes: Sequence[int]) -> float:
    x, y = _points(mine, kind, sizes)
    return float(np.polyfit(x - x.mean(), y, 1)[0])


def _at_equal_flops(mine: Mapping[str, Mapping[str, Any]], kind: str, sizes: Sequence[int]) -> float:
    """Slope of the difference to dense's curve, which is a parabola in log FLOPs."""
    x, y = _points(mine, "dense", sizes)
    curve = np.polyfit(x - x.mean(), y, 2)
    own, losses = _points(mine, kind, sizes)
    apart = losses - np.polyval(curve, own - x.mean())
    return float(np.polyfit(own - own.mean(), apart, 1)[0])


def _steeper_on_the_teacher(store: Store) -> Iterator[Draft]:
    """Before the study of feed-forward networks has finished: trends of gains in the committed studies of many seeds."""
    kinds = ("low-rank", "block-shuffle:blocks=4", "block-dense:blocks=4,r=16")
    trends = []
    studies = [study for name in ("seeds/first", "seeds/second") if (study := store.ranked(name)) is not None]
    for study in studies:
        entries = {entry.structure: entry for entry in study.ranking.entries}
        mine = [entries[parse_layer(kind)].trend for kind in kinds]
        trends.append([math.log(found.per_decade) for found in mine if found is not None and found.per_decade])
    found = of_units(trends, "structures")
    if found is None:
        return
    yield Draft(
        key="steeper",
        claim="Structured feed-forward networks have steeper curves in training FLOPs",
        published="steeper curves for all three structures",
        source=f"{F}, abstract",
        effect="factor by which the gain over dense grows for ten times the compute, mean of three structures",
        unit="factor",
        says=Claim("above"),
        found=found,
        study="seeds",
        scale=_ranked_scale(studies[0], "all layers, not feed-forward networks alone"),
        control="Two sets of seeds that share no run.",
        would_tell="`einsearch train specs/paper/ffn.yaml`",
    )


def overtraining_rows(store: Store) -> Iterator[Draft]:
    """Does a structured network gain on dense when both are trained for longer?"""
    runs = store.trained("overtraining")
    if runs is None:
        yield from _overtraining_on_the_teacher(store)
        return
    kinds, levels = _sized(runs)
    by_seed, far, used = [], [], set[str]()
    for mine in runs.seeds.values():
        there = [level for level in levels if all(f"{kind}-{level}" in mine for kind in ("dense", *kinds))]
        if len(there) < 3:
            continue
        used |= {f"{kind}-{level}" for kind in ("dense", *kinds) for level in there}
        x, y = _points(mine, "dense", there)
        slopes, ends = [], []
        for kind in kinds:
            own, losses = _points(mine, kind, there)
            inside = own >= x[0]
            apart = losses - np.interp(own, x, y)
            slopes.append(float(np.polyfit(own[inside] / math.log(10), apart[inside], 1)[0]))
            ends.append(float(apart[-1]))
        by_seed.append(slopes)
        far.append(ends)
    found, ends_found = of_units(by_seed, "structures"), of_units(far, "structures")
    if found is None or ends_found is None:
        yield from _overtraining_on_the_teacher(store)
        return
    most = max(level for level in levels if f"dense-{level}" in used)
    yield Draft(
        key="overtraining",
        claim="Structured networks gain on dense by overtraining",
        published="a favourable trend in the overtraining regime",
        source=f"{F}, abstract",
        effect="change of the loss against dense at equal training FLOPs, for ten times the tokens",
        says=Claim("below"),
        found=found,
        unit="percent",
        study="overtraining",
        scale=_trained_scale(runs, sorted(used)),
        control=(
            f"At {most} tokens per parameter of dense the loss against dense at equal FLOPs is {_percent(ends_found)}: there a "
            "smaller network would run out of room."
        ),
        would_tell="`einsearch train specs/paper/overtraining.yaml` with a width of 768",
    )


def _overtraining_on_the_teacher(store: Store) -> Iterator[Draft]:
    """Before the study of overtraining: low-rank and dense networks of one width on more and more tokens of the teacher."""
    study = store.ranked("taxonomy-teacher")
    if study is None or len(study.common_rungs) < 2:
        return
    dense, kinds = parse_layer("dense"), [parse_layer(text) for text in ("low-rank", "low-rank:r=d^3/4")]
    width = min(run.trial.width for run in study.results)
    chosen = [run for run in study.results if run.trial.width == width and run.trial.rung in study.common_rungs]
    losses = {(run.trial.structure, run.trial.rung, run.trial.seed): math.log(run.loss) for run in chosen if run.loss}
    decades = np.log10(list(study.common_rungs.values()))
    by_seed, last = [], []
    for seed in sorted({run.trial.seed for run in chosen}):
        apart = [
            [
                losses.get((kind, rung, seed), math.nan) - losses.get((dense, rung, seed), math.nan)
                for rung in study.common_rungs
            ]
            for kind in kinds
        ]
        if np.isfinite(apart).all():
            by_seed.append([float(np.polyfit(decades - decades.mean(), row, 1)[0]) for row in apart])
            last.append([row[-1] for row in apart])
    found, ends = of_units(by_seed, "structures"), of_units(last, "structures")
    if found is None or ends is None:
        return
    spent = sorted(run.tokens / run.params for run in chosen if run.trial.structure == dense and run.tokens is not None)
    yield Draft(
        key="overtraining",
        claim="Structured networks gain on dense by overtraining",
        published="a favourable trend in the overtraining regime",
        source=f"{F}, abstract",
        effect=f"change of the loss of low-rank against dense at equal training FLOPs, width {width}, for ten times the FLOPs",
        says=Claim("below"),
        found=found,
        unit="percent",
        study="overtraining on the teacher",
        scale=f"teacher: {spent[0]:.0f} to {spent[-1]:.0f} tokens for every parameter of dense, all layers",
        control=f"At the last rung the loss of low-rank against dense is {_percent(ends)}, all of width {width}.",
        would_tell="`einsearch train specs/paper/overtraining.yaml`",
    )


def _percent(found: Estimate) -> str:
    one, low, high = (f"{math.expm1(x):+.1%}".replace("-", "−") for x in (found.value, found.low, found.high))
    return f"{one} [{low}, {high}]"


def wide_rows(store: Store) -> Iterator[Draft]:
    """Wide and structured against dense of the same depth and width."""
    runs = store.trained("wide")
    if runs is None:
        return
    sizes = sorted({int(name.rpartition("-")[2]) for name in runs.names})
    by_seed, alone, flops, used = [], [], [], set[str]()
    for mine in runs.seeds.values():
        there = [size for size in sizes if all(f"{kind}-{size}" in mine for kind in ("wide", "dense", "dense-kv"))]
        used |= {f"{kind}-{size}" for size in there for kind in ("wide", "dense", "dense-kv")}
        by_seed.append([_apart(mine, f"wide-{size}", f"dense-{size}") for size in there])
        alone.append([_apart(mine, f"wide-{size}", f"dense-kv-{size}") for size in there])
        flops += [mine[f"wide-{size}"]["flops"] / mine[f"dense-{size}"]["flops"] for size in there]
    found, grouped = of_units(by_seed, "sizes"), of_units(alone, "sizes")
    if found is None or grouped is None:
        return
    share = statistics.fmean(flops)
    fewer = found.value > 0 and share < NEARLY_EQUAL
    yield Draft(
        key="wide",
        claim="Wide and structured networks beat dense ones",
        published="lower perplexity, and 8% and 17% more tokens/s at equal perplexity",
        source=f"{F}, section on wide and structured networks",
        effect=f"loss against dense at {share:.0%} of its training FLOPs",
        flaw=f"it has {share:.0%} of dense's training FLOPs, and a larger loss with fewer FLOPs refutes nothing"
        if fewer
        else "",
        says=Claim("below"),
        found=found,
        unit="percent",
        study="wide",
        scale=_trained_scale(runs, sorted(used)),
        control=f"Against dense with the same grouped heads for keys and values it is {_percent(grouped)}.",
        would_tell="`einsearch train specs/paper/wide.yaml` with widths of 768 to 1536",
    )


def _apart(mine: Mapping[str, Mapping[str, Any]], one: str, other: str) -> float:
    return math.log(mine[one]["loss"] / mine[other]["loss"])


def guided_rows(store: Store) -> Iterator[Draft]:
    """Guides against none, on equal FLOPs and on equal tokens."""
    runs = store.trained("guided")
    if runs is None:
        return
    guided = [run for run in runs.names if f"{run}-equal-flops" in runs.names]
    used = {f"{run}{kind}" for run in guided for kind in ("", "-equal-flops", "-equal-tokens")} | {"dense"}
    complete = [mine for mine in runs.seeds.values() if used <= set(mine)]

    def of(one: str, other: str) -> StudentEstimate | None:
        return of_units(
            [
                [_apart(mine, run + one, "dense" if other == "dense" else run + other) for run in guided]
                for mine in complete
            ],
            "structures",
        )

    at_flops, at_tokens = of("", "-equal-flops"), of("", "-equal-tokens")
    to_dense, plain = of("", "dense"), of("-equal-flops", "dense")
    if at_flops is None or at_tokens is None or to_dense is None or plain is None:
        return
    shared: dict[str, Any] = {
        "source": f"{F}, section on self-guided training",
        "says": Claim("below"),
        "unit": "percent",
        "study": "guided",
        "scale": _trained_scale(runs, sorted(used)),
        "would_tell": "`einsearch train specs/paper/guided.yaml` with a width of 768",
    }
    yield Draft(
        key="guided-flops",
        claim="Self-guided training gains on the same network without guides at equal training FLOPs",
        published="at the FLOPs of dense +0.4 perplexity over dense with 32% of the parameters, where it was +1.1",
        effect="loss with guides against without, on as many FLOPs",
        found=at_flops,
        control=(
            f"At the training FLOPs of dense the loss against dense is {_percent(to_dense)} with guides and "
            f"{_percent(plain)} without: the second figure is the one that the paper does not have."
        ),
        **shared,
    )
    yield Draft(
        key="guided-tokens",
        claim="Self-guided training gains on the same network without guides at equal tokens",
        published="lower perplexity in all sizes",
        effect="loss with guides against without, on as many tokens",
        found=at_tokens,
        control="The guided run repeats tokens at its end, and has the guides' FLOPs on top.",
        **shared,
    )


# Rates and speeds.


def rate_rows(store: Store) -> Iterator[Draft]:
    """A rate for each factor against simpler rules, carried from the narrowest width to the widest."""
    document = store.timings("rate_transfer.json")
    if document is None:
        return
    runs = document["runs"]
    widths = sorted({run["width"] for run in runs})
    losses: dict[tuple[str, str, int, float, int], float] = {
        (run["rule"], run["structure"], run["width"], run["rate"], run["seed"]): run["loss"] for run in runs
    }
    structures = [name for name in dict.fromkeys(run["structure"] for run in runs) if name != "dense"]
    seeds = sorted({run["seed"] for run in runs})
    rates: list[float] = sorted({run["rate"] for run in runs})
    narrow, wide = widths[0], widths[-1]
    rules = sorted({run["rule"] for run in runs})
    complete = all(
        (rule, name, wide, rate, seed) in losses
        for rule in rules
        for name in structures
        for rate in rates
        for seed in seeds
    )
    if not complete:
        return

    def best(rule: str, name: str, width: int) -> float:
        return min(rates, key=lambda rate: statistics.fmean(losses[rule, name, width, rate, seed] for seed in seeds))

    def compared(other: str, chosen_at: int) -> StudentEstimate:
        """Log loss at the widest under the other rule minus that under the project's, rates chosen at one width."""
        values = []
        for seed in seeds:
            apart = [
                math.log(losses[other, name, wide, best(other, name, chosen_at), seed])
                - math.log(losses["factors", name, wide, best("factors", name, chosen_at), seed])
                for name in structures
            ]
            values.append(statistics.fmean(apart))
        return of_replicates(values, "seeds")

    scale = (
        f"teacher: widths {narrow} to {wide}, {document['steps']:,} steps, {len(structures)} structures, "
        "rates a factor of 2 apart"
    )
    for other, said in (
        ("one", "one rate for all parameters"),
        ("layers", "the rate of a dense layer for all factors"),
    ):
        tuned = compared(other, wide)
        yield Draft(
            key=f"rates-{other}",
            claim=f"A rate for each factor (muP) beats {said}",
            published="structure-aware rates are crucial for performance",
            source="Qiu et al. 2024, arXiv 2406.06248",
            effect=f"loss under {said} against muP, rates carried from width {narrow} to {wide}",
            says=Claim("above"),
            found=compared(other, narrow),
            unit="percent",
            study="rate_transfer",
            scale=scale,
            control=f"With the rate tuned at width {wide} itself the difference is {_percent(tuned)}.",
            would_tell="`python -m benchmarks.rate_transfer --widths 64 256 1024 4096 --seeds 5`",
        )


def speed_rows(store: Store) -> Iterator[Draft]:
    """Layers on many tokens, and merged layers on one."""
    for file, machine, tokens in (("layers.json", "CPU", 4096), ("layers-h200.json", "H200", 16384)):
        document = store.timings(file)
        if document is None:
            continue
        width = max(
            row["width"] for row in document["measurements"] if (row["mode"], row["tokens"]) == ("forward", tokens)
        )
        for kinds, share, published in (
            (("block-dense:r=1/4*d",), "31%", "2.6 times as fast at 32% of the parameters"),
            (("low-rank:r=1/4*d", "block-shuffle"), "50%", "1.4 times as fast at 63%"),
        ):
            rows = [
                row
                for row in document["measurements"]
                if row["name"] in kinds and (row["mode"], row["width"], row["tokens"]) == ("forward", width, tokens)
            ]
            yield Draft(
                key=f"speed-{share.rstrip('%')}-{machine}",
                claim=f"Layers with {share} of the parameters save time on many tokens ({machine})",
                published=f"{published}, feed-forward networks of width 5120 on an A100",
                source=f"{F}, section on efficiency",
                effect=f"speed against dense, one layer of width {width} on {tokens:,} tokens",
                says=Claim("above"),
                found=_of_timings(rows),
                unit="factor",
                study=f"layers on {machine}",
                scale=f"{document['machine']['device']}, {document['settings']['dtype']}, " + " and ".join(kinds),
                control=_other_widths(document, kinds, tokens),
                would_tell="`einsearch bench --widths 5120` on an A100",
            )
    yield from _merged_rows(store)


def _of_timings(rows: Sequence[Mapping[str, Any]]) -> StudentEstimate:
    """Geometric mean of speeds, from medians and quartiles over rounds.

    A median of n rounds has the standard error 1.2533 σ/√n, and σ is the distance of the quartiles over 1.349.
    """
    logs = [-math.log(row["vs_dense"]["median"]) for row in rows]
    errors = [
        1.2533 * math.log(row["vs_dense"]["high"] / row["vs_dense"]["low"]) / 1.349 / math.sqrt(row["rounds"])
        for row in rows
    ]
    rounds = sum(row["rounds"] for row in rows)
    error = math.sqrt(sum(error**2 for error in errors)) / len(rows)
    return StudentEstimate(
        statistics.fmean(logs), error, rounds - len(rows), f"{rounds} interleaved rounds of one session, from quartiles"
    )


def _other_widths(document: Mapping[str, Any], kinds: Sequence[str], tokens: int) -> str:
    speeds: dict[int, list[float]] = defaultdict(list)
    for row in document["measurements"]:
        if row["name"] in kinds and (row["mode"], row["tokens"]) == ("forward", tokens):
            speeds[row["width"]].append(row["vs_dense"]["median"])
    found = ", ".join(
        f"{1 / statistics.geometric_mean(values):.2f} at {width}" for width, values in sorted(speeds.items())
    )
    return f"The same by width: {found}. Sessions differ by more than the interval of one."


MERGED = ("low-rank:r=d/4", "block-shuffle:blocks=4", "block-dense:blocks=4,r=d/4")


def _merged_rows(store: Store) -> Iterator[Draft]:
    document = store.timings("routes.json")
    if document is None:
        return
    rows = [row for row in document["merged"] if row["structure"] in MERGED]
    width = 2048
    ratios: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    for row in rows:
        times = row["seconds"]
        merged = next(seconds for route, seconds in times.items() if route.startswith("x("))
        ratios[row["structure"], row["width"]][row["tokens"]] = math.log(
            min(seconds for route, seconds in times.items() if not route.startswith("x(")) / merged
        )
    even: dict[int, list[int]] = {}
    for (_, at), mine in ratios.items():
        wins = [tokens for tokens in sorted(mine) if mine[tokens] > 0]
        even.setdefault(at, []).append(max(wins) if wins else 0)
    said = "; ".join(f"width {at}: {', '.join(map(str, tokens))}" for at, tokens in sorted(even.items()))
    yield Draft(
        key="pre-merge",
        claim="A merged matrix decodes one token faster than the factors (CPU)",
        published="merged below about 1,024 tokens at width 2048, 512 at 3072, 256 at 5120",
        source=f"{F}, figure on pre-merge, A100",
        effect=f"time of the factors over that of the merged matrix, one token, width {width}, three structures",
        says=Claim("above"),
        found=of_replicates([ratios[name, width][1] for name in MERGED], "structures"),
        unit="factor",
        study="routes",
        scale=f"{document['machine']['device']}, one thread, float32",
        control=f"Largest number of tokens at which merging is faster ({', '.join(MERGED)}; 0: never): {said}.",
        would_tell="`python benchmarks/routes.py` on an A100",
    )


def document_of(rows: Sequence[Row], rungs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of claims.json."""
    return {
        "margins": {"ν": NU_MARGIN, "exponents": EXPONENT_MARGIN},
        "rows": [asdict(row) for row in rows],
        "exponents": list(rungs),
    }
