"""Evidence from studies, one small file each: the package has some, and users add their own.

A file contains the entry of every structure in the study's ranking, the study's scale (budgets and widths) and its
source. Reading it needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.files import write_atomically
from einsearch_cli.settings import folder_name
from einsearch_cli.structures import LayerSpec, layer_family, parse_layer
from einsearch_cli.structures.record import Record

FORMAT: Final = 1
_KEPT: Final = (
    "verdict", "compute_gain", "compute_gain_low", "compute_gain_high", "seconds_gain", "seconds_gain_low",
    "seconds_gain_high", "confirmed_gain", "confirmed_gain_low", "confirmed_gain_high",
)  # fmt: skip
"""Numbers of a ranking's entry that a file keeps."""
_OWN_KEY: Final = "least_budget_flops"
"""A key that files of evidence have and results.json of no command has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Record):
    """The result of one study for one structure."""

    structure: LayerSpec
    family: str
    rung: int | None
    """Highest rung that the structure reached, from 0; None without a finished run."""
    budget_flops: float | None
    """Training FLOPs of a run at that rung."""
    width: int | None
    """Best width measured at that rung."""
    seeds: int
    verdict: str
    """Verdict against the yardstick of the study."""
    compute_gain: float | None
    """The yardstick's training FLOPs divided by this structure's at equal loss."""
    compute_gain_low: float | None
    compute_gain_high: float | None
    seconds_gain: float | None
    """The yardstick's seconds divided by this structure's at equal loss, on the machine of the study."""
    seconds_gain_low: float | None
    seconds_gain_high: float | None
    confirmed_gain: float | None
    """The gain from runs that had no part in any decision; None if the structure was not confirmed."""
    confirmed_gain_low: float | None
    confirmed_gain_high: float | None

    @property
    def gain(self) -> tuple[float, float | None, float | None] | None:
        """The gain to quote, with its 95% interval: the confirmed one if there is one."""
        if self.confirmed_gain is not None:
            return self.confirmed_gain, self.confirmed_gain_low, self.confirmed_gain_high
        return None if self.compute_gain is None else (self.compute_gain, self.compute_gain_low, self.compute_gain_high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(Record):
    """The results of one study, with its scale and its source."""

    name: str
    task: str
    yardstick: LayerSpec
    least_budget_flops: float
    """Training FLOPs of a run of the cheapest rung."""
    most_budget_flops: float
    least_width: int
    """Smallest width of the networks on which the ranking rests."""
    most_width: int
    source: str
    """The file from which the evidence was made, as it was given."""
    digest: str
    """First 16 digits of the SHA-256 of that file."""
    commands: tuple[str, ...]
    """Commands that made the study."""
    environment: Mapping[str, str]
    findings: tuple[Finding, ...]
    format: int = FORMAT

    def of(self, structure: LayerSpec) -> Finding | None:
        """The finding for this very structure."""
        return next((found for found in self.findings if found.structure == structure), None)


def evidence_of(run: Path) -> Evidence:
    """The evidence in the results.json of a study, or in its folder.

    Raises:
        SpecError: the file is missing, or does not hold the results of a study.
    """
    file = run / "results.json" if run.is_dir() else run
    try:
        content = file.read_bytes()
        document = json.loads(content)
    except FileNotFoundError:
        raise SpecError(
            f"{file}: no such file", remedy="give a folder that `einsearch rank` or `search` wrote, or its results.json"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{file} cannot be read as JSON: {error}", remedy="run the study again") from error
    if isinstance(document, dict) and _OWN_KEY in document:
        return _read(document, str(file))
    if not isinstance(document, dict) or not isinstance(document.get("ranking"), list) or "results" not in document:
        raise SpecError(
            f"{file} holds no study of `einsearch rank` or `einsearch search`: only these compare structures at equal "
            "training FLOPs, so nothing else can be evidence",
            remedy="give the folder of such a study, or its results.json",
        )
    try:
        return _made(document, str(run), hashlib.sha256(content).hexdigest()[:16])
    except (LookupError, TypeError, ValueError, AttributeError, EinsearchError) as error:
        raise SpecError(
            f"{file} is damaged, or of another version: {type(error).__name__}: {error}", remedy="run the study again"
        ) from error


def _made(document: Mapping[str, Any], source: str, digest: str) -> Evidence:
    main = [row for row in document["results"] if row["stage"] == "main" and row["status"] == "ok"]
    budgets, widths = [row["budget_flops"] for row in main], [row["width"] for row in main]
    if not main:
        raise SpecError(f"{source}: the study has no finished run", remedy="give another study")
    findings = [
        Finding(
            structure=parse_layer(row["structure"]),
            family=row["family"],
            rung=row["rung"],
            budget_flops=row["budget_flops"],
            width=row["width"],
            seeds=row["seeds"],
            **{name: row[name] for name in _KEPT},
        )
        for row in document["ranking"]
    ]
    return Evidence(
        name=str(document["title"]),
        task=document["task"],
        yardstick=parse_layer(document["yardstick"]),
        least_budget_flops=min(budgets),
        most_budget_flops=max(budgets),
        least_width=min(widths),
        most_width=max(widths),
        source=source,
        digest=digest,
        commands=tuple(document["commands"]),
        environment=dict(document["environment"]),
        findings=tuple(findings),
    )


def _read(document: Mapping[str, Any], where: str) -> Evidence:
    if document.get("format") != FORMAT:
        raise SpecError(
            f"{where} holds evidence of format {document.get('format')!r}: format {FORMAT} is read",
            remedy="make it again with `einsearch evidence add RUN`",
        )
    try:
        return Evidence.from_json(dict(document))
    except (LookupError, TypeError, ValueError, AttributeError, EinsearchError) as error:
        raise SpecError(
            f"{where} is not a file of evidence: {type(error).__name__}: {error}",
            remedy="make it again with `einsearch evidence add RUN`",
        ) from error


def user_folder() -> Path:
    """The folder for `einsearch evidence add`: EINSEARCH_EVIDENCE, or einsearch/evidence in the user's data folder."""
    if own := os.environ.get("EINSEARCH_EVIDENCE"):
        return Path(own)
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "einsearch" / "evidence"


