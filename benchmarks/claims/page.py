"""The page on claims: prose that stands there, and blocks that are made from the rows."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.exponents import TAXONOMY
from benchmarks.claims.inference import LEVEL
from benchmarks.claims.networks import RATE_NOT_TUNED
from benchmarks.claims.numbers import large, p_text, shown, signed
from benchmarks.claims.rows import ONE_SEED, Kind, Row
from benchmarks.claims.studies import RANKED, TRAINED, Store

THEMES = {
    "Exponents": {
        "omega": "Small ω",
        "psi": "Large ψ",
        "nu": "ν hardly matters at ω = 0 and ψ = 1",
        "laws": "Scaling exponents equal dense's",
    },
    "Experts": {
        "experts": "BTT experts in every layer, the standard mixture, dense",
        "kinds": "BTT experts against low-rank and dense ones",
        "more": "More experts",
    },
    "Structured feed-forward networks": {
        "steeper": "Steeper curves",
        "overtraining": "Overtraining",
        "wide": "Wide and structured",
        "guided": "Self-guided training",
    },
    "Learning rates": {"rates": "Learning rates of factors"},
    "Speed": {"speed": "Many tokens", "merge": "Merging for one token"},
}
"""Topics with the headings of their sections, by theme; the order of the tables."""
TOPICS = {topic: heading for topics in THEMES.values() for topic, heading in topics.items()}
VERDICTS = ("holds", "does not hold", "cannot tell")


def of_topic(rows: Sequence[Row], topic: str) -> list[Row]:
    """The rows of a section."""
    return [row for row in rows if row.topic == topic]


def by_claim(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of every claim, those with more training FLOPs first."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: -row.flops):
        found[row.claim].append(row)
    return {claim: found[claim] for claim in dict.fromkeys(row.claim for row in rows)}


def anchor(heading: str) -> str:
    """The end of a link to a heading, as GitHub and MyST make it.

    >>> anchor("Scaling exponents equal dense's")
    'scaling-exponents-equal-denses'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def claims_table(rows: Sequence[Row], kind: Kind) -> str:
    """One line for each measurement, by theme; a claim or question of several studies is said once.

    The columns are few, and intervals are not broken, so that the table fits a phone.
    """
    cells = []
    for theme, topics in THEMES.items():
        mine = [row for topic in topics for row in of_topic(rows, topic) if row.kind == kind]
        cells += [[f"**{theme}**", "", "", ""]] if mine else []
        for claim, measured in by_claim(mine).items():
            said = f"[{claim}](#{anchor(TOPICS[measured[0].topic])})<br>"
            for row in measured:
                value, interval = row.shown()
                numbers = [f"{value} {_unbroken(interval)}", _unbroken(p_text(row.p_adjusted))]
                cells.append([f"{said}{row.study}", f"**{row.verdict}**", *numbers])
                said = ""
    return table([f"{kind}, study", "verdict", "estimate", "p"], cells) if cells else "Not measured yet."


def _unbroken(text: str) -> str:
    return text.replace(" ", "\u00a0")


def table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without padding: cells are sentences.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *cells))


def scales(rows: Sequence[Row]) -> str:
    """The sizes of every study, once."""
    ordered = [row for topic in TOPICS for row in of_topic(rows, topic)]
    return "\n".join(f"- {study}: {scale}." for study, scale in {row.study: row.scale for row in ordered}.items())


def topic_text(rows: Sequence[Row]) -> str:
    """A block for each claim of a section: the paper's words, the estimate, the result of every study, the next run."""
    return "\n\n".join(_claim_text(claim, mine) for claim, mine in by_claim(rows).items()) or "Not measured yet."


def _claim_text(claim: str, rows: Sequence[Row]) -> str:
    first = rows[0]
    effects = list(dict.fromkeys(row.effect for row in rows))
    lines = [
        f"**{claim}**" + ("" if first.kind == "claim" else " (our question, not a claim of the papers)"),
        "",
        f"- {'The paper' if first.kind == 'claim' else 'Nearest in the papers'}: {first.published} ({first.source}).",
        f"- Estimate: {' or '.join(effects)}. The claim says {_bound(first)}.",
    ]
    for row in rows:
        own = f" ({row.effect})" if len(effects) > 1 else ""
        lines += [
            f"- {row.study}{own}: **{row.verdict}**, {' '.join(row.shown())}, p {p_text(row.p_adjusted)}; {row.interval}.",
            *([f"  - Open: {why_open(row)}."] if row.verdict == "cannot tell" else []),
            f"  - Control: {row.control}",
        ]
    return "\n".join((*lines, f"- Would tell more: {' or '.join(dict.fromkeys(row.would_tell for row in rows))}."))


