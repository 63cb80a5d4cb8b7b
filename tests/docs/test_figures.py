"""Measured figures on pages are those of the files that they come from.

`FIGURES` says which lines and sentences the files give to a page. All of them must stand there, and no other row of
measured figures may. Pages that programs write have tests of their own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import Any

import pytest

from einsearch_cli.reports.numbers import duration_text, percent_text
from einsearch_cli.structures import parse_structure, short_name
from einsearch_cli.structures.grid_counts import distinct_count, irreducible_count
from einsearch_cli.structures.notation import parse_layer
from einsearch_cli.taxonomy.costs import flops_per_token
from tests.docs.pages import PAGES, ROOT

Figures = Iterator[str]
CHECKED_ELSEWHERE = {
    "docs/guide/compress.md": "tests/compression/test_compression_page.py",
    "docs/guide/self-guided.md": "tests/guided/test_guided.py",
    "docs/explanation/taxonomy.md": "tests/claims/test_page.py",
    "docs/design/architecture.md": "tests/layers/test_machine_profile.py",
    "examples/reproduction/README.md": "tests/claims/test_page.py",
}
"""Pages whose figures another file of tests compares."""
NOT_MEASURED = {"docs/guide/hugging-face.md"}
"""Pages with tables of versions."""
WORDS = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / name).read_text(encoding="utf-8"))
    return document


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def name_of(entry: Mapping[str, Any]) -> str:
    return short_name(parse_layer(entry["structure"]))


def gain(entry: Mapping[str, Any], kind: str = "compute_gain") -> str:
    value, low, high = (entry[f"{kind}{end}"] for end in ("", "_low", "_high"))
    return "1" if value == low == high == 1 else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def entry_of(study: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    (found,) = (entry for entry in study["ranking"] if name_of(entry) == name)
    return found


def runs_of(study: Mapping[str, Any]) -> int:
    return sum(len(study.get(kind) or ()) for kind in ("results", "confirmation", "tuning", "unbalanced", "explored"))


def repeated(first: Mapping[str, Any], second: Mapping[str, Any]) -> Figures:
    """The verdicts and gains of two studies that differ in their seeds, and how far they agree."""
    pairs = [(entry, entry_of(second, name_of(entry))) for entry in first["ranking"] if entry["verdict"] != "yardstick"]
    for one, other in pairs:
        yield row(name_of(one), one["verdict"], other["verdict"], gain(one), gain(other))
    yield agreement([(one["verdict"], other["verdict"]) for one, other in pairs])


def agreement(verdicts: list[tuple[str, str]]) -> str:
    called = [pair for pair in verdicts if set(pair) & {"better", "worse"}]
    same = sum(one == other for one, other in called)
    opposite = sum(set(pair) == {"better", "worse"} for pair in called)
    return (
        f"{WORDS[len(called)]} structures that either study calls better or worse, {WORDS[same]} have the same verdict in both, "
        f"{WORDS[opposite]} the opposite one"
    )


def demo() -> Figures:
    first, second = read("examples/demo/results.json"), read("examples/demo/seeds-3/results.json")
    yield f"{runs_of(first)} runs, {duration_text(first['run_time_s'])} of one core altogether"
    yield from repeated(first, second)
    confirmed = [gain(entry_of(study, "monarch"), "confirmed_gain") for study in (first, second)]
    yield f"The two confirmed gains of Monarch are {confirmed[0]} and {confirmed[1]}."


def seeds() -> Figures:
    studies = first, second = read("examples/seeds/first/results.json"), read("examples/seeds/second/results.json")
    yield from repeated(first, second)
    for said, name in (("Monarch", "monarch"), ("Monarch of three factors", "monarch:n=3")):
        confirmed = [gain(entry_of(study, name), "confirmed_gain") for study in studies]
        yield f"{said} {confirmed[0]} and {confirmed[1]}"
    rates = [entry["learning_rate"] for study in studies for entry in study["rates"] if name_of(entry) == "btt:r=2"]
    yield f"btt:r=2 was trained at a learning rate of {rates[0]:.3f} in the first study and {rates[1]:.3f} in the second"
    trends = [[of["trend"] for of in (entry, entry_of(second, name_of(entry)))] for entry in first["ranking"]]
    words = [(one["word"], other["word"]) for one, other in trends if one and other]
    named = [pair for pair in words if set(pair) & {"rising", "falling"}]
    same = sum(one == other for one, other in named)
    yield f"of {WORDS[len(named)]} that either study names, {WORDS[same]} have the same name in the other"


def moe() -> Figures:
    study = read("examples/moe/results.json")
    yield f"{runs_of(study)} runs, {study['run_time_s'] / 60:.0f} minutes of one core altogether"
    for entry in study["ranking"]:
        name = name_of(entry).replace("monarch", "monarch (the control)")
        gains = [gain(entry, kind) for kind in ("compute_gain", "total_gain", "seconds_gain")]
        verdict = entry["verdict"].replace("yardstick", "–")
        yield row(name, f"{entry['loss']:.3f}", entry["width"], *gains, verdict)
    yield f"confirmed with new seeds: **{gain(entry_of(study, 'monarch'), 'confirmed_gain')}**"
    runs = [run for run in study["results"] if run["status"] == "ok"]
    full = [run for run in runs if run["rung"] == max(each["rung"] for each in runs)]
    for name, key in (("{} to {} steps on the full budget", "steps"), ("at widths from {} to {},", "width")):
        yield name.format(min(run[key] for run in full), max(run[key] for run in full))
    worst = min(min(least_shares(run)) for run in full if run["routing"])
    without = sum(min(least_shares(run)) == 0 for run in runs if run["routing"])
    yield f"{worst:.2f} at worst on the full budget, and none at all in {WORDS[without]} run on a smaller one"
    yield from balance()


def least_shares(run: Mapping[str, Any]) -> list[float]:
    """The share of each layer's least used expert, times the number of experts: 1 is even."""
    return [len(layer["load"]) * min(layer["load"]) for layer in run["routing"]]


