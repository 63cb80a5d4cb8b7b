"""Does a search find better structures than the known ones, and is a sampler better than chance?

    python -m benchmarks.search_regret --out runs/regret            # 30 minutes on two cores
    python -m benchmarks.search_regret --read benchmarks/results/search_regret.json

On the teacher task, with three seeds each: TPE and random search in the same space (two factors, ψ ≥ 1/2, ω = 0, ν ≤
1), each for 60 runs of 3e9 FLOPs including anchors, named families and repeated runs; and TPE with three factors. Then
the best structure of each search, the 23 vectors of Potapczynski et al. 2024 and dense are ranked at the same budget,
each at its best width, and the best of these are confirmed with new seeds. All figures come from the confirmation. The
regret of a search is its log loss minus the lowest of all.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from einsearch_cli.files import write_atomically
from einsearch_cli.scaling import levels_of, observations_of, rank_candidates
from einsearch_cli.scaling.surface import surface
from einsearch_cli.search.engines import find_engine
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.exploring import explore
from einsearch_cli.search.halving import rung_budgets
from einsearch_cli.search.identity import fingerprint
from einsearch_cli.search.job import TrialSetup
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.stages import Stages
from einsearch_cli.search.store import StudyStore
from einsearch_cli.search.study import run_study
from einsearch_cli.structures import LayerSpec, parse_structure
from einsearch_cli.training.proxy.trial import TrialResult

RESULT = Path(__file__).parent / "results" / "search_regret.json"
BUDGET_FLOPS = 3e9
RUNS = 60
SEEDS = range(3)
SEARCHES = (("tpe", 2), ("random", 2), ("tpe", 3))
CONFIRMED = 30
"""Number of structures that are confirmed: all that have a loss."""
VECTORS = (
    "1/2|0|1/2|0|1/2|1/2|0", "1/3|0|2/3|0|2/3|1/3|0", "1/4|0|3/4|0|3/4|1/4|0", "2/3|0|1/3|0|1/3|2/3|0",
    "3/4|0|1/4|0|1/4|3/4|0", "2/3|0|1/3|0|2/3|1/3|0", "1/3|0|2/3|0|1/3|2/3|0", "3/4|0|1/4|0|3/4|1/4|0",
    "1/4|0|3/4|0|1/4|3/4|0", "1/2|0|1/2|0|1/2|1/2|1/4", "1/2|0|1/2|0|1/2|1/2|1/3", "1/3|0|2/3|0|2/3|1/3|1/4",
    "2/3|0|1/3|0|1/3|2/3|1/4", "2/3|0|1/3|0|2/3|1/3|1/4", "1/3|0|2/3|0|1/3|2/3|1/4", "1/2|1/2|0|1/2|1/2|0|0",
    "1/3|2/3|0|1/3|2/3|0|0", "1/2|1/2|0|1/2|1/2|0|1/4", "1/3|2/3|0|1/3|2/3|0|1/4", "1|0|0|0|1|0|3/4", "1|0|0|0|1|0|1/2",
    "1/2|1/4|1/4|1/4|1/2|1/4|0", "1/2|1/4|1/4|1/4|1/2|1/4|1/4",
)  # fmt: skip
"""The structures that Potapczynski et al. 2024 trained, as (α|β|γ|δ|ε|φ|ρ)."""


def spec_of(seed: int = 0, structures: Sequence[str] = (), confirm: int = 0, **search: Any) -> StudySpec:
    """A study on one rung with the teacher's own learning rate.

    Its optimum is within a factor of two of this rate for all structures.
    """
    return StudySpec.model_validate({
        "budget_flops": BUDGET_FLOPS,
        "halving": {"rungs": 1},
        "rates": "fixed",
        "controls": False,
        "first_seed": seed,
        "structures": list(structures),
        "confirm": confirm,
        **({"explore": {"runs": RUNS, "min_psi": "1/2", "finalists": 1, **search}} if search else {}),
    })  # fmt: skip


def measure(out: Path, workers: int) -> dict[str, Any]:
    """Run all searches and the ranking of their results; results in `out` are not computed again."""
    task = spec_of().open_task()
    task.prepare()
    networks = EqualNetworks.of_task(task)
    setup = TrialSetup("teacher", optimizer=spec_of().optimizer.model_dump(), pack=8)
    with (
        StudyStore(out, fingerprint(spec_of(), task)) as store,
        find_engine("local")(setup, workers, {}, out) as engine,
    ):
        searches = []
        for sampler, factors in SEARCHES:
            for seed in SEEDS:
                spec = spec_of(seed, sampler=sampler, factors=factors)
                stages = Stages(networks, store, engine, lambda _: None, rung_budgets(BUDGET_FLOPS, spec.halving))
                found = explore(spec, spec.candidates(), task, stages)
                searches.append({"sampler": sampler, "factors": factors, "seed": seed, **found.to_json()})
                searches[-1]["found"] = str(found.found[0])
                print(sampler, factors, seed, searches[-1]["found"], flush=True)
        texts = [f"({vector})" for vector in VECTORS]
        found_texts = list(dict.fromkeys(search["found"] for search in searches))
        spec = spec_of(structures=[*texts, *found_texts], confirm=CONFIRMED)
        outcome = run_study(spec, spec.candidates(), task, networks, store, engine, lambda _: None)
    runs = (*outcome.ranked, *outcome.confirmation)
    return {
        "budget_flops": BUDGET_FLOPS,
        "runs": RUNS,
        "searches": searches,
        **judged(runs, outcome.confirmation, searches),
    }


def judged(
    runs: Sequence[TrialResult], confirmation: Sequence[TrialResult], searches: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Confirmed losses, the best of the 23 vectors, and every search compared with it."""
    losses = confirmed_losses(confirmation)
    lowest = min(losses.values())
    vectors = {parse_structure(f"({vector})") for vector in VECTORS}
    best = min((s for s in losses if s in vectors), key=lambda s: losses[s])
    ranking = rank_candidates(runs, best, laws=False)
    rows = []
    for search in searches:
        structure = parse_structure(search["found"])
        entry = ranking.entry_of(structure)
        log_loss = losses.get(structure)
        rows.append({
            "sampler": search["sampler"],
            "factors": search["factors"],
            "seed": search["seed"],
            "found": search["found"],
            "loss": None if log_loss is None else math.exp(log_loss),
            "regret": None if log_loss is None else log_loss - lowest,
            "difference": entry and entry.confirmed_difference,
            "difference_low": entry and entry.confirmed_difference_low,
            "difference_high": entry and entry.confirmed_difference_high,
        })  # fmt: skip
    regrets = {
        f"{sampler}, {factors} factors": _mean(
            [row["regret"] for row in rows if (row["sampler"], row["factors"]) == (sampler, factors)]
        )
        for sampler, factors in SEARCHES
    }
    return {
        "best_vector": str(best),
        "confirmed": {str(s): math.exp(loss) for s, loss in sorted(losses.items(), key=lambda item: item[1])},
        "rows": rows,
        "mean_regret": regrets,
    }