def _bound(row: Row) -> str:
    zero = "1×" if row.unit == "factor" else "0"
    return f"that it is {row.rule} {zero}" if row.rule != "within" else f"that it is within ±{_margin(row)}"


def _margin(row: Row) -> str:
    return f"{row.margin:.0%}" if row.unit == "share" else f"{row.margin:.2f}"


def why_open(row: Row) -> str:
    """The reason why a row cannot tell."""
    if row.flaw:
        return row.flaw
    if row.rule == "within" and any(row.low <= end <= row.high for end in (-row.margin, row.margin)):
        return f"the interval reaches over the margin of ±{_margin(row)}"
    if row.rule != "within" and row.low <= 0 <= row.high:
        return f"the interval contains {'1×' if row.unit == 'factor' else '0'}"
    return f"p is not below {LEVEL:.0%} after Holm's correction"


def exponents_table(rungs: Sequence[Mapping[str, Any]]) -> str:
    """Correlations and slopes of every exponent, rung by rung; one table for each task."""
    parts = []
    for task in dict.fromkeys(row["task"] for row in rungs):
        cells, before = [], ""
        for row in (row for row in rungs if row["task"] == task):
            cells.append(
                [
                    row["exponent"] if row["exponent"] != before else "",
                    large(row["budget_flops"]),
                    f"{_with_interval(row, 'spearman')}, p {p_text(row['p'])}",
                    f"{_with_interval(row, 'slope')}, p {p_text(row['slope_p'])}",
                    _with_interval(row, "without_dense"),
                ]
            )
            before = row["exponent"]
        heads = ["exponent", "FLOPs a run", "rank correlation", "slope, others held", "slope without dense"]
        parts.append(f"Study `taxonomy-{task}`:\n\n{table(heads, cells)}")
    return "\n\n".join(parts) or "Not measured yet."


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    return " ".join(shown(row[name], row[f"{name}_low"], row[f"{name}_high"]))


def findings(rows: Sequence[Row], rungs: Sequence[Mapping[str, Any]]) -> str:
    """Counts of the verdicts, and the most important findings as a list."""
    by_key = {row.key: row for row in rows}
    claims = [row for row in rows if row.kind == "claim"]
    questions = [row for row in rows if row.kind == "question"]
    sentence = (
        f"Of {len(claims)} measurements of the papers' claims, {_counts(claims)[0]} hold at the scale of these studies, "
        f"{_counts(claims)[1]} do not, and {_counts(claims)[2]} are open: {_reasons(claims)}. "
        f"Of {len(questions)} measurements of our own questions, the answer is yes in {_counts(questions)[0]}, no in "
        f"{_counts(questions)[1]}, and open in {_counts(questions)[2]}."
    )
    listed = [
        f"**{word}:** " + "; ".join(_titles(those, verdict)) + "."
        for word, those, verdict in (
            ("Holds", claims, "holds"),
            ("Does not hold", claims, "does not hold"),
            ("Our own questions, yes", questions, "holds"),
            ("Our own questions, no", questions, "does not hold"),
        )
        if _titles(those, verdict)
    ]
    found = (_layer_finding(by_key), _taxonomy_finding(by_key, rungs), _expert_finding(by_key))
    return "\n".join((sentence, "", *(f"- {line}" for line in (*listed, *found) if line)))


def _counts(rows: Sequence[Row]) -> list[int]:
    return [sum(row.verdict == word for row in rows) for word in VERDICTS]


def _titles(rows: Sequence[Row], verdict: str) -> list[str]:
    """The claims with this verdict, with their studies where a claim has several."""
    return [
        row.claim if len(mine) == 1 else f"{row.claim} ({row.study})"
        for mine in by_claim(rows).values()
        for row in mine
        if row.verdict == verdict
    ]


