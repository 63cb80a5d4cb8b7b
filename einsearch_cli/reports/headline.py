"""The findings of a study, in sentences computed from the ranking."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from einsearch_cli.reports.numbers import factor_text, flops_text, loss_text, percent_text
from einsearch_cli.reports.study_report import StudyReport, relative_difference
from einsearch_cli.scaling import Prediction, Price, RankingEntry
from einsearch_cli.structures import LayerSpec, short_name

FEWEST: Final = 3
"""The fewest structures of a group whose median is compared with that of another group."""


def headline(study: StudyReport) -> tuple[str, ...]:
    """A few plain sentences, the main result first; none claims more than its interval."""
    ranked = [entry for entry in study.ranking.entries if entry.loss is not None]
    if not ranked:
        return ("No run finished, so there is nothing to rank; the failed runs are listed with their errors.",)
    sentences = (
        _winner(study, ranked[0]),
        _against_yardstick(study, ranked),
        _stopped_but_promising(ranked),
        _found(study),
        _confirmed(study, ranked),
        *_reversals(study, ranked),
        *_controls(study),
        *_against_baselines(study),
        _tally(study, ranked),
        _trends(study, ranked),
        _full_rank_group(study),
    )
    return tuple(sentence for sentence in sentences if sentence)


def _winner(study: StudyReport, best: RankingEntry) -> str:
    seeds = f"{best.seeds} seeds at each width" if best.seeds > 1 else "one seed"
    reached = f"{short_name(best.structure)} reaches the lowest loss: {loss_text(best.loss)}"
    time = _time(study, best, study.ranking.yardstick)
    return f"At {flops_text(best.budget_flops)} training FLOPs per run, {reached} ({seeds}, best width {best.width}){time}."


def _time(study: StudyReport, entry: RankingEntry, rival: LayerSpec) -> str:
    """Which of two structures is faster, as the end of a sentence; empty where steps were not timed.

    Seconds for the same loss where the gain is known, else seconds of a run.
    """
    mine, theirs = short_name(entry.structure), short_name(rival)
    low, high = entry.seconds_gain_low, entry.seconds_gain_high
    if entry.structure == rival or not study.step_seconds:
        return ""
    if entry.seconds_gain is None:
        own, other = (study.run_seconds(item, entry.rung) for item in (entry.structure, rival))
        return (
            ""
            if own is None or other is None
            else f"; a run of {mine} takes {own / other:.2f} times as long as one of {theirs}"
        )
    said = f"; for the same loss {theirs} needs {entry.seconds_gain:.2f} times {mine}'s seconds on this machine"
    if low is None or high is None:
        return f"{said}, without an interval"
    faster = f"{mine} is faster" if low > 1 else f"{theirs} is faster" if high < 1 else "cannot tell which is faster"
    return f"{said} (95% interval {low:.2f} to {high:.2f}): {faster}"


def _against_yardstick(study: StudyReport, ranked: Sequence[RankingEntry]) -> str | None:
    dense = study.yardstick
    others = [entry for entry in ranked if entry.verdict != "yardstick"]
    if dense is None or dense.loss is None:
        return "No run of the yardstick, dense, finished, so nothing could be compared with it."
    if not others:
        return "No other structure finished a run, so there is nothing to compare it with."
    name, rival = short_name(dense.structure), others[0]
    share = relative_difference(rival)
    if share is None:
        return f"It could not be compared with {name}: {rival.verdict_reason}."
    if rival is ranked[0]:  # the first sentence has its time
        return f"Its loss is {_distance(rival, share, name)}."
    ends = f"The best other structure, {short_name(rival.structure)}, ends {_distance(rival, share, name)}"
    return f"{ends}{_time(study, rival, dense.structure)}."


def _stopped_but_promising(ranked: Sequence[RankingEntry]) -> str | None:
    """A sentence on the structure that halving stopped although its law predicts a lower loss than the winner's."""
    best = ranked[0]
    if best.prediction is None:
        return None
    stopped = [
        (entry, entry.prediction)
        for entry in ranked
        if entry.rung != best.rung and entry.prediction is not None and entry.prediction.loss < best.prediction.loss
    ]
    if not stopped:
        return None
    entry, predicted = min(stopped, key=lambda pair: pair[1].loss)
    return (
        f"{short_name(entry.structure)} was stopped early, after {flops_text(entry.budget_flops)} FLOPs per run, but "
        f"is predicted to reach {_predicted(predicted)} at {flops_text(predicted.compute)} FLOPs, where "
        f"{short_name(best.structure)} is predicted to reach {_predicted(best.prediction)}: "
        "a higher halving.keep would train it further."
    )


