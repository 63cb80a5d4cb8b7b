"""Commands start with only what they need: what each of them imports, and how early it refuses errors."""

import ast
import importlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import einsearch_cli
from einsearch_cli.cli.commands import SUMMARIES
from einsearch_cli.search.store import StudyStore

LIBRARIES = (
    "torch",
    "sympy",
    "scipy",
    "optuna",
    "sqlalchemy",
    "networkx",
    "pydantic",
    "numpy",
    "yaml",
    "rich",
)
_RUN = """
import sys
from einsearch_cli.cli.main import main
code = main(sys.argv[1:])
print("CODE", code, *sorted(set(sys.modules) & set({libraries!r})), file=sys.stderr)
"""


def imported_by(*words: str) -> tuple[int, set[str]]:
    """Exit code of a command line in a separate process, and which of the large libraries it imported."""
    code = _RUN.format(libraries=LIBRARIES)
    outcome = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    exit_code, *names = outcome.stderr.splitlines()[-1].removeprefix("CODE ").split()
    return int(exit_code), set(names)


@pytest.mark.parametrize("name", [None, *SUMMARIES])
def test_help_imports_nothing_large(name: str | None) -> None:
    assert imported_by(*([] if name is None else [name]), "--help") == (0, set())


def test_the_list_of_commands_says_what_their_modules_say() -> None:
    found = {name: importlib.import_module(f"einsearch_cli.cli.{name}").HELP.partition("\n")[0] for name in SUMMARIES}
    assert found == SUMMARIES
    folder = Path(einsearch_cli.__file__).parent / "cli"
    assert set(SUMMARIES) == {path.stem for path in folder.glob("*.py") if "\nHELP = " in path.read_text()}


WITHOUT_TORCH = [
    ("params", "s"),
    ("params", "xl", "--structure", "btt:r=4", "--gpu", "h100"),
    ("tasks",),
    ("tokenize", "{text}", "--tokenizer", "characters", "--out", "{folder}/tokens"),
    ("classify", "monarch", "--d-in", "1024"),
    ("families",),
    ("suggest", "--d-in", "4096", "--d-out", "11008", "--keep", "1/8"),
    ("evidence", "list"),
]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "some.txt").write_text("to be or not to be " * 200)
    return {"text": str(tmp_path / "some.txt"), "folder": str(tmp_path)}


@pytest.mark.parametrize("words", WITHOUT_TORCH, ids=" ".join)
def test_arithmetic_needs_no_torch(words: tuple[str, ...], places: dict[str, str]) -> None:
    code, names = imported_by(*(word.format(**places) for word in words))
    assert code == 0
    assert not names & {"torch", "scipy", "optuna", "networkx"}


REFUSED = [
    ("rank", "{folder}/nothing.yaml"),
    ("rank", "monarch", "--task", "tutor"),
    ("search", "--sampler", "tpr"),
    ("search", "--factors", "1"),
    ("search", "--budget", "1e4"),
    ("rank", "monarch", "--widths", "64", "--budget", "1e3"),
    ("rank", "block-dense:blocks=4096", "--widths", "64"),
    ("rank", "monarch", "--text", "{folder}/nothing.txt"),
    ("rank", "monarch", "--task", "text", "--widths", "65"),
    ("train", "{folder}/nothing.yaml"),
    ("generate", "{folder}/nothing", "--prompt", "a"),
    ("generate", "{folder}", "--prompt", "a", "--temperature", "-1"),
    ("export", "{folder}/nothing", "--to", "onnx", "--out", "{folder}/a.onnx"),
    ("project", "{folder}/nothing", "--structure", "monarch", "--out", "{folder}/a"),
    ("project", "{folder}/nothing.safetensors", "--structure", "monarch", "--out", "{folder}/a.safetensors"),
    ("project", "{folder}/nothing", "--structure", "monrch", "--out", "{folder}/a"),
    ("tokenize", "{folder}/nothing.txt", "--out", "{folder}/tokens"),
    ("bench", "{folder}/nothing.yaml"),
    ("bench", "monrch"),
    ("bench", "--widths", "0"),
    ("bench", "--modes", "learning"),
    ("params", "s", "--structure", "monrch"),
    ("classify", "{folder}/nothing.yaml"),
    ("suggest", "--keep", "2"),
    ("evidence", "add", "{folder}/nothing"),
]


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_errors_of_the_command_line_are_reported_before_torch_is_loaded(
    words: tuple[str, ...], places: dict[str, str]
) -> None:
    code, names = imported_by(*(word.format(**places) for word in words))
    assert code == 2
    assert not names & {"torch", "scipy", "optuna", "networkx"}


@pytest.mark.parametrize("kind", ["a file", "another study", "no database"])
def test_a_folder_that_cannot_be_used_is_refused_before_data_are_prepared(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "a file":
        out.write_text("")
    elif kind == "another study":
        with StudyStore(out, "a fingerprint of other settings"):
            pass
    else:
        out.mkdir()
        (out / "study.db").write_text("no database")
    code, names = imported_by("rank", "monarch", "--widths", "64", "--out", str(out))
    assert code == 2
    assert "torch" not in names


@pytest.mark.parametrize("words", ["tasks", "suggest --d-in 4096 --d-out 11008 --keep 1/8"])
def test_commands_without_torch_start_fast(words: str) -> None:
    """One of three starts takes less than 1.8 s of CPU time: 0.9 s was measured, and over 1 s while the suite ran."""

    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "einsearch_cli", *words.split()], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(cpu_s() < 1.8 for _ in range(3))


def test_numbers_are_written_without_the_pages_of_studies() -> None:
    code = "import sys, einsearch_cli.reports.numbers; print(*sys.modules)"
    names = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "einsearch_cli.reports.numbers" in names
    assert not names & {"einsearch_cli.reports.sections", "einsearch_cli.search", "einsearch_cli.scaling"}


def _lazy_packages() -> list[Path]:
    root = Path(einsearch_cli.__file__).parent
    return [path for path in root.rglob("__init__.py") if "lazy_names(" in path.read_text()]


@pytest.mark.parametrize("path", _lazy_packages(), ids=lambda path: str(path.parent.name))
def test_lazy_packages_give_what_they_promise(path: Path) -> None:
    """`__all__` lists exactly what type checkers see, and every name is available on first use."""
    name = ".".join(path.parent.relative_to(Path(einsearch_cli.__file__).parent.parent).parts)
    package = importlib.import_module(name)
    seen = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{name}.")
        for alias in node.names
    }
    assert seen - {"lazy_names", "after_import"} == set(package.__all__)
    modules = {file.stem for file in path.parent.glob("*.py")} | {folder.name for folder in path.parent.glob("*/")}
    for exported in package.__all__:
        assert not isinstance(getattr(package, exported), type(sys))
        assert exported not in modules or exported in vars(package)
