"""The code on the page about other libraries runs, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "hugging-face.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.filterwarnings("ignore")  # the packages warn about each other
def test_its_code_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("transformers", "accelerate", "peft", "torchao"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    said = []
    for code in BLOCKS:
        exec(code, names)  # noqa: S102
        said.append(capsys.readouterr().out)
    assert "model.layers.0.mlp.experts.gate_up_proj  64 -> 256 x 4:" in " ".join(said[0].split("\n"))
    assert "relative error" in said[0]
    assert "trainable params" in said[2]
    assert said[3].strip() in ("{torch.int8, torch.float32}", "{torch.float32, torch.int8}")
