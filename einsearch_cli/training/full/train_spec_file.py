"""Full runs from a YAML file: common keys, and a list of runs that change some of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from einsearch_cli.data.tokens import DataSettings
from einsearch_cli.errors import SpecError
from einsearch_cli.settings import Given, folder_name, in_code, read_settings
from einsearch_cli.structures.safe_yaml import Location, YamlDocument, load_yaml_file
from einsearch_cli.training.full.train_spec import TrainSpec

RUNS = "runs"
MAX_RUNS = 200
EXAMPLE: Final = "write its keys: model: {preset: s}, data: {text: book.txt}, steps: 1000"


def load_train_specs(
    path: Path, changes: Mapping[str, Any] | None = None, texts: Mapping[str, str] | None = None
) -> tuple[str, list[TrainSpec]]:
    """The file's name and its runs, in order; a file without `runs` has one run, of that name.

    Args:
        path: a YAML file; paths in it are relative to its folder.
        changes: values that replace those of the file in every run; a dot in a key leads to a nested key.
        texts: the changes as they were typed, for messages.

    Raises:
        SpecError: with file and line of the first key or value that is wrong.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "two.yaml")
    ...     _ = file.write_text("{steps: 9, model: {preset: s}, runs: [{name: a}, {name: b, seed: 1}]}")
    ...     name, runs = load_train_specs(file, {"optimizer.learning_rate": 1e-3})
    >>> name, [(run.name, run.seed, run.steps, run.optimizer.learning_rate) for run in runs]
    ('two', [('a', 0, 9, 0.001), ('b', 1, 9, 0.001)])
    """
    document = load_yaml_file(path)
    if not isinstance(document.data, dict):
        raise SpecError(f"{path}: a training run is a mapping of keys", remedy=EXAMPLE)
    common = {"name": folder_name(path.stem, "train"), **{str(key): value for key, value in document.data.items()}}
    wanted = _nested(changes or {})
    texts = texts or {}
    runs = common.pop(RUNS, None)
    if RUNS not in document.data:
        spec = read_settings(
            TrainSpec, _merged(_rebased(common, path.parent), wanted), _Places(document, wanted, texts)
        )
        return spec.name, [spec]
    if "name" in wanted:
        raise SpecError(f"--set name: {path} has several runs, each with its own", remedy="leave --set name out")
    merged = [_merged(_rebased(_merged(common, run), path.parent), wanted) for run in _checked_runs(runs, document)]
    places = _Places(document, wanted, texts)
    specs = [read_settings(TrainSpec, data, replace(places, run=(RUNS, n))) for n, data in enumerate(merged)]
    return read_settings(TrainSpec, {**merged[0], "name": common["name"]}, places).name, specs


def _checked_runs(runs: object, document: YamlDocument) -> list[dict[str, Any]]:
    """The list of runs, each a mapping with a name of its own."""
    where = document.where((RUNS,))
    if not isinstance(runs, list) or not 1 <= len(runs) <= MAX_RUNS:
        raise SpecError(f"{where}: runs is a list of 1 to {MAX_RUNS} mappings", remedy=EXAMPLE)
    names: set[str] = set()
    for number, run in enumerate(runs):
        where = document.where((RUNS, number))
        if not isinstance(run, dict) or not isinstance(run.get("name"), str):
            raise SpecError(f"{where}: a run is a mapping with a name", remedy="give it a name, such as name: dense")
        if run["name"] in names:
            raise SpecError(f"{where}: two runs are named {run['name']!r}", remedy="name them differently")
        names.add(run["name"])
    return runs


def _nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"a.b": value}` into nested mappings."""
    found: dict[str, Any] = {}
    for key, given in changes.items():
        parts = key.split(".")
        if parts[0] == RUNS or not all(parts):
            raise SpecError(
                f"--set {key}: a change is made to every run, by KEY or OUTER.KEY",
                remedy="for example --set optimizer.learning_rate=1e-3",
            )
        *outer, last = parts
        value: dict[str, Any] = {last: given}
        for part in reversed(outer):
            value = {part: value}
        found = _merged(found, value)
    return found


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; changes win."""
    result = dict(base)
    for key, value in changes.items():
        before = result.get(key)
        result[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result


@dataclass(frozen=True)
class _Places:
    """The place where each key of a run is given: with --set, in the run's own part of the file, or in the common one."""

    document: YamlDocument
    changes: Mapping[str, Any]
    texts: Mapping[str, str]
    """The text typed after --set, by dotted key."""
    run: Location = ()

    def __call__(self, location: Location) -> Given:
        """How a message names a setting: by --set, or by file and line."""
        named = in_code(location)
        if location and self._is_changed(location):
            text = self.texts.get(named.name)
            return Given(named.name, lambda value: f"--set {named.name}={value}", "--set: ", text, is_change=True)
        inner = location
        while inner and (*self.run, *inner) not in self.document.lines:
            inner = inner[:-1]
        place = (*self.run, *inner) if inner or not location else location
        text = self.document.text((*self.run, *location)) or self.document.text(location)
        return replace(named, place=f"{self.document.where(place)}: ", text=text)

    def _is_changed(self, location: Location) -> bool:
        """Whether a setting, or a mapping around it, was given with --set."""
        found: Any = self.changes
        for part in location:
            if not isinstance(found, Mapping):
                return True
            if part not in found:
                return False
            found = found[part]
        return not isinstance(found, Mapping)


def _rebased(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The keys, with paths of data read from the folder of their file."""
    return {**data, "data": DataSettings.rebased(data["data"], folder)} if "data" in data else data
