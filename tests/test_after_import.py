"""Functions that are called after the import of a module, in separate processes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = "told = []\ndef tell():\n    import quiet\n    told.append(quiet.VALUE)\n"


@pytest.mark.parametrize("is_there", [True, False])
def test_the_function_is_called_once_when_the_module_is_whole(tmp_path: Path, is_there: bool) -> None:
    (tmp_path / "quiet.py").write_text("FIRST = 1\nVALUE = 2\n")
    (tmp_path / "teller.py").write_text(MODULE)
    watch = "after_import('quiet', 'teller:tell')"
    look = "import importlib.util; importlib.util.find_spec('quiet')"
    lines = [
        "import sys",
        "from einsearch_cli.after_import import after_import",
        *(["import quiet", watch] if is_there else [watch, look, "assert 'teller' not in sys.modules", "import quiet"]),
        "import importlib, teller",
        "importlib.reload(quiet)",
        "print(teller.told, quiet.__loader__.__class__.__name__, quiet.__spec__.loader is quiet.__loader__)",
    ]
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.split("\n")[0] == "[2] SourceFileLoader True"


def test_a_module_that_does_not_exist_raises_the_usual_error() -> None:
    lines = [
        "from einsearch_cli.after_import import after_import",
        "after_import('no_such_module', 'builtins:print')",
        "import no_such_module",
    ]
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in found.stderr


def test_a_package_of_another_version_is_imported_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text("VALUE = 2\n")
    lines = [
        "from einsearch_cli.after_import import after_import",
        "after_import('quiet', 'builtins:no_such_function')",
        "import quiet",
        "print(quiet.VALUE)",
    ]
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout == "2\n"
    assert "UserWarning: einsearch does not work with a package that was imported: builtins:no_such" in found.stderr


def test_names_of_the_package_are_completed_and_nothing_heavy_is_imported() -> None:
    lines = [
        "import sys, einsearch_cli",
        "print(dir(einsearch_cli))",
        "print({'torch', 'transformers'} & set(sys.modules))",
    ]
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    names, heavy = found.splitlines()
    public = ast.literal_eval(names)
    assert {"EinsumLinear", "swap_linear", "classify", "read_study", "load_swapped"} <= set(public)
    assert len(public) <= 25
    assert [name for name in public if name.startswith("_")] == ["__version__"]
    assert heavy == "set()"
