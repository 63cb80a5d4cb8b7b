"""The scripts in examples/clients run, are short, and print what they should."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from einsearch_cli import EinsumLinear

FOLDER = Path(__file__).parents[2] / "examples" / "clients"
NEEDS = {
    "trainer": ("transformers", "accelerate"),
    "lightning_training": ("lightning",),
    "offload": ("transformers", "accelerate"),
    "lora": ("transformers", "peft"),
    "evaluation": ("transformers", "lm_eval"),
}


def test_every_script_is_listed_and_has_at_most_30_lines() -> None:
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    assert scripts.keys() == NEEDS.keys()
    assert {name for name, text in scripts.items() if text.count("\n") > 30} == set()


@pytest.mark.filterwarnings("ignore")  # the packages warn about each other
@pytest.mark.parametrize("name", NEEDS)
def test_a_script_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in NEEDS[name]:
        pytest.importorskip(package)
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "out")])
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path(str(FOLDER / f"{name}.py"))
    said = capsys.readouterr().out
    if name == "trainer":
        assert "continuation [3, 4, 5, 6, 7, 8, 9, 10]" in said
        assert any(isinstance(module, EinsumLinear) for module in made["trained"].modules())
    elif name == "lightning_training":
        assert float(said.split()[-1]) < 1
    elif name == "offload":
        assert "equal" in said
        assert "on meta: 0 of" not in said
    elif name == "lora":
        assert float(said.split()[-1]) < 1e-4
    else:
        assert "byte_perplexity,none': 2" in said  # of 256 bytes, untrained
