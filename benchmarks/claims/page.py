"""The page on claims: prose that stands there, and blocks that are made from the rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.rows import ONE_SEED, Row, _power
from benchmarks.claims.studies import RANKED, TRAINED, Store

TOPICS = {
    "omega": ("omega-",),
    "psi": ("psi-",),
    "nu": ("nu-",),
    "laws": ("laws-",),
    "experts": ("btt-over-standard", "btt-over-dense", "standard-over-dense"),
    "kinds": ("btt-over-low-rank", "btt-over-dense-experts"),
    "more": ("more-",),
    "steeper": ("steeper",),
    "overtraining": ("overtraining",),
    "wide": ("wide",),
    "guided": ("guided-",),
    "rates": ("rates-",),
    "speed": ("speed-",),
    "merge": ("pre-merge",),
}
"""Sections of the page, and the keys of their rows."""
WAYS = {"layers on CPU": "one forward pass", "layers on H200": "one eager forward pass"}
"""How single layers were timed, by study: `einsearch bench` captures no CUDA graph."""


def of_topic(rows: Sequence[Row], topic: str) -> list[Row]:
    """The rows of a section."""
    others = [prefix for name, prefixes in TOPICS.items() if name != topic for prefix in prefixes]

    def closest(row: Row, prefixes: Sequence[str]) -> int:
        key = row.key.removesuffix(f"-{row.study}")  # a study may be called like the end of a key: experts-small
        return max((len(prefix) for prefix in prefixes if key.startswith(prefix)), default=0)

    return [row for row in rows if closest(row, TOPICS[topic]) > closest(row, others)]


def title(row: Row) -> str:
    """The claim with its study and budget, so that no two rows have the same title."""
    flops = re.search(r"(\S+(?: to \S+)?) training FLOPs", row.scale)
    study = WAYS.get(row.study, f"study `{row.study}`")
    return f"{row.claim}; {study}" + (f", {flops[1]} FLOPs a run" if flops else "")


def claims_table(rows: Sequence[Row]) -> str:
    """One line for each claim."""
    heads = [
        "claim", "verdict", "measured here", "p, Holm", "why it is open", "the paper says", "scale", "what would tell more",
    ]  # fmt: skip
    cells = []
    for row in rows:
        value, interval = row.shown()
        open_for = row.flaw or ("the interval or p leaves it open" if row.verdict == "cannot tell" else "–")
        cells.append(
            [
                title(row),
                f"**{row.verdict}**",
                f"{value} {interval}: {row.effect}",
                p_text(row.p_adjusted),
                open_for,
                f"{row.published} ({row.source})",
                row.scale,
                row.would_tell,
            ]
        )
    return table(heads, cells)


def table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without padding: cells are sentences.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *cells))


def p_text(p: float) -> str:
    """A p value with two digits.

    >>> p_text(0.0123), p_text(1e-9)
    ('0.012', '< 0.0001')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def exponents_table(rungs: Sequence[Mapping[str, Any]]) -> str:
    """Correlations and slopes of every exponent, rung by rung."""
    heads = [
        "task", "exponent", "FLOPs a run", "Spearman", "p, permutations", "Kendall", "slope, others held", "p, permutations",
        "slope without dense",
    ]  # fmt: skip
    cells = [
        [
            row["task"],
            row["exponent"],
            _power(row["budget_flops"]),
            _interval(row["spearman"], row["spearman_low"], row["spearman_high"]),
            p_text(row["p"]),
            _sign(row["kendall"]),
            _interval(row["slope"], row["slope_low"], row["slope_high"]),
            p_text(row["slope_p"]),
            _interval(row["without_dense"], row["without_dense_low"], row["without_dense_high"]),
        ]
        for row in rungs
    ]
    return table(heads, cells)


def _sign(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _interval(value: float, low: float, high: float) -> str:
    return f"{_sign(value)} [{_sign(low)}, {_sign(high)}]"


def topic_lines(rows: Sequence[Row]) -> str:
    """The results of one section: figure, interval, verdict and control of every row."""
    if not rows:
        return "Not measured yet."
    lines = []
    for row in rows:
        value, interval = row.shown()
        control = f" {row.control}" if row.control else ""
        if row.flaw:
            control = f" It stays open because {row.flaw}.{control}"
        lines.append(f"- {title(row)}: **{row.verdict}**. {value} {interval} ({row.effect}; {row.interval}).{control}")
    return "\n".join(lines)


def findings(rows: Sequence[Row], rungs: Sequence[Mapping[str, Any]]) -> str:
    """Counts of the verdicts, and the three most important findings as a list."""
    by_key = {row.key: row for row in rows}
    counts = {word: sum(row.verdict == word for row in rows) for word in ("holds", "does not hold", "cannot tell")}
    sentence = (
        f"Of {len(rows)} measurements of the two papers' claims, {counts['holds']} hold at the scale of these studies, "
        f"{counts['does not hold']} do not, and {counts['cannot tell']} are open: {_why_open(rows)}."
    )
    listed = [
        f"**{word.capitalize()}:** " + "; ".join(_titles(rows, word)) + "." for word in ("holds", "does not hold")
    ]
    found = (_layer_finding(by_key), _taxonomy_finding(by_key, rungs), _expert_finding(by_key))
    return "\n".join((sentence, "", *(f"- {line}" for line in (*listed, *found) if line)))


def _titles(rows: Sequence[Row], verdict: str) -> list[str]:
    return list(dict.fromkeys(row.claim for row in rows if row.verdict == verdict))


def _why_open(rows: Sequence[Row]) -> str:
    """How many claims are open for which reason."""
    flaws = [row.flaw for row in rows if row.verdict == "cannot tell"]
    at_end = sum("end of the grid" in flaw for flaw in flaws)
    seed, wide = flaws.count(ONE_SEED), flaws.count("")
    reasons = (
        (at_end, "because best widths lie at an end of the grid"),
        (seed, "because there is one seed"),
        (len(flaws) - at_end - seed - wide, "because FLOPs differ"),
        (wide, "because the interval or p leaves both"),
    )
    return ", ".join(f"{count} {why}" for count, why in reasons if count)


def _said(row: Row) -> str:
    value, interval = row.shown()
    return f"{value} {interval} ({row.verdict})"


def _correlations(rungs: Sequence[Mapping[str, Any]], task: str, exponent: str) -> str:
    return ", ".join(_sign(row["spearman"]) for row in rungs if (row["task"], row["exponent"]) == (task, exponent))


def _taxonomy_finding(rows: Mapping[str, Row], rungs: Sequence[Mapping[str, Any]]) -> str | None:
    known = [task for task in ("text", "teacher", "teacher-small", "pixels") if f"omega-{task}" in rows]
    if not known:
        return None
    # A study whose grid holds most of the best widths says more.
    task = min(known, key=lambda task: rows[f"omega-{task}"].flaw != "")
    omega, psi, nu = (rows[f"{key}-{task}"] for key in ("omega", "psi", "nu"))
    budgets = sorted({row["budget_flops"] for row in rungs if row["task"] == task})
    return (
        f"**Exponents, task {task}:** from {_power(budgets[0])} to {_power(budgets[-1])} FLOPs a run the rank correlation "
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
        "claims": claims_table(rows),
        "exponents": exponents_table(rungs) if rungs else "Not measured yet.",
        **{topic: topic_lines(of_topic(rows, topic)) for topic in TOPICS},
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
