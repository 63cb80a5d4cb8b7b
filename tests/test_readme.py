"""Every `einsearch` command in the README runs, and prints what the README shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from einsearch_cli.cli.main import main

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"^\$ (einsearch .+?)\n(.*?)(?=^\$ |^```)", README.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples need beside them: the studies, and a folder of text."""
    made = tmp_path_factory.mktemp("readme")
    (made / "specs").symlink_to(README.parent / "specs")
    (made / "my_corpus").mkdir()
    for name in ("data/cache.py", "search/store.py", "structures/extent.py"):
        source = README.parent / "einsearch_cli" / name
        (made / "my_corpus" / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return made


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_readme_example(
    command: str, shown: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    code = main(shlex.split(command)[1:])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    expected = [line.rstrip() for line in shown.splitlines()]
    found = [line.rstrip() for line in captured.out.splitlines()]
    if expected[-1:] == ["..."]:
        assert found[: len(expected) - 1] == expected[:-1]
    elif expected:
        assert found == expected


def test_the_readme_shows_all_three_commands() -> None:
    assert {command.split()[1] for command, _ in EXAMPLES} >= {"enumerate", "classify", "rank"}


SPECS = README.parent / "specs"


def test_files_in_specs_are_valid() -> None:
    from einsearch_cli.search.spec import load_study_spec
    from einsearch_cli.training.full import load_train_specs

    paths = sorted((README.parent / "specs").glob("*.yaml"))
    assert paths
    for path in paths:
        if path.name.startswith("train-"):
            _, specs = load_train_specs(path)
            assert all(spec.config(vocabulary=256).layers for spec in specs)
        else:
            assert len(load_study_spec(path).candidates(path.parent)) >= 2
