"""The tour in examples/ runs, and prints its stored outputs."""

import os
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import compare

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "examples" / "tour.ipynb"


def printed(cell: Any) -> str:
    """The stdout of a cell; its stderr says how busy the machine is."""
    return "".join(output["text"] for output in cell.get("outputs", ()) if output.get("name") == "stdout")


def test_the_tour_runs_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    stored = nbformat.read(TOUR, as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    run = nbclient.NotebookClient(
        nbformat.read(TOUR, as_version=4), timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert len(code) >= 6
    assert all(cell.outputs for cell in code)
    for shown, found in zip(code, (cell for cell in run.cells if cell.cell_type == "code"), strict=True):
        assert {output.output_type for output in shown.outputs} == {output.output_type for output in found.outputs}
        if shown.source.startswith("%%bash"):  # losses differ in their last digits on other processors
            compare(printed(shown), printed(found), shown.source, near=True)
        else:
            assert printed(shown) == printed(found)