def _predicted(found: Prediction) -> str:
    return f"{loss_text(found.loss)} (95% interval {loss_text(found.low)} to {loss_text(found.high)})"


def _confirmed(study: StudyReport, ranked: Sequence[RankingEntry]) -> str | None:
    """A sentence on the gain to quote, from runs that had no part in any decision."""
    entry = next((entry for entry in ranked if entry.confirmed_gain is not None), None)
    if entry is None or entry.confirmed_gain is None:
        return _confirmed_difference(study, ranked)
    low, high = entry.confirmed_gain_low, entry.confirmed_gain_high
    interval = "" if low is None or high is None else f", 95% interval {low:.2f} to {high:.2f}"
    name = short_name(study.ranking.yardstick)
    said = {"worse": f"it is worse than {name}", "cannot tell": _open(study, entry, name)}
    verdict = said.get(entry.confirmed_verdict or "", _advice(study, entry, "figure"))
    chosen = f" The column 'compute gain', here {factor_text(entry.compute_gain)}, is from the seeds that chose it."
    return (
        f"Trained once more with {entry.confirmed_seeds} new seeds, {short_name(entry.structure)} has a gain of "
        f"{factor_text(entry.confirmed_gain)} over {name}{interval}: {verdict}."
        f"{chosen if entry.compute_gain is not None else ''}"
    )


def _confirmed_difference(study: StudyReport, ranked: Sequence[RankingEntry]) -> str | None:
    """A sentence on the difference to quote where new seeds give no gain, as with one rung."""
    entry = next((entry for entry in ranked if entry.confirmed_difference is not None), None)
    if entry is None or entry.confirmed_difference is None:
        return None
    one, other = short_name(entry.structure), short_name(study.ranking.yardstick)
    ends = entry.confirmed_difference_low, entry.confirmed_difference_high
    interval = "" if None in ends else f" (95% interval {' to '.join(map(percent_text, ends))})"
    verdict = {"better": f"{one} is better", "worse": f"{other} is better"}.get(
        entry.confirmed_verdict or "", "cannot tell"
    )
    why = "One rung gives" if len(study.budgets) == 1 else "These runs give"
    return (
        f"Trained once more with {entry.confirmed_seeds} new seeds, {one} ends "
        f"{abs(entry.confirmed_difference):.1%} {'below' if entry.confirmed_difference < 0 else 'above'} {other}'s loss at "
        f"equal FLOPs{interval}: {verdict}; {_advice(study, entry, 'difference')}. {why} no compute gain."
    )


def _advice(study: StudyReport, entry: RankingEntry, result: str) -> str:
    doubtful = {item.run.structure for item in study.outliers} & {entry.structure, study.ranking.yardstick}
    return "see the warning on these runs before you quote it" if doubtful else f"quote this {result}"


def _open(study: StudyReport, entry: RankingEntry, name: str) -> str:
    """Why the confirmation of a structure has no verdict, although its gain may have an interval without 1."""
    low, high = entry.confirmed_gain_low, entry.confirmed_gain_high
    if low is None or high is None or low <= 1 <= high:
        return f"these runs do not show which of the two is better, {short_name(entry.structure)} or {name}"
    is_worse = (entry.confirmed_difference or 0.0) > 0
    doubted = entry.structure if is_worse else study.ranking.yardstick
    reason = study.confirmed[doubted].minima[0].reason
    if reason is not None:
        return f"no verdict, as {short_name(doubted)} may be better at a width that was not tried ({reason})"
    ends = entry.confirmed_difference_low, entry.confirmed_difference_high
    return (
        f"no verdict, as verdicts rest on the loss at equal FLOPs, and its interval, {' to '.join(map(percent_text, ends))}, "
        f"holds for all {len(study.confirmed) - 1} confirmed structures together and includes 0"
    )


