"""`einsearch bench --calibrate`: measure the constants of the planner's cost model and store them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from einsearch_cli.cli import console
from einsearch_cli.cli.options import Dtype
from einsearch_cli.cli.output import Format, render


def calibration_text(threads: int, dtype: Dtype, output: Format) -> str:
    """Measure and store the profile, and show it next to the defaults."""
    from dataclasses import asdict

    import torch

    from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, store_profile
    from einsearch_cli.speed import calibrate

    of_torch: torch.dtype = getattr(torch, dtype.value)
    profile = calibrate(of_torch, lambda name, step, steps: console.talk(f"measuring {name} ({step + 1} of {steps})"))
    path = store_profile(profile, threads, of_torch)
    console.talk(
        f"kept in {path}; layers use it from now on with {threads} thread(s) for {dtype.value}, delete it to go back"
    )
    if output in (Format.json, Format.jsonl):
        return json.dumps(asdict(profile), indent=2 if output is Format.json else None)
    ours, defaults = (dict(_constants(asdict(each))) for each in (profile, DEFAULT_CPU.of_itemsize(of_torch.itemsize)))
    rows = [_row(name, value, defaults[name]) for name, value in ours.items()]
    return render(rows, rows, output)


def _constants(profile: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number of a profile, with a name that gives its place."""
    from einsearch_cli.layers.plans.machine_profile import WIDTHS

    for name, value in profile.items():
        if isinstance(value, dict):
            yield from ((f"{name}, {part}", number) for part, number in _constants(value))
        elif isinstance(value, tuple):
            yield from ((f"{name}, width {width}", number) for width, number in zip(WIDTHS, value, strict=True))
        elif isinstance(value, float | int) and not isinstance(value, bool):
            yield name, value


def _row(name: str, measured: float, default: float) -> dict[str, str]:
    return {"constant": name, "measured": f"{measured:,.3g}", "default": f"{default:,.3g}"}
