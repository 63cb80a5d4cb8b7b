"""The ranking of structures from their finished runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

import numpy as np

from einsearch_cli.scaling.comparisons import (
    Comparison,
    Estimate,
    Gain,
    Price,
    Study,
    compare,
)
from einsearch_cli.scaling.noise import t_quantile
from einsearch_cli.scaling.observations import Observation
from einsearch_cli.scaling.outlook import Outlook
from einsearch_cli.scaling.ranking import Ranking, RankingEntry
from einsearch_cli.scaling.trend import scaled
from einsearch_cli.structures import LayerSpec, layer_family
from einsearch_cli.training.proxy.trial import TrialResult


def is_finished(result: TrialResult) -> bool:
    """Whether a run has a loss that can be ranked: finite and above 0."""
    return result.status == "ok" and result.loss is not None and math.isfinite(result.loss) and result.loss > 0


def observations_of(
    results: Iterable[TrialResult], step_seconds: Mapping[tuple[LayerSpec, int], float] | None = None
) -> list[Observation]:
    """The finished runs as plain numbers.

    `step_seconds` maps (structure, width) to the time of a training step, from a race of all of them on an idle
    machine.
    """
    found = []
    for result in results:
        trial = result.trial
        if is_finished(result) and result.loss is not None:
            step_s = step_seconds.get((trial.structure, trial.width)) if step_seconds else None
            found.append(
                Observation(
                    structure=trial.structure,
                    rung=trial.rung,
                    width=trial.width,
                    seed=trial.seed,
                    loss=result.loss,
                    budget=trial.budget_flops,
                    compute=result.train_flops,
                    total=result.total_flops,
                    seconds=None if step_s is None else step_s * result.steps,
                    tokens=result.tokens,
                    params=result.params,
                    stage=trial.stage,
                )
            )
    return found


def rank_candidates(
    results: Sequence[TrialResult],
    yardstick: LayerSpec,
    *,
    step_seconds: Mapping[tuple[LayerSpec, int], float] | None = None,
    looks: Sequence[float] = (),
    at: float | None = None,
    laws: bool = True,
) -> Ranking:
    """Rank every structure of `results` by loss at equal training compute.

    Structures that reached a higher rung come before those stopped earlier, then the lower loss first. Structures
    without a finished run come last, with loss None. The yardstick is ranked like any other structure and is listed
    even without a run. Verdicts hold for all candidates together: if all are equal to the yardstick, 95% of studies
    call none better or worse. For `looks`, `at` and `laws`, see `compare`.

    >>> from einsearch_cli.structures import parse_layer
    >>> rank_candidates([], parse_layer("dense")).entries[0].verdict
    'failed'
    """
    runs: dict[LayerSpec, list[TrialResult]] = {yardstick: []}
    for result in results:
        runs.setdefault(result.trial.structure, []).append(result)
    study = compare(observations_of(results, step_seconds), yardstick, looks, at, laws)
    drafts = [_entry(structure, study, mine) for structure, mine in runs.items()]
    drafts.sort(key=lambda entry: (*_merit(entry), str(entry.structure)))
    pooled = study.noise.pooled
    return Ranking(
        yardstick,
        tuple(_numbered(drafts)),
        noise=None if pooled is None else math.sqrt(pooled.value),
        noise_degrees=None if pooled is None else pooled.degrees,
        own_noise=bool(study.noise.own),
        paired=study.noise.seed is not None,
    )


def _merit(entry: RankingEntry) -> tuple[bool, int, float]:
    """A key that sorts better structures first; equal keys are a tie."""
    if entry.loss is None or entry.rung is None:
        return True, 0, 0.0
    return False, -entry.rung, entry.loss


def _numbered(entries: Iterable[RankingEntry]) -> Iterable[RankingEntry]:
    previous: RankingEntry | None = None
    for position, entry in enumerate(entries, start=1):
        tied = previous is not None and _merit(previous) == _merit(entry)
        previous = replace(entry, rank=previous.rank if previous is not None and tied else position)
        yield previous


def _entry(structure: LayerSpec, study: Study, runs: Sequence[TrialResult]) -> RankingEntry:
    item = study.comparisons.get(structure, Comparison(structure))
    gains = {price: item.gains.get(price, Gain(reason="no finished run")) for price in get_args(Price)}
    gain, again = gains["flops"], item.confirmed
    outlook = study.outlooks.get(structure, Outlook(reason="no law was fitted"))
    finished = sum(map(is_finished, runs))
    return RankingEntry(
        structure=structure,
        family=layer_family(structure),
        rank=0,
        **_place(item, study),
        runs_finished=finished,
        runs_failed=len(runs) - finished,
        verdict=item.verdict,
        verdict_reason=item.reason,
        **_spread("difference", item.difference, adjusted=True),
        p_value=item.p_value,
        p_adjusted=item.p_adjusted,
        **_spread("compute_gain", gain.estimate, adjusted=True),
        compute_gain_loss=gain.at_loss,
        compute_gain_at_least=gain.at_least,
        compute_gain_at_most=gain.at_most,
        compute_gain_reason=gain.reason,
        **_spread("total_gain", gains["total"].estimate),
        **_spread("seconds_gain", gains["seconds"].estimate),
        reversed_in=tuple(price for price, other in gains.items() if _is_reversed(gain.estimate, other.estimate)),
        trend=item.trend,
        law=outlook.law,
        law_reason=outlook.reason,
        crossover=outlook.crossover,
        prediction=outlook.prediction,
        **_spread("confirmed_gain", again.gain.estimate if again else None),
        confirmed_difference=again.difference.value if again else None,
        confirmed_difference_low=again.difference.low_adjusted if again else None,
        confirmed_difference_high=again.difference.high_adjusted if again else None,
        confirmed_seeds=again.seeds if again else 0,
        confirmed_verdict=again.verdict if again else None,
    )


def _place(item: Comparison, study: Study) -> dict[str, Any]:
    """Loss, budget and best width at the highest rung."""
    names = "loss loss_low loss_high rung budget_flops best_width best_width_low best_width_high"
    names += " width width_edge width_reason curvature params"
    if item.surface is None:
        return dict.fromkeys(names.split()) | {"seeds": 0}
    minimum = item.surface.minima[-1]
    best, noise = minimum.best, study.noise.of(item.structure)
    last = np.zeros((1, len(item.surface.minima)))
    last[0, -1] = 1.0
    variance = study.noise.of_contrasts(item.surface.part(item.structure, last))
    half = width_half = None
    if noise is not None and variance is not None:
        half = t_quantile(float(variance[1][0])) * math.sqrt(variance[0][0])
        if minimum.width_error is not None:
            width_half = t_quantile(noise.degrees) * math.sqrt(noise.value) * minimum.width_error
    return {
        **_around("loss", minimum.log_loss, half),
        "rung": minimum.level.rung,
        "budget_flops": minimum.level.budget_flops,
        **_around("best_width", math.log(minimum.width), width_half),
        "width": best.width,
        "width_edge": minimum.edge,
        "width_reason": minimum.reason,
        "curvature": item.surface.curvature,
        "params": best.params,
        "seeds": len(best.runs),
    }


def _around(name: str, log_value: float, half: float | None) -> dict[str, float | None]:
    ends = (None, None) if half is None else (scaled(log_value, -half), scaled(log_value, half))
    return {name: math.exp(log_value), f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _spread(name: str, estimate: Estimate | None, adjusted: bool = False) -> dict[str, Any]:
    """The fields of an estimate."""
    values = asdict(estimate) if estimate is not None else {}
    plain = {name: values.get("value"), f"{name}_low": values.get("low"), f"{name}_high": values.get("high")}
    if not adjusted:
        return plain
    return plain | {f"{name}_{end}_adjusted": values.get(f"{end}_adjusted") for end in ("low", "high")}


def _is_reversed(flops: Estimate | None, other: Estimate | None) -> bool:
    ends = [end for item in (flops, other) if item is not None for end in (item.low, item.high)]
    if len(ends) < 4 or any(end is None for end in ends):
        return False
    low, high, other_low, other_high = (float(end) for end in ends if end is not None)
    return (low > 1 and other_high < 1) or (high < 1 and other_low > 1)
