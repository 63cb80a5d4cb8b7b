"""Check the statistics of the ranking by simulated studies with known truth, which the real code ranks.

    python -m benchmarks.intervals --studies 500 --out benchmarks/results/intervals.json
    python -m benchmarks.intervals --read benchmarks/results/intervals.json --format markdown

The group "whole studies" runs the real study on an engine that trains nothing; the others make their runs here. Truth:
the loss of a structure with gain g is L0 + (1 − L0) (g C)^−¼ · exp(k ln²(w / w_opt)), where w_opt grows as √C. Widths
are at a ratio of √2 with a random phase. One run per width finds the best three, which get the other seeds. As in a
study, the runs that found them are the first seed of the three; the confirmation is at three widths, too.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import numpy as np

from einsearch_cli.errors import FitError
from einsearch_cli.reports.tables import Table
from einsearch_cli.scaling import LossCurve, Ranking, RankingEntry, fit_laws, rank_candidates
from einsearch_cli.scaling.many import holm
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.structures import LayerSpec, parse_layer
from einsearch_cli.training.proxy.trial import Stage, Trial, TrialResult
from tests.search.synthetic import Law, run_synthetic

EXPONENT = 0.25
CHEAPEST = 1e9
"""Training FLOPs of a run of the first rung."""
DENSE = parse_layer("dense")
OTHERS = tuple(parse_layer(f"btt:r={rank}") for rank in range(2, 102))
"""Names for as many candidates as a study may have; they are never trained."""


@dataclass(frozen=True)
class Truth:
    """The true properties of one structure."""

    gain: float = 1.0
    curvature: float = 0.22
    best: float = 1300.0
    """The best width at the first rung."""
    noise: float = 1.0
    """Its seed noise as a multiple of the study's."""
    drift: float = 0.0
    """Growth of log gain per unit of log compute."""
    step_slope: float = 1.0
    """Exponent of the width in the seconds of a step; in its FLOPs it is 2."""


YARDSTICK = Truth(curvature=0.32, best=700.0)


@dataclass(frozen=True)
class Design:
    """The design of a study."""

    floor: float = 0.0
    """L0 as a share of the loss at the first rung."""
    noise: float = 0.018
    """Standard deviation of log loss between seeds."""
    seeds: int = 3
    rungs: int = 3
    shared: float = 0.0
    """Standard deviation of a seed's effect on all runs of a rung."""
    ratio: float = math.sqrt(2)
    """Ratio of neighbouring widths."""
    fixed: int = 0
    """Number of widths of a grid that is the same for all structures and rungs; 0 for a grid around each best width."""


