"""The site builds without a warning, so without a broken link, and shows what code and measurements say today."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import speed_page

ROOT = Path(__file__).parents[2]
PAGES = [*(f"reference/{name}.md" for name in ("cli", "spec-keys", "results", "speed")), "design/log/index.md"]
"""Pages that docs/generate.py writes."""
OUTSIDE = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?:https?:)?//", re.I)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--fail-on-warning", "--keep-going"]
    command = [sys.executable, "-m", "sphinx", *options, "-c", str(ROOT / "docs"), str(ROOT), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_on_the_site_and_fetches_nothing(site: Path) -> None:
    pages = {path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not (site / page).is_file()} == set()
    for page in site.rglob("*.html"):
        assert not OUTSIDE.findall(page.read_text(encoding="utf-8")), page


def test_the_reference_has_the_public_names(site: Path) -> None:
    for name in (
        "layers.EinsumLinear",
        "layers.merged",
        "swap.swap_linear",
        "compression.compress",
        "projection.project_",
    ):
        page = site / f"docs/reference/python/{name.partition('.')[0]}.html"
        assert f'id="einsearch_cli.{name}"' in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_current(name: str, generated: dict[str, str]) -> None:
    assert generated[name] == (ROOT / "docs" / name).read_text(encoding="utf-8"), "run: python docs/generate.py"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages, written in a separate process, as plug-ins of other tests may be registered in this one."""
    folder = tmp_path_factory.mktemp("generated")
    subprocess.run([sys.executable, str(ROOT / "docs/generate.py"), str(folder)], check=True, cwd=ROOT)
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.md")}


def test_figures_of_the_speed_page_come_from_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A speed-up that is higher by one in the file is so on the page."""
    assert "| `monarch` | 7.2× | 1.36 |" in speed_page.page()
    read = speed_page._read

    def faster(name: str) -> dict[str, object]:
        document = read(name)
        for found in document.get("measurements", ()):
            if "speedup" in found:
                found["speedup"] += 1
        return document

    monkeypatch.setattr(speed_page, "_read", faster)
    assert "| `monarch` | 8.2× | 1.36 |" in speed_page.page()
