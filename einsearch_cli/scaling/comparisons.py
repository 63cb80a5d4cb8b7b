"""Comparison of every structure of a study with the yardstick, from observations to verdicts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from einsearch_cli.scaling.gains import gain_tests, log_gain
from einsearch_cli.scaling.many import holm, step_down
from einsearch_cli.scaling.noise import CONFIDENCE, Noise, Variance, noise_of, t_quantile
from einsearch_cli.scaling.observations import Level, Observation, cell_of, levels_of
from einsearch_cli.scaling.outlook import Outlook, outlooks
from einsearch_cli.scaling.surface import Surface, surface
from einsearch_cli.scaling.trend import Trend, trend

Verdict = Literal["yardstick", "better", "worse", "cannot tell", "failed"]
Price = Literal["flops", "total", "seconds"]
PRICES: tuple[Price, ...] = ("flops", "total", "seconds")
"""Units of compute: training FLOPs without embeddings and head, FLOPs with them, and seconds on a machine."""

ONE_SEED = "no width was trained from two seeds, so how much losses vary is not known"
INCLUDES_ZERO = "the interval for all candidates together includes 0"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% intervals; unknown ends are None."""

    value: float
    low: float | None = None
    high: float | None = None
    """Interval for this structure alone."""
    low_adjusted: float | None = None
    high_adjusted: float | None = None
    """Interval at the level at which the candidate was judged among all."""