def balance() -> Figures:
    study = read("examples/moe/balance/results.json")
    without = {run["structure"]: run for run in study["unbalanced"]}
    layers = starving = 0
    for run in study["results"]:
        cells: list[str] = ["–"] * 5
        if other := without.get(run["structure"]):
            least = [least_shares(each) for each in (run, other)]
            layers += len(least[1])
            starving += sum(load < 0.25 for load in least[1])
            starved = [f"{sum(load < 0.25 for load in loads)} of {len(loads)}" for loads in least]
            cells = [f"{other['loss']:.3f}", *(f"{min(loads):.2f}" for loads in least), *starved]
        yield row(name_of(run), run["steps"], f"{run['loss']:.3f}", *cells)
    yield f"without it {starving} of {layers} have"


def found_by_search() -> Figures:
    study = read("examples/search/results.json")
    for entry in study["ranking"]:
        if entry["confirmed_gain"] is not None or entry["verdict"] == "yardstick":
            found = ", found" if entry["structure"] in study["exploration"]["found"] else ""
            confirmed = f" {gain(entry, 'confirmed_gain')}" if entry["confirmed_gain"] else ""
            yield f"| {name_of(entry)}{found} | {entry['loss']:.4f} |{confirmed} |"
    best = study["exploration"]["found"][0]
    (rival,) = (entry for entry in study["comparisons"][0]["entries"] if entry["structure"] == best)
    yield f"by new seeds the structure that was found ends {rival['confirmed_difference']:.1%} above Monarch"


def structured_ffn() -> Figures:
    runs = sorted(read("examples/structured_ffn/results.json")["runs"], key=lambda run: run["loss"])
    dense = next(run for run in runs if run["structure"] == "dense")
    for run in runs:
        guided = f", guided for {run['guided_steps']} steps" if run["guided_steps"] else ""
        above = percent_text(run["loss"] / dense["loss"] - 1) if run is not dense else "–"
        yield row(
            f"{run['structure']}{guided}",
            f"{run['loss']:.3f}",
            above,
            f"{run['params']:,}",
            f"{run['steps']:,}",
            f"{run['total_flops'] / 1e12:.1f}·10¹²",
            duration_text(run["elapsed_s"]),
        )