class Simulation:
    """One study, to which runs with new seeds can be added."""

    def __init__(self, truths: Sequence[Truth], design: Design, source: np.random.Generator) -> None:
        self.truths, self.design, self.source = truths, design, source
        self.structures: tuple[LayerSpec, ...] = (DENSE, *OTHERS[: len(truths) - 1])
        self.results: list[TrialResult] = []
        self.given: set[tuple[int, int, int, int]] = set()
        """Measured losses by structure, rung, width and seed."""
        self.effects: dict[tuple[int, int], float] = {}
        self.pilots: dict[tuple[int, int, int], float] = {}
        """Losses of the first seed, by structure, rung and width."""
        self.phase = float(source.uniform())
        self.widths = [[self._widths(i, rung) for rung in range(design.rungs)] for i in range(len(truths))]
        self.add(range(len(truths)), range(design.seeds))

    def loss(self, i: int, rung: int, width: float) -> float:
        """The true loss."""
        truth, floor, compute = self.truths[i], self.design.floor, 4.0**rung
        off = math.log(width / (truth.best * math.sqrt(compute)))
        gain = truth.gain * compute**truth.drift
        law: float = (gain * compute) ** -EXPONENT * math.exp(truth.curvature * off * off)
        return floor + (1 - floor) * law

    def _widths(self, i: int, rung: int) -> list[int]:
        """The widths that get the seeds; pilot runs find them."""
        design, truth = self.design, self.truths[i]
        if design.fixed:
            start = 700.0 * 2 ** ((design.rungs - 1) / 2) * design.ratio ** (self.phase - design.fixed / 2)
            return [round(start * design.ratio**k) for k in range(design.fixed)]
        phase = self.source.uniform()
        grid = [round(truth.best * 2**rung * design.ratio ** (k + phase)) for k in range(-4, 5)]
        pilots = [self._run(i, rung, width, 0, "pilot") for width in grid]
        self.pilots |= {(i, rung, width): loss for width, loss in zip(grid, pilots, strict=True)}
        centre = min(max(pilots.index(min(pilots)), 1), len(grid) - 2)
        return grid[centre - 1 : centre + 2]

    def add(self, which: Sequence[int], seeds: Sequence[int], first_rung: int = 0) -> None:
        """Add runs from more seeds for some of the structures."""
        for i in which:
            for rung, widths in enumerate(self.widths[i][first_rung:], first_rung):
                for width in widths:
                    for seed in seeds:
                        if (i, rung, width, seed) not in self.given:
                            self.given.add((i, rung, width, seed))
                            self._run(i, rung, width, seed, "main")

    def confirm(self, ranking: Ranking, count: int, seeds: int) -> None:
        """Train the best structures and the yardstick again, from new seeds, at the three best widths of the last rung."""
        chosen = [entry for entry in ranking.entries if entry.structure != DENSE][:count]
        for entry in [*chosen, ranking.entry_of(DENSE)]:
            if entry is not None and entry.width is not None:
                i = self.structures.index(entry.structure)
                for width in self.widths[i][-1]:
                    for seed in range(1000, 1000 + seeds):
                        self._run(i, self.design.rungs - 1, width, seed, "confirmation")

    def _run(self, i: int, rung: int, width: int, seed: int, stage: Stage) -> float:
        truth, design = self.truths[i], self.design
        effect = self.effects.setdefault((rung, seed), design.shared * float(self.source.standard_normal()))
        noise = effect + design.noise * truth.noise * float(self.source.standard_normal())
        compute = CHEAPEST * 4.0**rung
        trial = Trial(self.structures[i], width, seed, rung, compute, stage=stage)
        loss = self.loss(i, rung, width) * math.exp(noise)
        if stage == "main" and seed == 0:
            loss = self.pilots.get((i, rung, width), loss)
        steps = round(compute / width**2)
        self.results.append(TrialResult(trial, "ok", loss, width * width, compute, 1.1 * compute, steps, 1.0, ()))
        return loss

    def ranking(self, looks: Sequence[float] = ()) -> Ranking:
        """The real ranking of the runs so far."""
        truths = dict(zip(self.structures, self.truths, strict=True))
        places = {(result.trial.structure, result.trial.width) for result in self.results}
        step_s = {(structure, width): width ** truths[structure].step_slope for structure, width in places}
        return rank_candidates(self.results, DENSE, looks=looks, step_seconds=step_s)

    def entry(self, ranking: Ranking, i: int = 1) -> RankingEntry:
        """The entry of a structure in the ranking."""
        found = ranking.entry_of(self.structures[i])
        assert found is not None
        return found


Outcome = dict[str, float]
"""One study's contribution to the figures of its case: shares as 0 or 1, else numbers."""


def coverage(truth: Truth, design: Design, source: np.random.Generator) -> Outcome:
    """Whether the interval of the gain covers the truth."""
    study = Simulation((YARDSTICK, truth), design, source)
    entry = study.entry(study.ranking())
    low, high = entry.compute_gain_low, entry.compute_gain_high
    gain = _gain_at_the_end(truth, design)
    is_known = low is not None and high is not None and entry.compute_gain is not None
    trend = entry.trend
    outcome = {
        "covers": float(entry.compute_gain is not None and (low or 0.0) <= gain <= (high or math.inf)),
        "gain": entry.compute_gain or math.nan,
        "half": math.sqrt(high / low) if is_known and low and high else math.nan,
        "better": float(entry.verdict == "better"),
        "worse": float(entry.verdict == "worse"),
    }
    if entry.seconds_gain_low is not None and entry.seconds_gain_high is not None:
        seconds = _seconds_at_the_end(truth, design)
        outcome["covers_seconds"] = float(entry.seconds_gain_low <= seconds <= entry.seconds_gain_high)
        outcome["half_seconds"] = math.sqrt(entry.seconds_gain_high / entry.seconds_gain_low)
    if trend is not None and trend.low is not None and trend.high is not None:
        per_decade = 10.0**truth.drift
        outcome |= {"trend": float(trend.low <= per_decade <= trend.high), "called": float(trend.word != "cannot tell")}
    return outcome


def _gain_at_the_end(truth: Truth, design: Design) -> float:
    """The true gain at the place where it is read: at the lowest loss that both reach."""
    last = (design.rungs - 1) * math.log(4.0)
    log_gain = math.log(truth.gain)
    if log_gain + truth.drift * last > 0:  # the structure needs less than the yardstick's whole budget
        return math.exp(last - (last - log_gain) / (1 + truth.drift))
    return math.exp(log_gain + truth.drift * last)