def _found(study: StudyReport) -> str | None:
    """The findings of a search, with its confirmed gains over dense and over the best given candidate."""
    search = study.exploration
    if search is None:
        return None
    rankings = [study.ranking, *(other for other in study.comparisons if other.yardstick == search.rival)]
    name, said = "", []
    for ranking in rankings:
        entries = (ranking.entry_of(structure) for structure in search.found)
        entry = next((e for e in entries if e is not None and e.confirmed_difference is not None), None)
        if entry is not None and entry.confirmed_difference is not None:
            name, low, high = short_name(entry.structure), entry.confirmed_gain_low, entry.confirmed_gain_high
            gain = f", a compute gain of {factor_text(entry.confirmed_gain)}" if entry.confirmed_gain else ""
            interval = "" if not gain or low is None or high is None else f" (95% interval {low:.2f} to {high:.2f})"
            side = "below" if entry.confirmed_difference < 0 else "above"
            distance = percent_text(abs(entry.confirmed_difference)).lstrip("+")
            said.append(f"{distance} {side} that of {short_name(ranking.yardstick)}{gain}{interval}")
    if not said:
        return f"The search looked at structures in {search.runs} runs; none that it found could be confirmed."
    return f"The search ({search.runs} runs) found {name}. By runs with new seeds its loss is {' and '.join(said)}."


_PRICES: Final[dict[Price, str]] = {
    "flops": "in counted FLOPs",
    "total": "in total FLOPs, with embeddings and head",
    "seconds": "in seconds on this machine",
}


def _reversals(study: StudyReport, ranked: Sequence[RankingEntry]) -> list[str]:
    """A sentence for every structure that saves compute in one price and costs more in another."""
    found = []
    for entry in ranked:
        gains = [(price, entry.gain_in(price)) for price in ("flops", *entry.reversed_in)]
        known = [f"{factor_text(gain)} {_PRICES[price]}" for price, gain in gains if gain is not None]
        if len(known) > 1:
            name = short_name(study.ranking.yardstick)
            found.append(
                f"The price turns the order: {short_name(entry.structure)}'s gain over {name} is {', '.join(known)}."
            )
    return found


def _controls(study: StudyReport) -> list[str]:
    """A sentence for every control that ranks above the structure that it controls: the addition does not pay off."""
    found = []
    for control, sources in study.controls.items():
        plain = study.ranking.entry_of(control)
        beaten = [
            short_name(source)
            for source in sources
            if plain is not None
            and (entry := study.ranking.entry_of(source)) is not None
            and entry.rung == plain.rung
            and entry.rank > plain.rank
        ]
        if beaten:
            found.append(
                f"{short_name(control)}, a control, ranks above {', '.join(beaten)}: what they add does not show in the loss."
            )
    return found


def _trends(study: StudyReport, ranked: Sequence[RankingEntry]) -> str | None:
    """Which gains rise or fall with compute."""
    words = [(entry, entry.trend.word) for entry in ranked if entry.trend is not None and entry.trend.per_decade]
    if not words or not study.budgets:
        return None
    said = [
        f"{', '.join(short_name(entry.structure) for entry, found in words if found == word)} {word}"
        for word in ("rising", "falling")
        if any(found == word for _, found in words)
    ]
    unknown = sum(word == "cannot tell" for _, word in words)
    first, last = study.budgets[0][1], study.budgets[-1][1]
    budgets, name = f"From {flops_text(first)} to {flops_text(last)} FLOPs", short_name(study.ranking.yardstick)
    if unknown == len(words):
        return f"{budgets}, no structure's gain over {name} clearly rises or falls."
    others = ["the others show no clear trend"] if unknown else []
    return f"{budgets}, the gain over {name}: {'; '.join(said + others)}."


def _against_baselines(study: StudyReport) -> list[str]:
    """One sentence for every baseline on the best structure that is not one itself."""
    known = {study.ranking.yardstick, *(ranking.yardstick for ranking in study.comparisons)}
    found = []
    for ranking in study.comparisons:
        rival = next((entry for entry in ranking.entries if entry.structure not in known), None)
        share = None if rival is None else relative_difference(rival)
        if rival is None or share is None:
            continue
        distance = _distance(rival, share, short_name(ranking.yardstick))
        time = _time(study, rival, ranking.yardstick)
        found.append(f"{short_name(rival.structure)} ends {distance}{time}.")
    return found