def search_regret() -> Figures:
    found = read("benchmarks/results/search_regret.json")
    for name, regret in found["mean_regret"].items():
        sampler, factors = name.split(", ")
        rows = [each for each in found["rows"] if f"{each['sampler']}, {each['factors']} factors" == name]
        losses = ", ".join(percent_text(each["difference"]) for each in sorted(rows, key=lambda each: each["seed"]))
        yield row(f"{sampler.replace('tpe', 'TPE')}, {factors}", losses, f"{regret:.2%}")
    width = fmean((each["difference_high"] - each["difference_low"]) / 2 for each in found["rows"])
    yield f"are about ±{width:.0%}"


def suggest() -> Figures:
    found = read("benchmarks/results/suggest.json")["cases"]
    fewest = chance = 0.0
    for case in found:
        times, most = case["measured_us"], 1.15 * min(case["measured_us"].values())
        sized = {name: parse_structure(name).at(case["d_in"], case["d_out"]) for name in times}
        fewest += times[min(sized, key=lambda name: flops_per_token(sized[name]))] <= most
        chance += fmean(time <= most for time in times.values())
    yield row("the first one of the list", f"{sum(case['agrees'] for case in found)} of {len(found)}")
    yield row("the one with the fewest FLOPs", f"{fewest:.0f} of {len(found)}")
    yield row("one at random", f"{chance:.1f} of {len(found)}")


def intervals() -> Figures:
    cases = read("benchmarks/results/intervals.json")["cases"]

    def share(group: str, case: str, key: str) -> str:
        (found,) = (each[key] for each in cases if (each["group"], each["case"]) == (group, case))
        return f"{found:.1%}"

    def shares(groups: set[str], *keys: str) -> str:
        found = [each[key] for each in cases if each["group"] in groups for key in keys]
        return f"{100 * min(found):.1f} to {max(found):.1%}"

    gains, prices = ([each for each in cases if each["group"] == group] for group in ("gain", "seconds"))
    seconds = shares({"gain", "seconds"}, "covers_seconds")
    yield row(f"{len(gains)} cases", "the gain is covered", shares({"gain"}, "covers"))
    yield row(f"these, and {len(prices)} cases with other prices of a step", "the gain in seconds is covered", seconds)
    yield f"It covers the true gain in {seconds} of simulated studies."
    for number in (42, 100):
        better = share("equal candidates", f"{number} candidates", "better")
        yield row(f"{number} candidates equal to dense", "some candidate is called better", better)
    power = share("power", "6 candidates, one 5% lower, 0 as much higher", "found")
    yield row("6 candidates, one with 5% less loss, 3 seeds", "it is found", power)
    whole = [
        share("whole studies", *of)
        for of in (("one candidate of gain 1.5", "covers"), ("12 equal candidates", "false"))
    ]
    yield row("whole studies, with tuned rates and widths", "a gain of 1.5 is covered", whole[0])
    yield row("whole studies of 12 equal candidates", "any verdict, 'better' or 'worse'", whole[1])
    looks = [share("spending", f"12 equal, bounds for {number}", "false") for number in ("three looks", "one look")]
    yield row("12 equal candidates, looks at 3, 6 and 12 seeds", "any verdict", looks[0])
    yield f"{looks[0]} had a false verdict; with the bounds for one look it was {looks[1]}"
    laws = shares({"scaling laws"}, "exponent", "L0", "C0", "prediction")
    yield row("scaling laws, 6 cases", "exponent, L₀, C₀ and a loss at 16 times the compute are covered", laws)
    (winner,) = (each for each in cases if (each["group"], each["case"]) == ("winner", "12 equal candidates"))
    means = [math.exp(winner[key]) for key in ("chosen_by", "quoted")]
    yield f"a mean gain of {means[0]:.3f} from the runs that chose it, and {means[1]:.3f} from the confirmation"
    limits = {
        "fixed grid of ratio 2": "true gain in {:.0%} of studies",
        "seeds that move all runs by 3%": "it covers {:.0%}.",
    }
    for each in cases:
        if each["case"] in limits:
            yield limits[each["case"]].format(each["covers"])
        if (each["group"], each["case"]) == ("whole studies", "12 equal candidates"):
            yield f"for the first of 12 equal ones it covers {each['covers']:.0%}"
    studies = (read(f"examples/seeds/{name}/results.json") for name in ("first", "second"))
    yield list(repeated(*studies))[-1]


