"""`einsearch bench --calibrate`: the constants of the planner's cost model, measured and kept."""

from __future__ import annotations

import json

from einsearch_cli.cli import console
from einsearch_cli.cli.options import Dtype
from einsearch_cli.cli.output import Format, render


def calibration_text(threads: int, dtype: Dtype, output: Format) -> str:
    """Measure, store, and show what was found beside the defaults."""
    from dataclasses import asdict

    import torch

    from einsearch_cli.layers.plans.machine_profile import WIDTHS, default_cpu, store_profile
    from einsearch_cli.speed import calibrate

    of_torch: torch.dtype = getattr(torch, dtype.value)
    profile = calibrate(of_torch, lambda name, step, steps: console.talk(f"measuring {name} ({step + 1} of {steps})"))
    path = store_profile(profile, threads, of_torch)
    console.talk(
        f"kept in {path}; layers use it from now on with {threads} thread(s) for {dtype.value}, delete it to go back"
    )
    if output in (Format.json, Format.jsonl):
        return json.dumps(asdict(profile), indent=2 if output is Format.json else None)
    rows = []
    for name, value in asdict(profile).items():
        default = getattr(default_cpu().of_dtype(of_torch), name)
        if name == "mac_ns":
            pairs = zip(WIDTHS, value, default, strict=True)
            rows += [_row(f"mac_ns, width {width}", ours, known) for width, ours, known in pairs]
        elif name != "source":
            rows.append(_row(name, value, default))
    return render(rows, rows, output)


def _row(name: str, measured: float, default: float) -> dict[str, str]:
    return {"constant": name, "measured": f"{measured:,.3g}", "default": f"{default:,.3g}"}