def counted(readme: str, rows: Sequence[Row]) -> str:
    """The README with the counts of the verdicts in the sentence that begins with 'Of N measurements'.

    Raises:
        ValueError: the README has no such item.
    """
    claims = [row for row in rows if row.kind == "claim"]
    holds, fails, opens = _counts(claims)
    item = (
        f"Of {len(claims)} measurements of papers' claims, {holds} hold here, {fails} do not, and {opens} are open. "
        f"{_clearest(rows)}[All claims, one by one](docs/explanation/claims.md)."
    )
    wrapped = textwrap.fill(item, 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    made, places = re.subn(r"^- Of \d+ measurements .*(?:\n  .*)*", wrapped, readme, flags=re.M)
    if places != 1:
        raise ValueError(f"the README has {places} items that begin with 'Of N measurements': one is needed")
    return made


def _clearest(rows: Sequence[Row]) -> str:
    """The finding on ω of a study that could decide it, with the verdicts of the others, as a sentence."""
    measured = [row for row in rows if row.key in {f"omega-{task}" for task in TAXONOMY}]
    found = next((row for row in measured if row.verdict == "holds"), None)
    if found is None:
        return ""
    cost, low, high = (f"{math.expm1(value):.0%}" for value in (found.value, found.low, found.high))
    verdicts = Counter(row.verdict for row in measured)
    others = [f"{count} say '{verdict}'" for verdict, count in (verdicts - Counter([found.verdict])).items()]
    return (
        f"In `{found.study}` the loss rises by {cost} ({low} to {high}) for one unit of "
        f"[ω](docs/explanation/taxonomy.md), parameter sharing; of the other studies, {' and '.join(others)}. "
    )


def _reasons(rows: Sequence[Row]) -> str:
    """How many claims are open for which reason."""
    flaws = [row.flaw for row in rows if row.verdict == "cannot tell"]
    at_end = sum("end of the grid" in flaw for flaw in flaws)
    seed, wide = flaws.count(ONE_SEED), flaws.count("")
    margin, untuned = sum("could miss it" in flaw for flaw in flaws), flaws.count(RATE_NOT_TUNED)
    reasons = (
        (at_end, "because best widths lie at an end of the grid"),
        (seed, "because there is one seed"),
        (margin, "because losses lie within the margin whatever their order"),
        (untuned, "because rates were not tuned"),
        (len(flaws) - at_end - seed - wide - margin - untuned, "because FLOPs differ"),
        (wide, "because the interval or p leaves both"),
    )
    return ", ".join(f"{count} {why}" for count, why in reasons if count)


def _said(row: Row) -> str:
    value, interval = row.shown()
    return f"{value} {interval} ({row.verdict})"


def _correlations(rungs: Sequence[Mapping[str, Any]], task: str, exponent: str) -> str:
    return ", ".join(signed(row["spearman"]) for row in rungs if (row["task"], row["exponent"]) == (task, exponent))


def _taxonomy_finding(rows: Mapping[str, Row], rungs: Sequence[Mapping[str, Any]]) -> str | None:
    known = [task for task in TAXONOMY if f"omega-{task}" in rows]
    if not known:
        return None
    # A study whose grid holds most of the best widths says more.
    task = min(known, key=lambda task: rows[f"omega-{task}"].flaw != "")
    omega, psi, nu = (rows[f"{key}-{task}"] for key in ("omega", "psi", "nu"))
    budgets = sorted({row["budget_flops"] for row in rungs if row["task"] == task})
    return (
        f"**Exponents, task {task}:** from {large(budgets[0])} to {large(budgets[-1])} FLOPs a run the rank correlation "
        f"of the loss with ω is {_correlations(rungs, task, 'ω')}; with 1 − ψ {_correlations(rungs, task, '1 − ψ')}; with "
        f"ν {_correlations(rungs, task, 'ν')}. In a joint fit one unit of ω changes log loss by {_said(omega)}, and one unit "
        f"of 1 − ψ by {_said(psi)}. Among structures of ω = 0 and ψ = 1 one unit of ν changes it by {_said(nu)}."
    )


def _expert_finding(rows: Mapping[str, Row]) -> str | None:
    for study in ("experts", "moe", "experts-small"):
        row = rows.get(f"btt-over-standard-{study}")
        if row is not None:
            return f"**Experts:** the {row.effect} is {_said(row)}. {row.control}"
    return None


def _layer_finding(rows: Mapping[str, Row]) -> str | None:
    cpu, gpu, merge = (rows.get(key) for key in ("speed-31-CPU", "speed-31-H200", "pre-merge"))
    if cpu is None or gpu is None or merge is None:
        return None
    guided = rows.get("guided-flops")
    more = "" if guided is None else f" Guides change the loss at equal FLOPs by {_said(guided)}."
    return (
        f"**Speed:** a forward pass of a layer with 31% of the parameters is {cpu.shown()[0]} as fast as dense on a CPU "
        f"({cpu.verdict}) and {gpu.shown()[0]} on an H200, eager ({gpu.verdict}). Speed of the merged matrix over that of "
        f"the factors, for one token on a CPU: {_said(merge)}.{more}"
    )


def blocks(rows: Sequence[Row], rungs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Every block of the page by its name."""
    return {
        "findings": findings(rows, rungs),
        "claims": claims_table(rows, "claim"),
        "questions": claims_table(rows, "question"),
        "scales": scales(rows),
        "exponents": exponents_table(rungs),
        **{topic: topic_text(of_topic(rows, topic)) for topic in TOPICS},
    }


def filled(page: str, parts: Mapping[str, str]) -> str:
    """The page with new blocks between its marks.

    Raises:
        ValueError: a block has no place, or a place has no block.

    >>> print(filled("a\\n<!-- begin x -->\\nold\\n<!-- end x -->\\nb", {"x": "new"}))
    a
    <!-- begin x -->
    new
    <!-- end x -->
    b
    """
    for name, text in parts.items():
        begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"the page needs one place for {name}: {begin.strip()} … {end.strip()}")
        before, _, rest = page.partition(begin)
        page = before + begin + text + end + rest.partition(end)[2]
    return page


def page_of(root: Path) -> Path:
    """Where the page stands."""
    explanation = root / "docs" / "explanation"
    return (explanation if explanation.is_dir() else root / "docs") / "claims.md"


def studies_table(store: Store) -> str:
    """State, runs and time of every study of specs/paper/."""
    heads = ["study", "command", "state", "runs", "CPU hours", "machine"]
    cells = []
    for name in RANKED:
        study = store.ranked(name) if (store.reproduction / name / "results.json").exists() else None
        command = f"`einsearch rank specs/paper/{name}.yaml --out runs/{name}`"
        if study is None:
            cells.append([name, command, "not finished", "", "", ""])
        else:
            hours = math.fsum(run.elapsed_s for run in study.all_runs) / 3600
            cells.append(
                [
                    name,
                    command,
                    "finished" if study.title == name else study.title,
                    f"{len(study.all_runs):,}",
                    f"{hours:.1f}",
                    _machine(dict(study.environment)),
                ]
            )
    for name in TRAINED:
        runs = store.trained(name)
        command = f"`einsearch train specs/paper/{name}.yaml --set seed=0 --out runs/{name}-0`"
        if runs is None:
            cells.append([name, command, "not finished", "", "", ""])
        else:
            count = [len(mine) for mine in runs.seeds.values()]
            hours = math.fsum(run["elapsed_s"] for mine in runs.seeds.values() for run in mine.values()) / 3600
            state = f"seeds {', '.join(map(str, runs.seeds))}"
            cells.append([name, command, state, " + ".join(map(str, count)), f"{hours:.1f}", "AMD EPYC, one core"])
    timings = store.timings("rate_transfer.json")
    done = (
        "not finished"
        if timings is None
        else f"widths {', '.join(map(str, sorted({run['width'] for run in timings['runs']})))}"
    )
    command = "`python -m benchmarks.rate_transfer --out benchmarks/results/rate_transfer.json`"
    cells.append(["rate_transfer", command, done, "" if timings is None else f"{len(timings['runs']):,}", "", ""])
    return table(heads, cells)


def _machine(environment: Mapping[str, str]) -> str:
    return f"{environment.get('cores', '?')} cores, torch {environment.get('torch', '?')}"