def rank() -> Figures:
    found = read("benchmarks/results/rank.json")
    for each in found["networks"]:
        below = f"{each['below']} (1 in {each['networks'] // each['below']:,})"
        yield row(each["factors"], f"{each['networks']:,}", each["above"], below)
    for each in found["seconds"]:
        names = ("dense", "monarch", "low-rank:r=64", "singular values")
        yield row(each["width"], *(f"{each[name]:.2g}" for name in names))


def held_out() -> Figures:
    """A mean over n rows deviates √n times less than a row, whose deviation is in the log."""
    log = " ".join((ROOT / "docs/design/log/2026-12.md").read_text(encoding="utf-8").split())
    found = re.search(r"deviates by (\S+)% to (\S+)% of the loss from row to row", log)
    assert found
    low, high = map(float, found.groups())
    cells = [f"{low / math.sqrt(rows):.1f}% to {high / math.sqrt(rows):.1f}%" for rows in (16, 64, 128)]
    yield row("standard deviation of the difference", *cells)
    yield f"a standard deviation of {low}% to {high}% of the loss"


def findings() -> Figures:
    survivors = {
        (case["factors"], case["grid"]): case["found"]
        for case in read("benchmarks/results/space_search.json")["cases"]
        if case["job"] == "survivors"
    }
    for factors, grid, name in ((2, 4, "quarters"), (3, 4, "quarters"), (4, 2, "halves")):
        counts = distinct_count(factors, grid), irreducible_count(factors, grid), survivors[factors, grid]
        yield row(factors, name, *(f"{count:,}" for count in counts))
    command = "`einsearch enumerate --factors {0} --grid {1} --max-nu '<1/{0}'`"
    yield row(command.format(3, 6), f"{distinct_count(3, 6):,}", "none")
    yield row(command.format(4, 4), f"{distinct_count(4, 4) / 1e13:.1f}·10¹³", "none")


FIGURES: dict[str, Callable[[], Figures]] = {
    "docs/explanation/findings.md": findings,
    "docs/explanation/how-the-ranking-works.md": intervals,
    "docs/explanation/matrix-rank.md": rank,
    "docs/guide/data.md": held_out,
    "docs/guide/search.md": search_regret,
    "docs/guide/suggest.md": suggest,
    "examples/demo/README.md": demo,
    "examples/moe/README.md": moe,
    "examples/search/README.md": found_by_search,
    "examples/seeds/README.md": seeds,
    "examples/structured_ffn/README.md": structured_ffn,
}


def is_figure(cell: str) -> bool:
    return bool(re.search(r"\d\.\d|\d%|[+−]\d", cell)) and "`" not in cell


def measured(page: str) -> list[str]:
    """Rows of tables with two figures or more that have a sign, decimals or %."""
    rows = re.findall(r"^\| .* \|$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), re.M)
    return [line for line in rows if sum(map(is_figure, line.split(" | "))) >= 2]


@pytest.mark.parametrize("page", FIGURES)
def test_figures_are_those_of_the_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    expected = list(FIGURES[page]())
    shown = " ".join(text.split())
    assert [figures for figures in expected if figures not in shown] == []
    if page != "examples/moe/README.md":  # a table of an earlier study, whose figures are those of the log
        assert [line for line in measured(text) if line not in expected] == []


def test_no_page_has_figures_that_nothing_compares() -> None:
    pages = {str(page.relative_to(ROOT)) for page in PAGES if measured(page.read_text(encoding="utf-8"))}
    assert pages - FIGURES.keys() - CHECKED_ELSEWHERE.keys() - NOT_MEASURED == set()
    for page, tests in CHECKED_ELSEWHERE.items():
        assert page.removeprefix("docs/") in (ROOT / tests).read_text(encoding="utf-8")