def _seconds_at_the_end(truth: Truth, design: Design) -> float:
    """The true gain in seconds at the place where it is read, each structure at its best width for its compute."""
    last, gain = (design.rungs - 1) * math.log(4.0), _gain_at_the_end(truth, design)
    spent = [last - max(math.log(gain), 0.0), last + min(math.log(gain), 0.0)]
    paces = [
        (one.step_slope - 2) * (math.log(one.best) + log_compute / 2)
        for one, log_compute in zip((truth, YARDSTICK), spent, strict=True)
    ]
    return gain * math.exp(paces[1] - paces[0])


def equal(count: int, design: Design, source: np.random.Generator) -> Outcome:
    """Whether any of many structures that equal the yardstick is called better, or worse."""
    ranking = Simulation((YARDSTICK, *[Truth()] * count), design, source).ranking()
    verdicts = [entry.verdict for entry in ranking.entries]
    return {"better": float("better" in verdicts), "worse": float("worse" in verdicts)}


def power(count: int, advantage: float, worse: int, design: Design, source: np.random.Generator) -> Outcome:
    """Whether one of several candidates with a lower loss is found; `worse` of the others are worse by the same amount."""
    gain = (1 - advantage) ** (-1 / EXPONENT)
    others = [Truth(gain=1 / gain)] * worse + [Truth()] * (count - 1 - worse)
    ranking = (study := Simulation((YARDSTICK, Truth(gain=gain), *others), design, source)).ranking()
    entry = study.entry(ranking)
    rivals = [other for other in ranking.entries if other.p_value is not None]
    by_holm = holm([other.p_value or 0.0 for other in rivals])[rivals.index(entry)]
    return {"found": float(entry.verdict == "better"), "found_by_holm": float(by_holm < 0.05)}


def winner(gains: Sequence[float], design: Design, source: np.random.Generator) -> Outcome:
    """The quoted gain of the winner divided by its true gain, and the gain by which it was chosen."""
    study = Simulation((YARDSTICK, *[Truth(gain=gain) for gain in gains]), design, source)
    study.confirm(study.ranking(), 3, 3)
    best = next(entry for entry in study.ranking().entries if entry.structure != DENSE)
    truth = gains[study.structures.index(best.structure) - 1]
    low, high = best.confirmed_gain_low or math.nan, best.confirmed_gain_high or math.nan
    return {
        "quoted": math.log((best.confirmed_gain or math.nan) / truth),
        "chosen_by": math.log((best.compute_gain or math.nan) / truth),
        "covers": float(low <= truth <= high),
    }


def spending(
    gains: Sequence[float], looks: Sequence[int], is_known: bool, design: Design, source: np.random.Generator
) -> Outcome:
    """Whether a verdict is false if only undecided comparisons get more seeds on the last rung, and their number."""
    study = Simulation((YARDSTICK, *[Truth(gain=gain) for gain in gains]), replace(design, seeds=looks[0]), source)
    bounds = looks if is_known else ()
    ranking = study.ranking(bounds)
    for after in looks[1:]:
        undecided = [study.structures.index(structure) for structure in ranking.undecided()]
        if not undecided:
            break
        study.add([0, *undecided], range(after), design.rungs - 1)
        ranking = study.ranking(bounds)
    verdicts = [study.entry(ranking, i + 1).verdict for i in range(len(gains))]
    true = ["better" if gain > 1 else "worse" if gain < 1 else "cannot tell" for gain in gains]
    false = [mine for mine, yours in zip(verdicts, true, strict=True) if mine not in ("cannot tell", yours)]
    runs = sum(result.trial.stage == "main" for result in study.results)
    everything = len(study.structures) * 3 * ((design.rungs - 1) * looks[0] + looks[-1])
    different = sum(gain != 1 for gain in gains)
    return {
        "false": float(bool(false)),
        "found": sum(verdict != "cannot tell" for verdict in verdicts) / different if different else math.nan,
        "runs": runs / everything,
    }


@dataclass(frozen=True)
class Salted(Law):
    """A law whose noise differs from study to study."""

    salt: int = 0

    def log_loss(self, trial: Trial) -> float:
        noise = random.Random(f"{self.salt}|{trial.key}").gauss(0, self.noise)
        return Law.log_loss(replace(self, noise=0.0), trial) + noise