def known_evidence(runs: Iterable[Path] = ()) -> list[Evidence]:
    """The evidence of the package, then the user's, then that of these runs; each study once.

    Raises:
        SpecError: a file that cannot be read.
    """
    stored = (item for item in files(__package__).joinpath("studies").iterdir() if item.name.endswith(".json"))
    found = [
        _read(json.loads(item.read_text("utf-8")), item.name) for item in sorted(stored, key=lambda item: item.name)
    ]
    folder = user_folder()
    found += [evidence_of(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []
    found += map(evidence_of, runs)
    return list({item.digest: item for item in found}.values())


def add_evidence(runs: Sequence[Path], folder: Path, name: str | None = None) -> list[Path]:
    """Write the evidence of each run into a file of the folder; returns the files, in order.

    Study and file are called by the study's name, or by `name` if there is one run. A file of another study is not
    replaced.

    Raises:
        SpecError: a run that cannot be read, or a name that another study's file has.
        OutputError: the folder cannot be written.
    """
    written = []
    for run in runs:
        evidence = evidence_of(run)
        evidence = replace(evidence, name=name or evidence.name)
        path = folder / f"{folder_name(evidence.name, 'study')}.json"
        if path.exists() and (there := evidence_of(path)).source != evidence.source:
            raise SpecError(f"{path} holds the evidence of {there.source}", remedy="give another --name")
        text = json.dumps(_finite(evidence.to_json()), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(path, text + "\n")
        written.append(path)
    return written


def _finite(value: Any) -> Any:
    """The value, with null for numbers that strict JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None


def matching(evidence: Iterable[Evidence], structure: LayerSpec) -> Iterator[tuple[Evidence, Finding, bool]]:
    """Findings on a structure: those of itself (True), else those of its family with other parameters (False)."""
    for study in evidence:
        if (own := study.of(structure)) is not None:
            yield study, own, True
            continue
        family = layer_family(structure)
        if family != "generic":
            for found in study.findings:
                if found.family == family:
                    yield study, found, False
