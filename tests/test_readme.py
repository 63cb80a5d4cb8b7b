"""Every example in the README runs, and prints what the README shows."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.cli.main import main
from einsearch_cli.cli.output import table
from einsearch_cli.reports import headline, ranking_table
from einsearch_cli.reports.stored import read_study
from einsearch_cli.structures.spec_file import read_structure_file

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\$ (einsearch .+?)\n(.*?)(?=^\$ |^```)", README, re.M | re.S)
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
REST = "..."
"""The mark for any text within a shown line or, on a line of its own, for any number of lines."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the examples: the studies, and a folder of text."""
    made = tmp_path_factory.mktemp("readme")
    (made / "specs").symlink_to(ROOT / "specs")
    (made / "my_corpus").mkdir()
    for name in ("cache.py", "search/store.py", "structures/extent.py"):
        source = ROOT / "einsearch_cli" / name
        (made / "my_corpus" / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return made


def pattern_of(shown: str) -> re.Pattern[str]:
    """The pattern that a whole output has to match.

    >>> bool(pattern_of("a ... c\\n...\\nz\\n").fullmatch("a b c\\n1\\n2\\nz\\n"))
    True
    >>> bool(pattern_of("a\\n").fullmatch("a\\nb\\n"))
    False
    """
    lines = (
        "(?:.*\\n)*?" if line.strip() == REST else re.escape(line.rstrip()).replace(re.escape(REST), ".*") + " *\\n"
        for line in shown.splitlines()
    )
    return re.compile("".join(lines))


def has_three_structures_of_the_family(path: Path) -> None:
    found = [named.layer for named in read_structure_file(path)]
    assert len(set(found)) == 3


def is_the_picture_of_a_btt(path: Path) -> None:
    drawing = path.read_text(encoding="utf-8")
    assert drawing.startswith("<svg")
    assert all(f">{tensor}<" in drawing for tensor in "XABY")


def has_a_loss_for_every_run(path: Path) -> None:
    document = json.loads((path / "results.json").read_text(encoding="utf-8"))
    runs = [run for part in ("results", "tuning", "confirmation") for run in document[part]]
    assert {run["status"] for run in runs} == {"ok"}
    assert len(runs) > 8
    assert len(document["ranking"]) == 4
    assert all(0 < entry["loss"] < 10 for entry in document["ranking"])
    assert (path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


WRITTEN: dict[str, Callable[[Path], None]] = {
    "btt.yaml": has_three_structures_of_the_family,
    "btt.svg": is_the_picture_of_a_btt,
    "runs/mine": has_a_loss_for_every_run,
}
"""The required contents of a file or folder named by `--out`."""


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_readme_example(
    command: str, shown: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    words = shlex.split(command)[1:]
    code = main(words)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert pattern_of(shown).fullmatch(captured.out), f"shown:\n{shown}\nfound:\n{captured.out}"
    if "--out" in words:
        name = words[words.index("--out") + 1]
        WRITTEN[name](folder / name)


def compared_letters(shown: str) -> int:
    return sum(char.isalnum() for char in shown.replace(REST, ""))


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_every_example_has_something_to_compare(command: str, shown: str) -> None:
    assert compared_letters(shown) >= 20 or "--out" in shlex.split(command)


def test_the_readme_shows_all_three_commands() -> None:
    assert {command.split()[1] for command, _ in EXAMPLES} >= {"enumerate", "classify", "rank"}


def test_python_of_the_readme_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Blocks run from top to bottom, since one may use the results of those above."""
    names: dict[str, Any] = {}
    for code in PYTHON:
        names = names_after(code, tmp_path, names)
        assert bool(capsys.readouterr().out) == ("print(" in code), code


def names_after(code: str, folder: Path, before: dict[str, Any]) -> dict[str, Any]:
    path = folder / "block.py"
    path.write_text(code, encoding="utf-8")
    return before | runpy.run_path(str(path), init_globals=before)


def test_the_layer_of_the_readme_is_a_drop_in_and_its_swap_spares_the_decoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text around the first block is true."""
    import torch

    names = names_after(PYTHON[0], tmp_path, {})
    layer, model = names["layer"], names["model"]
    assert isinstance(layer, torch.nn.Module)
    assert isinstance(model, torch.nn.Module)
    assert layer(torch.randn(3, 1024)).shape == (3, 4096)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert "EinsumLinear" in {kind for name, kind in kinds.items() if "decoder" not in name}
    assert "EinsumLinear" not in {kind for name, kind in kinds.items() if "decoder" in name}
    assert "replaced" in capsys.readouterr().out


def test_the_ranking_shown_is_that_of_the_stored_study() -> None:
    """Table and sentences come from the runs in examples/demo/results.json."""
    study = read_study(ROOT / "examples" / "demo")
    shown = ranking_table(study)
    rows = table([dict(zip(shown.headers, row, strict=True)) for row in shown.rows])
    said = f"loss: {study.loss_name}, at the best width"
    (block,) = re.findall(r"^```text\n(#    structure.*?)^```", README, re.M | re.S)
    assert "\n".join([*(line.rstrip() for line in rows.splitlines()), said, "", *headline(study), ""]) == block


def test_files_in_specs_are_valid() -> None:
    from einsearch_cli.search.spec import load_study_spec
    from einsearch_cli.training.full import load_train_specs

    paths = sorted((ROOT / "specs").rglob("*.yaml"))
    assert len(paths) > 10
    for path in paths:
        text = path.read_text()
        if "steps:" in text or "tokens:" in text:
            _, specs = load_train_specs(path)
            assert all(spec.config(vocabulary=512).layers for spec in specs)
        else:
            assert len(load_study_spec(path).candidates(path.parent)) >= 2