def driven(gains: Sequence[float], noise: float, source: np.random.Generator) -> Outcome:
    """The real study, on an engine that trains nothing: it tunes rates, finds widths, halves and confirms."""
    structures = (DENSE, *OTHERS[: len(gains)])
    salt = int(source.integers(2**31))
    laws = {
        structure: Salted(
            gain=gain,
            rate=2.0 ** source.uniform(-1, 1),
            width=source.uniform(50, 100),
            curvature=0.32 if structure == DENSE else 0.22,
            noise=noise,
            salt=salt,
        )
        for structure, gain in zip(structures, (1.0, *gains), strict=True)
    }
    spec = StudySpec(structures=[str(structure) for structure in structures[1:]], controls=False, budget_flops=1.6e10)
    outcome = run_synthetic(spec, laws.__getitem__).outcome
    ranking = rank_candidates([*outcome.ranked, *outcome.confirmation], DENSE)
    best = next(entry for entry in ranking.entries if entry.structure != DENSE)
    truth = laws[best.structure].gain
    low, high = best.compute_gain_low or 0.0, best.compute_gain_high or math.inf
    false = [e for e in ranking.entries if e.verdict in ("better", "worse") and laws[e.structure].gain == 1.0]
    return {
        "covers": float(low <= truth <= high),
        "chosen_by": math.log((best.compute_gain or math.nan) / truth),
        "quoted": math.log((best.confirmed_gain or math.nan) / truth),
        "false": float(bool(false)),
    }


def law(floor: float, exponent: float, error: float, rungs: int, source: np.random.Generator) -> Outcome:
    """Whether the intervals of a scaling law cover its L0, exponent and C0, and a run at 16 times the compute."""
    compute = CHEAPEST * 4.0 ** np.arange(rungs + 2)
    noise = error * source.standard_normal(rungs + 2)
    losses = np.log(floor + (compute / CHEAPEST) ** -exponent) + noise
    curve = LossCurve(np.log(compute[:rungs]), losses[:rungs], error**2 * np.eye(rungs), error**2)
    try:
        laws = fit_laws({"structure": curve})
        found, further = laws.law("structure"), laws.predict("structure", float(compute[-1]))
    except FitError:
        return {"refused": 1.0}
    return {
        "exponent": float(found.exponent_low <= exponent <= found.exponent_high),
        "L0": float(found.floor_low <= floor <= found.floor_high),
        "C0": float(found.scale_low <= CHEAPEST <= found.scale_high),
        "prediction": float(further.low <= math.exp(losses[-1]) <= further.high),
        "refused": 0.0,
    }


Study = Callable[[np.random.Generator], Outcome]


def cases() -> Iterator[tuple[str, str, Study]]:
    """Triples (group, case, function that simulates one study)."""
    for floor in (0.0, 0.5):
        for noise in (0.018, 0.005):
            for gain in (1.0, 0.6, 1.5):
                for seeds in (3, 5, 10):
                    name = f"L0 {floor:.0%}, noise {noise:.1%}, gain {gain}, {seeds} seeds"
                    yield "gain", name, _with(coverage, Truth(gain=gain), Design(floor, noise, seeds))
    for name, truth, design in (
        ("noise 3 times that of dense", Truth(gain=1.5, noise=3.0), Design(noise=0.006)),
        ("seeds that move all runs by 3%", Truth(gain=1.5), Design(shared=0.03, noise=0.006)),
        ("five rungs", Truth(gain=1.5), Design(rungs=5, floor=0.5)),
        ("a gain that grows by 26% a decade", Truth(gain=1.2, drift=0.1), Design(noise=0.005)),
        ("fixed grid of ratio 2", Truth(gain=1.5, best=700.0), Design(ratio=2.0, fixed=7)),
        ("fixed grid of ratio 2.7", Truth(gain=1.5, best=700.0), Design(ratio=2.7, fixed=5)),
        ("fixed grid of ratio 2, optimum at an edge", Truth(gain=1.0, best=4000.0), Design(ratio=2.0, fixed=3)),
    ):
        yield "other designs", name, _with(coverage, truth, design)
    for slope in (0.0, 1.0, 1.7):
        for noise in (0.018, 0.005):
            for gain in (0.6, 1.5):
                name = f"steps as width^{slope:g}, noise {noise:.1%}, gain {gain}"
                yield "seconds", name, _with(coverage, Truth(gain=gain, step_slope=slope), Design(noise=noise))
    for count in (6, 42, 100):
        yield "equal candidates", f"{count} candidates", _with(equal, count, Design())
    for count, worse in ((6, 0), (6, 5), (42, 0), (42, 36)):
        name = f"{count} candidates, one 5% lower, {worse} as much higher"
        yield "power", name, _with(power, count, 0.05, worse, Design())
    yield "winner", "12 equal candidates", _with(winner, (1.0,) * 12, Design())
    yield "winner", "12 candidates from 0.8 to 1.35", _with(winner, tuple(0.8 + 0.05 * k for k in range(12)), Design())
    yield "winner", "12 equal candidates, L0 50%", _with(winner, (1.0,) * 12, Design(floor=0.5, noise=0.009))
    unequal = tuple(0.8 + 0.05 * k for k in range(12))
    for name, gains, is_known in (
        ("12 equal, bounds for three looks", (1.0,) * 12, True),
        ("12 equal, bounds for one look", (1.0,) * 12, False),
        ("12 from 0.8 to 1.35, bounds for three looks", unequal, True),
    ):
        yield "spending", name, _with(spending, gains, (3, 6, 12), is_known, Design())
    for name, gains in (
        ("one candidate of gain 1.5", (1.5,)),
        ("one equal candidate", (1.0,)),
        ("12 equal candidates", (1.0,) * 12),
    ):
        yield "whole studies", name, _with(driven, gains, 0.018)
    for floor, exponent, error, rungs in (
        *((0.0, 0.25, 0.005, 4), (0.0, 0.25, 0.005, 6), (0.5, 0.25, 0.003, 5)),
        *((0.5, 0.25, 0.003, 6), (0.5, 0.25, 0.01, 6), (1.7, 0.3, 0.002, 6)),
    ):
        name = f"L0 {floor}, a {exponent}, errors {error:.1%}, {rungs} rungs"
        yield "scaling laws", name, _with(law, floor, exponent, error, rungs)