def _distance(entry: RankingEntry, share: tuple[float, float | None, float | None], name: str) -> str:
    """How far a structure is from another of the given name, with interval and gain."""
    distance = f"{percent_text(abs(share[0])).lstrip('+')} {'below' if share[0] < 0 else 'above'} {name}'s loss"
    return f"{distance} at equal FLOPs{_certainty(entry, share, name)}{_gain(entry, name)}"


def _certainty(entry: RankingEntry, share: tuple[float, float | None, float | None], name: str) -> str:
    _, low, high = share
    if low is None or high is None:
        return ", from single seeds and so without an interval"
    interval = f" (95% interval {percent_text(low)} to {percent_text(high)})"
    if entry.verdict != "cannot tell":
        return interval
    reason = (entry.verdict_reason or "").replace("of the yardstick: the best width", f"{name}'s best width")
    return f"{interval}; which of the two is better stays open, as {reason}"


def _gain(entry: RankingEntry, name: str) -> str:
    if entry.verdict != "better" or not entry.compute_gain:
        return ""
    low, high = entry.compute_gain_low, entry.compute_gain_high
    interval = "" if low is None or high is None else f", 95% interval {low:.2f} to {high:.2f}"
    share = f"{100 / entry.compute_gain:.0f}%"
    return (
        f"; it reaches the lowest loss they share with {share} of {name}'s compute "
        f"(gain {factor_text(entry.compute_gain)}{interval})"
    )


def _tally(study: StudyReport, ranked: Sequence[RankingEntry]) -> str | None:
    """How many of the structures with the full budget differ clearly from the yardstick."""
    dense = study.yardstick
    if dense is None or dense.loss is None:
        return None
    peers = [entry for entry in ranked if entry.rung == dense.rung and entry is not dense]
    if len(peers) < 2:
        return None
    verdicts = [entry.verdict for entry in peers]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    name, unknown = short_name(dense.structure), len(peers) - better - worse
    if not better + worse:
        return f"None of the {len(peers)} structures trained with that budget is clearly better or worse than {name}."
    counted = [(verdict, count) for verdict, count in (("better", better), ("worse", worse)) if count]
    said = [
        f"{'all' if count == len(peers) else count} {'is' if count == 1 else 'are'} {verdict}"
        for verdict, count in counted
    ]
    open_ = [f"{unknown} {'has' if unknown == 1 else 'have'} no verdict"] if unknown else []
    *first, last = said + open_
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"Of the {len(peers)} structures trained with that budget besides {name}, {listed}."


def _full_rank_group(study: StudyReport) -> str | None:
    """Compares the structures with ω = 0 and ψ = 1 with all others, where all had the same budget."""
    losses = study.common_losses
    inside = [loss for item, loss in losses.items() if _is_full(study, item)]
    outside = [loss for item, loss in losses.items() if not _is_full(study, item)]
    if min(len(inside), len(outside)) < FEWEST or study.common_rung is None:
        return None
    dense = (
        " (dense among them)" if study.ranking.yardstick in losses and _is_full(study, study.ranking.yardstick) else ""
    )
    return (
        f"With the {flops_text(study.common_rung[1])} FLOPs that every structure was given, the median loss of "
        f"the {_counted(len(inside), 'structure')} with ω = 0 and ψ = 1{dense} is {loss_text(median(inside))}, "
        f"that of the {_counted(len(outside), 'other')} {loss_text(median(outside))}. That compares {len(losses)} "
        f"structures and does not test ω or ψ: Mann–Whitney p = {_rank_test(inside, outside):.2g}, "
        "if they were a random sample."
    )


def _rank_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of the Mann–Whitney test; exact for small groups without ties."""
    from scipy.stats import mannwhitneyu  # 1 s to import: only when a report is made

    return float(mannwhitneyu(first, second).pvalue)


def _counted(count: int, noun: str) -> str:
    return f"one {noun}" if count == 1 else f"{count} {noun}s"


def _is_full(study: StudyReport, structure: LayerSpec) -> bool:
    known = study.classes[structure]
    return known.omega == 0 and known.psi == 1