def confirmed_losses(confirmation: Sequence[TrialResult]) -> dict[LayerSpec, float]:
    """Log loss at the best width, from runs with new seeds alone."""
    levels = levels_of(replace(run, stage="main") for run in observations_of(confirmation))
    found = {}
    for structure, mine in levels.items():
        fitted = surface(mine) if mine else None
        if fitted is not None:
            found[structure] = fitted.minima[-1].log_loss
    return found  # type: ignore[return-value]


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if a search's structure was not among those confirmed."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def tell(document: dict[str, Any]) -> None:
    """Print the figures as a table."""
    print(
        f"best of the 23 vectors: {document['best_vector']}, loss {document['confirmed'][document['best_vector']]:.4f}"
    )
    for row in document["rows"]:
        share = row["difference"]
        said = "not confirmed" if share is None else (
            f"{share:+.1%} ({row['difference_low']:+.1%} to {row['difference_high']:+.1%}), regret {row['regret']:.1%}"
        )  # fmt: skip
        print(f"{row['sampler']:7} {row['factors']} factors, seed {row['seed']}: {row['found']}: {said}")
    for name, regret in document["mean_regret"].items():
        print(f"mean regret of {name}: {'-' if regret is None else format(regret, '.2%')}")


def main() -> None:
    """Measure and write the figures, or read them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/search-regret"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--read", type=Path)
    options = parser.parse_args()
    if options.read:
        tell(json.loads(options.read.read_text()))
        return
    document = measure(options.out, options.workers)
    write_atomically(RESULT, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    tell(document)


if __name__ == "__main__":
    main()
