"""A study from the words and options of `einsearch rank`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from einsearch_cli.cli.option_names import option_of
from einsearch_cli.cli.options import as_words, whole_list, whole_parser
from einsearch_cli.cli.structure_input import read_structures, read_word, refuse_file_as_structure
from einsearch_cli.errors import SpecError, StructureError
from einsearch_cli.shipped import Kind, refuse_missing_data, refuse_near_spec, shipped_path

if TYPE_CHECKING:
    from einsearch_cli.search.spec import StudySpec
    from einsearch_cli.settings import Given
    from einsearch_cli.structures.safe_yaml import Location

_PARTS: Final = frozenset({"explore", "halving"})
"""Parts of a study whose settings have options of their own, each replaced alone."""


def overrides_of(
    task: str | None, text: Path | None, widths: str | None, others: Mapping[str, Any], images: Path | None = None
) -> dict[str, Any]:
    """The settings that options give, without those that are not given."""
    if text and images:
        raise SpecError("--text and --images are data of two tasks: a study has one", remedy="keep one of them")
    of_data = "text" if text else "pixels" if images else None
    given: dict[str, Any] = {**others, "task": task or of_data}
    if widths is not None:
        given["widths"] = whole_list("--widths", widths, 1, 1_000_000, example="64,128,256")
    if text is not None:
        given["task_settings"] = {"data": {"text": str(text)}}
    if images is not None:
        given["task_settings"] = {"images": str(images)}
    return {key: value for key, value in given.items() if value is not None}


def read_study(words: Sequence[str], overrides: dict[str, Any]) -> tuple[StudySpec, Path]:
    """The study, and the folder to which its files are relative."""
    from einsearch_cli.search.spec import BUDGETS, load_study_spec, parse_study_spec
    from einsearch_cli.structures import is_structure_file

    words = [shipped_path(word, Kind.study, Kind.structures) for word in words]
    given = overrides.keys() | {name for part in _PARTS for name in overrides.get(part, {})}
    by_options = partial(_by_options, given - {"task_settings", *_PARTS})
    if len(words) == 1 and words[0].lower().endswith((".yaml", ".yml")):
        if not overrides.get("task_settings"):
            refuse_missing_data(Path(words[0]), "--text PATH", "--images PATH")
        spec = load_study_spec(Path(words[0]))
        merged = spec.model_dump(exclude_unset=True)
        if any(name in overrides for name in BUDGETS):
            merged = {key: value for key, value in merged.items() if key not in BUDGETS}
        merged |= overrides
        merged["task_settings"] = _merged_settings(spec, overrides)
        for part in _PARTS & overrides.keys():
            if (own := getattr(spec, part)) is not None:
                merged[part] = own.model_dump(exclude_unset=True) | overrides[part]
        return parse_study_spec(merged, by_options), Path(words[0]).parent
    data: dict[str, Any] = {"structures": [], "files": [], **overrides}
    for word in words:
        kind, _, rest = word.partition(":")
        if kind == "grid" and "space" in data:
            raise SpecError(f"{word[:40]} is the second grid: a study has one", remedy=f"keep one, {word[:40]}")
        if kind == "grid":
            data["space"] = {"grid": whole_parser("grid:", 1, 24, example=2)(rest)}
        elif word == "-":
            data["structures"] += [str(named.layer) for named in read_structures([word], None)]
        elif is_structure_file(word):
            data["files"].append(word)
        else:
            refuse_file_as_structure(word)
            try:
                read_word(word)
            except StructureError:
                refuse_near_spec(word, Kind.study, Kind.structures)
                raise
            data["structures"].append(word)
    return parse_study_spec(data, by_options), Path()


def _merged_settings(spec: StudySpec, overrides: dict[str, Any]) -> dict[str, Any]:
    """The task's settings with those of options; a text takes the place of any other source in `data`."""
    same_task = overrides.get("task", spec.task) == spec.task
    settings = spec.task_settings if same_task else {}
    changes: dict[str, Any] = overrides.get("task_settings", {})
    if changes and isinstance(data := settings.get("data"), dict):
        kept = {key: value for key, value in data.items() if key not in ("tokens", "dataset", "token_type")}
        changes = {"data": kept | changes["data"]}
    return settings | changes


def _by_options(given: Collection[str], location: Location) -> Given:
    """How messages name settings from options; those from a file were checked before."""
    from einsearch_cli.settings import Given, in_code

    key = str(location[-1]) if location and location[0] in _PARTS else str(location[0]) if location else ""
    option = option_of(key)
    return Given(option, lambda value: f"{option} {as_words(value)}") if key in given else in_code(location)
