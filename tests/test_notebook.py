"""The tour in examples/ runs, and prints its stored outputs."""

import json
import os
import re
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


def test_the_text_of_the_tour_is_of_its_table_and_has_short_lines() -> None:
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert [line for line in text.splitlines() if len(line) > 120] == []
    (table,) = ("".join(cell["outputs"][0]["text"]) for cell in cells if "".join(cell["source"]).startswith("%%bash"))
    monarch, dense = (re.split(r" {2,}", line) for line in table.splitlines()[2:4])
    assert monarch[6:8] == ["−9.5%", "better"]
    assert "Monarch's loss is 9.5% lower than dense's" in text
    widths = [16, 24, 32, 48]
    assert {int(monarch[10]), int(dense[10])} <= set(widths[1:-1]), "inside the grid, as the text says"


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