@dataclass(frozen=True, slots=True)
class Gain:
    """The yardstick's compute divided by the structure's for the same loss, or what is known about it."""

    estimate: Estimate | None = None
    at_loss: float | None = None
    at_least: float | None = None
    """Lower bound of the gain from the measured losses."""
    at_most: float | None = None
    """Upper bound of the gain from the measured losses."""
    reason: str | None = None
    """Why there is no estimate, or what limits it."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of one structure with the yardstick."""

    structure: Hashable
    surface: Surface | None = None
    """Minima of the loss over widths; None if no run finished."""
    difference: Estimate | None = None
    """Loss / yardstick's loss − 1 at the highest rung of the structure, each at its best width."""
    p_value: float | None = None
    p_adjusted: float | None = None
    """Probability that the most different of as many equal candidates differs by that much."""
    verdict: Verdict = "failed"
    reason: str | None = None
    """Why the verdict is 'cannot tell'."""
    gains: Mapping[Price, Gain] = field(default_factory=dict)
    trend: Trend | None = None
    confirmed: Confirmation | None = None


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The comparison repeated with new seeds, which had no part in choosing the structure."""

    difference: Estimate
    gain: Gain
    seeds: int
    verdict: Verdict


@dataclass(frozen=True)
class Study:
    """All comparisons of a study, and the noise by which they were judged."""

    comparisons: Mapping[Hashable, Comparison]
    noise: Noise
    levels: Mapping[Hashable, tuple[Level, ...]]
    outlooks: Mapping[Hashable, Outlook]
    """The scaling law of every structure."""


def compare(
    observations: Iterable[Observation],
    yardstick: Hashable,
    looks: Sequence[float] = (),
    at: float | None = None,
    laws: bool = True,
) -> Study:
    """Compare every structure with the yardstick.

    `looks` are the numbers of seeds per width at which the study checks whether it needs more. Each look is another
    chance of a false verdict, so the bounds are Pocock's (1977). `at` is a compute at which losses are predicted.
    `laws` says whether scaling laws are fitted, which takes seconds with dozens of candidates.
    """
    runs = list(observations)
    levels = levels_of(runs)
    noise = noise_of(levels)
    surfaces = {structure: surface(mine) for structure, mine in levels.items()}
    reference = surfaces.get(yardstick)
    found = _against(surfaces, reference, yardstick, noise, tuple(looks))
    _name_trends(found)
    if reference is not None:
        renewed = _renewed(runs, surfaces)
        confirmed = _against(
            {s: renewed[s][0] for s in renewed}, renewed.get(yardstick, (None, 0))[0], yardstick, noise, ()
        )
        for structure, item in confirmed.items():
            if item.difference is not None:
                gain = item.gains["flops"]
                again = Confirmation(item.difference, gain, renewed[structure][1], item.verdict)
                found[structure] = replace(found[structure], confirmed=again)
    return Study(found, noise, levels, outlooks(surfaces, noise, yardstick, at) if laws else {})


def _against(
    surfaces: Mapping[Hashable, Surface],
    reference: Surface | None,
    yardstick: Hashable,
    noise: Noise,
    looks: tuple[float, ...],
) -> dict[Hashable, Comparison]:
    differences = {
        structure: found
        for structure, own in surfaces.items()
        if structure != yardstick
        and reference is not None
        and (found := _difference(structure, own, yardstick, reference, noise)) is not None
    }
    known = {structure: found for structure, found in differences.items() if found.error is not None}
    degrees = min((found.degrees for found in known.values()), default=1.0)
    steps = step_down([found.t for found in known.values()], [found.share for found in known.values()], degrees, looks)
    judged = dict(zip(known, steps, strict=True))
    result = {}
    for structure, own in surfaces.items():
        if structure == yardstick:
            ones = {price: Gain(Estimate(1.0, 1.0, 1.0, 1.0, 1.0)) for price in PRICES}
            result[structure] = Comparison(structure, own, verdict="yardstick", gains=ones)
        elif reference is None or structure not in differences:
            why = "the yardstick has no finished run at the same rung"
            result[structure] = Comparison(
                structure, own, verdict="cannot tell", reason=why, gains=dict.fromkeys(PRICES, Gain(reason=why))
            )
        else:
            p_adjusted, critical = judged.get(structure, (None, None))
            item = _judged(structure, own, differences[structure], p_adjusted, critical)
            flops, total = (_gain(structure, own, yardstick, reference, price, noise, critical) for price in (0, 1))
            seconds = _in_seconds(structure, own, yardstick, reference, flops, noise)
            gains: dict[Price, Gain] = {"flops": flops, "total": total, "seconds": seconds}
            shape = trend(own, reference, noise, structure, yardstick)
            result[structure] = replace(item, gains=gains, trend=shape)
    return result


@dataclass(frozen=True, slots=True)
class _Difference:
    """Log loss of a structure minus that of the yardstick at one rung."""

    value: float
    share: float
    """Share of the variance that is due to the yardstick."""
    own_reason: str | None
    other_reason: str | None
    error: float | None = None
    """Standard error; None if the noise is not known."""
    degrees: float = 1.0

    @property
    def t(self) -> float:
        if self.error:
            return self.value / self.error
        return math.copysign(math.inf, self.value) if self.value else 0.0


def _difference(
    structure: Hashable, own: Surface, yardstick: Hashable, reference: Surface, noise: Noise
) -> _Difference | None:
    i = len(own.minima) - 1
    j = reference.at(own.minima[i].level.rung)
    if j is None:
        return None
    mine, theirs = own.minima[i], reference.minima[j]
    first, second = np.zeros((1, i + 1)), np.zeros((1, len(reference.minima)))
    first[0, i], second[0, j] = 1.0, -1.0
    one, other = own.part(structure, first), reference.part(yardstick, second)
    a, b = ((noise.of(part.structure) or Variance(1.0, 1.0)).value * float(part.units[0]) for part in (one, other))
    share = b / (a + b) if a + b > 0 else 0.5
    found = _Difference(mine.log_loss - theirs.log_loss, share, mine.reason, theirs.reason)
    variance = noise.of_contrasts(one, other)
    if variance is None:
        return found
    return replace(found, error=math.sqrt(variance[0][0]), degrees=float(variance[1][0]))


def _judged(
    structure: Hashable, own: Surface, found: _Difference, p_adjusted: float | None, critical: float | None
) -> Comparison:
    if found.error is None or critical is None:
        estimate = Estimate(math.expm1(found.value))
        return Comparison(structure, own, estimate, verdict="cannot tell", reason=ONE_SEED)
    from scipy.special import stdtr

    plain, adjusted = t_quantile(found.degrees) * found.error, critical * found.error
    ends = [math.expm1(found.value + side) for side in (-plain, plain, -adjusted, adjusted)]
    verdict: Verdict = "cannot tell"
    reason: str | None = INCLUDES_ZERO
    if abs(found.t) > critical:
        # A best width at an edge bounds the loss only from above, so it cannot make its structure worse than another
        # one.
        reason = found.own_reason if found.value > 0 else found.other_reason
        if reason is None:
            verdict = "worse" if found.value > 0 else "better"
        elif found.value < 0:
            reason = f"of the yardstick: {reason}"
    return Comparison(
        structure,
        own,
        Estimate(math.expm1(found.value), *ends),
        p_value=2 * float(stdtr(found.degrees, -abs(found.t))),
        p_adjusted=p_adjusted,
        verdict=verdict,
        reason=reason,
    )


def _gain(
    structure: Hashable,
    own: Surface,
    yardstick: Hashable,
    reference: Surface,
    price: int,
    noise: Noise,
    critical: float | None,
) -> Gain:
    """The gain in FLOPs (price 0) or total FLOPs (1)."""
    found = log_gain(own, reference, price)
    tests = gain_tests(own, reference, price)
    if found is None or tests is None:
        return _bound(own, reference, price)
    notes = [minimum.reason for minimum in (own.minima[-1], reference.minima[-1]) if minimum.reason]
    if len(own.minima) == 2 or len(reference.minima) == 2:
        notes.append("two rungs: compute at equal loss is read off straight lines, which shrink gains to 1")
    at_loss, n = math.exp(found.at_log_loss), len(own.minima)
    variance = noise.of_contrasts(
        own.part(structure, tests.weights[:, :n]), reference.part(yardstick, tests.weights[:, n:])
    )
    if variance is None or critical is None:
        return Gain(Estimate(math.exp(found.value)), at_loss, reason="; ".join([*notes, ONE_SEED]))
    losses, errors = np.concatenate([own.log_losses, reference.log_losses]), np.sqrt(variance[0])
    near = variance[1][int(np.argmin(np.abs(tests.gains - found.value)))]
    plain = tests.interval(losses, t_quantile(float(near)) * errors, found.value)
    adjusted = tests.interval(losses, critical * errors, found.value)
    if not all(map(math.isfinite, plain)):
        notes.append("the interval leaves the losses that both reach")
    ends = [math.exp(end) if math.isfinite(end) else None for end in (*plain, *adjusted)]
    return Gain(Estimate(math.exp(found.value), *ends), at_loss, reason="; ".join(notes) or None)


def _in_seconds(
    structure: Hashable, own: Surface, yardstick: Hashable, reference: Surface, flops: Gain, noise: Noise
) -> Gain:
    """The gain in FLOPs times the ratio of paces, each at its structure's best width for its compute.

    If a width is not known well, neither is its pace: log gain = log gain in FLOPs + log ratio of paces. The interval
    of the sum is made from the intervals of its terms (MOVER, Zou and Donner 2008), as the first one is not symmetric.
    """
    found = log_gain(own, reference)
    if found is None or flops.estimate is None:
        return flops
    mine, theirs = own.pace_at(found.log_compute), reference.pace_at(found.log_compute + found.value)
    if mine is None or theirs is None:
        return Gain(reason="seconds per step were not measured")
    flops_gain, low, high = flops.estimate.value, flops.estimate.low, flops.estimate.high
    value = flops_gain * math.exp(theirs.log_seconds - mine.log_seconds)
    one, other = noise.of(structure), noise.of(yardstick)
    if low is None or high is None or mine.error is None or theirs.error is None or one is None or other is None:
        why = "no interval in seconds without one in FLOPs and for both best widths"
        return Gain(Estimate(value), flops.at_loss, reason="; ".join(filter(None, [flops.reason, why])))
    error = math.sqrt(one.value * mine.error**2 + other.value * theirs.error**2)
    half = t_quantile(min(one.degrees, other.degrees)) * error
    down, up = math.hypot(math.log(flops_gain / low), half), math.hypot(math.log(high / flops_gain), half)
    return Gain(Estimate(value, value * math.exp(-down), value * math.exp(up)), flops.at_loss, reason=flops.reason)


def _bound(own: Surface, reference: Surface, price: int) -> Gain:
    mine, theirs = own.log_prices(price), reference.log_prices(price)
    if mine is None or theirs is None:
        return Gain(reason="the compute of the rungs does not grow")
    if len(own.minima) == 1 or len(reference.minima) == 1:
        return Gain(reason="one rung: a gain needs losses at two budgets")
    if own.log_losses.max() < reference.log_losses.min():
        why = "already better with its smallest budget than the yardstick with its largest"
        return Gain(at_least=math.exp(theirs[-1] - mine[0]), reason=why)
    if own.log_losses.min() > reference.log_losses.max():
        why = "the yardstick is already better with its smallest budget"
        return Gain(at_most=math.exp(theirs[0] - mine[-1]), reason=why)
    return Gain(reason="the loss does not fall with compute")


def _name_trends(found: dict[Hashable, Comparison]) -> None:
    """Give each trend its word, by p values adjusted for the number of trends (Holm 1979)."""
    trends = {s: item.trend for s, item in found.items() if item.trend is not None and item.trend.p_value is not None}
    adjusted = holm([shape.p_value or 0.0 for shape in trends.values()])
    for (structure, shape), p in zip(trends.items(), adjusted, strict=True):
        if p < 1 - CONFIDENCE and shape.per_decade is not None:
            named = replace(shape, word="rising" if shape.per_decade > 1 else "falling")
            found[structure] = replace(found[structure], trend=named)


def confirmed_surface(runs: Sequence[Observation], levels: Sequence[Level]) -> Surface | None:
    """Loss over width on the last rung by a structure's runs of the confirmation alone; None without such runs.

    `levels` are those of the structure in the ranking, one of which the confirmation repeats.
    """
    rung = max((run.rung for run in runs), default=None)
    known = next((level for level in levels if level.rung == rung), None)
    if known is None:
        return None
    widths = sorted({run.width for run in runs if run.rung == rung})
    cells = tuple(cell_of(run for run in runs if (run.rung, run.width) == (rung, width)) for width in widths)
    return surface([replace(known, cells=cells)])


def _renewed(runs: Sequence[Observation], surfaces: Mapping[Hashable, Surface]) -> dict[Hashable, tuple[Surface, int]]:
    """The surfaces moved to the losses of the confirmation, with the numbers of its seeds.

    The loss at the best width is fitted to the new runs alone: curvature and best width of the runs by which a
    structure was chosen are part of its luck. Only the shape of the loss over compute is kept.
    """
    again: dict[Hashable, list[Observation]] = defaultdict(list)
    for run in runs:
        if run.stage == "confirmation" and run.structure in surfaces:
            again[run.structure].append(run)
    found = {}
    for structure, mine in again.items():
        old = surfaces[structure]
        fresh = confirmed_surface(mine, [minimum.level for minimum in old.minima])
        i = None if fresh is None else old.at(fresh.minima[0].level.rung)
        if fresh is None or i is None:
            continue
        n = len(old.minima)
        shape = np.eye(n)
        shape[:, i] -= 1.0
        covariance = shape @ old.covariance @ shape.T + fresh.covariance[0, 0]
        moved = fresh.minima[0].log_loss - old.minima[i].log_loss
        minima = tuple(replace(one, log_loss=one.log_loss + moved) for one in old.minima)
        found[structure] = Surface(minima, covariance, old.curvature), len({run.seed for run in mine})
    return found