def _with(simulate: Callable[..., Outcome], *given: Any) -> Study:
    return lambda source: simulate(*given, source)


def measure(study: Study, studies: int, seed: int = 0) -> dict[str, float]:
    """Means over studies, medians of values that are not shares; the same seed gives the same figures."""
    source = np.random.default_rng(seed)
    outcomes = [study(source) for _ in range(studies)]
    names = dict.fromkeys(name for outcome in outcomes for name in outcome)
    found = {}
    for name in names:
        values = [outcome[name] for outcome in outcomes if name in outcome and not math.isnan(outcome[name])]
        found[name] = (median if name in ("gain", "half", "half_seconds") else fmean)(values) if values else math.nan
    return found


def table(document: dict[str, Any], group: str) -> Table:
    """The figures of one group of cases."""
    rows = [case for case in document["cases"] if case["group"] == group]
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("group", "case", "studies")))
    numbers = {"gain", "half", "half_seconds", "quoted", "chosen_by"}

    def cell(row: dict[str, Any], name: str) -> str:
        value = row.get(name)
        if value is None or math.isnan(value):
            return "–"
        return f"{value:.3f}" if name in numbers else f"{value:.1%}"

    right: list[Literal["right"]] = ["right"] * len(names)
    return Table(
        ("case", *(name.replace("_", " ") for name in names)),
        ("left", *right),
        tuple((row["case"], *(cell(row, name) for name in names)) for row in rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=500, help="Simulated studies a case.")
    parser.add_argument("--only", nargs="+", default=[""], help="Cases whose 'group: case' holds one of these.")
    parser.add_argument("--out", type=Path, help="Write the figures as JSON.")
    parser.add_argument("--read", type=Path, nargs="+", help="Figures that were written before, joined.")
    parser.add_argument("--format", choices=("json", "markdown"), default="markdown")
    chosen = parser.parse_args()
    if chosen.read is not None:
        parts = [json.loads(path.read_text(encoding="utf-8")) for path in chosen.read]
        document = {"python": parts[0]["python"], "cases": [case for part in parts for case in part["cases"]]}
    else:
        started_s = time.perf_counter()
        found = []
        for group, name, study in cases():
            if any(word in f"{group}: {name}" for word in chosen.only):
                found.append(
                    {"group": group, "case": name, "studies": chosen.studies, **measure(study, chosen.studies)}
                )
                print(f"{time.perf_counter() - started_s:5.0f} s  {found[-1]}", file=sys.stderr)
        document = {"python": platform.python_version(), "cases": found}
    text = json.dumps(document, indent=1)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n", encoding="utf-8")
    if chosen.format == "json":
        print(text)
    else:
        groups_found = dict.fromkeys(case["group"] for case in document["cases"])
        print("\n\n".join(f"**{group}**\n\n{table(document, group).to_markdown()}" for group in groups_found))


if __name__ == "__main__":
    main()
