"""The way of x through a layer: few functions, all named in docs/design/architecture.md."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from einsearch_cli import layers
from einsearch_cli.layers import EinsumLinear

FOLDER = Path(layers.__file__).parent
DOCS = (Path(__file__).parents[2] / "docs" / "design" / "architecture.md").read_text(encoding="utf-8")


def walk(function: Callable[[], object], x: Tensor) -> list[str]:
    """The functions of our layers that receive x, or rows of it, each at its first call."""
    found: list[str] = []
    memory = x.untyped_storage().data_ptr()

    def is_x(value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage().data_ptr() == memory

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(FOLDER)) or code.co_name.startswith("<"):
            return
        names = code.co_varnames[: code.co_argcount + bool(code.co_flags & 4)]
        given = [frame.f_locals.get(name) for name in names]
        if any(is_x(part) for item in given for part in (item if isinstance(item, (tuple, list)) else (item,))):
            module = Path(code.co_filename).relative_to(FOLDER).with_suffix("")
            name = f"{'.'.join(module.parts)}.{code.co_name}"
            if name not in found:
                found.append(name)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def returns(names: list[str]) -> int:
    """How often the way returns to a file that it has left."""
    files = [name.rpartition(".")[0] for name in names]
    return sum(here != before and here in files[:at] for at, (before, here) in enumerate(pairwise(files), start=1))


@pytest.mark.parametrize("use", ["training", "inference"])
def test_the_way_of_x(use: str) -> None:
    layer, x = EinsumLinear(1024, 1024, "monarch"), torch.randn(1000, 1024, requires_grad=True)

    def call() -> None:
        with torch.set_grad_enabled(use == "training"):
            y = layer(x)
        if use == "training":
            y.backward(torch.ones_like(y))

    call()
    found = walk(call, x)
    assert len(found) <= 25
    assert returns(found) <= 12
    listed = DOCS.partition(f"<!-- the way of x: {use} -->\n")[2].partition("\n\n")[0]
    assert " ".join(listed.split()) == ", ".join(f"`{name}`" for name in found)
