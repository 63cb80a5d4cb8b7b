"""Experts in every layer: claims of Potapczynski et al. 2024."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.claims.inference import Claim, StudentEstimate
from benchmarks.claims.rows import SEARCHING, Draft, Kind, percent, published_size, ranked_scale
from benchmarks.claims.studies import Store
from einsearch_cli.reports import StudyReport
from einsearch_cli.scaling import levels_of
from einsearch_cli.scaling.noise import noise_of
from einsearch_cli.structures import LayerSpec, expert_of, parse_layer, short_name

BTT8, BTT16 = "btt-moe:experts=8,top=2", "btt-moe:experts=16,top=2"
FFN8, FFN16 = "ffn-moe:experts=8,top=2", "ffn-moe:experts=16,top=2"
LOW8, DENSE8 = "low-rank-moe:experts=8,top=2", "dense-moe:experts=8,top=2"

_GAIN = '"a substantial compute-efficiency gain over dense layers and standard MoE"'
COMPARISONS: tuple[tuple[str, str, Kind, str, str, str, str], ...] = (
    (
        "btt-over-standard",
        "experts",
        "claim",
        "BTT experts in every layer beat the standard mixture",
        _GAIN,
        BTT8,
        FFN8,
    ),
    ("btt-over-dense", "experts", "claim", "BTT experts in every layer beat dense", _GAIN, BTT8, "dense"),
    (
        *("standard-over-dense", "experts", "question", "The standard mixture beats dense"),
        *(f"of BTT experts the paper says {_GAIN}; the two are not compared with each other", FFN8, "dense"),
    ),
    (
        *("btt-over-low-rank", "kinds", "claim", "BTT experts beat low-rank experts"),
        *("low-rank experts in every layer are a baseline of BTT experts", BTT8, LOW8),
    ),
    (
        *("btt-over-dense-experts", "kinds", "claim", "BTT experts beat dense experts"),
        *("dense experts in every layer are a baseline of BTT experts", BTT8, DENSE8),
    ),
    ("more-btt", "more", "claim", "16 BTT experts beat 8", "16 experts are better than 8", BTT16, BTT8),
    (
        *("more-standard", "more", "claim", "16 experts of the standard mixture beat 8"),
        *("16 experts are better than 8", FFN16, FFN8),
    ),
)
"""Comparisons: key, section, kind, claim, what the paper says, and the two structures."""


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
    for name in names:
        study = store.ranked(name)
        assert study is not None
        for key, topic, kind, claim, published, one, other in COMPARISONS:
            first, second = parse_layer(one), parse_layer(other)
            found = contrast(study, first, second)
            if found is None:
                continue
            yield Draft(
                key=f"{key}-{name}",
                topic=topic,
                kind=kind,
                claim=claim,
                published=published,
                source=f"{SEARCHING}, {'abstract' if topic == 'experts' else 'section on experts'}",
                effect=f"loss of {_named(one)} against {_named(other)} at equal training FLOPs",
                says=Claim("below"),
                found=found,
                unit="percent",
                study=name,
                **ranked_scale(study),
                control=_without_experts(study, first, second),
                flaw=_width_flaw(study, first, second),
                would_tell=published_size("rank", "experts"),
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
        return f"Against the structure of its experts without experts its loss is {percent(found)}."
    entry = study.ranking.entry_of(structure)
    if entry is None or entry.total_gain is None or entry.seconds_gain is None:
        return "The structure without experts was not trained." if found is None else "The rival is its control."
    return (
        f"Its gain over dense is {entry.total_gain:.2f} with the head counted and {entry.seconds_gain:.2f} in seconds."
    )
