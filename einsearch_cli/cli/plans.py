"""`--explain-plan`: the ways in which a layer can multiply, and which one it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from einsearch_cli.structures import SizedStructure


def plan_object(sized: SizedStructure, tokens: int, wanted: bool) -> dict[str, Any]:
    """The entry of the result, empty without the option: routes at inference and in training, fastest first."""
    if not wanted:
        return {}
    import torch

    from einsearch_cli.layers.machine import profile_for
    from einsearch_cli.layers.planner import explain

    profile = profile_for("cpu", torch.get_num_threads())
    modes = {"inference": False, "training": True}
    routes = {
        mode: [asdict(e) for e in explain(sized, tokens, profile, is_training)] for mode, is_training in modes.items()
    }
    return {"plan": {"cost_model": profile.source, "dtype": "float32", **routes}}


def plan_lines(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of the card."""
    if "plan" not in item:
        return []
    from tabulate import tabulate

    found = item["plan"]
    lines = [("", ""), (f"plan, {item['tokens']} tokens", f"predicted for float32 on the CPU by {found['cost_model']}")]
    for mode in ("inference", "training"):
        rows = [
            [
                "→" if route["is_chosen"] else "",
                route["text"],
                f"{route['predicted_us'] / 1e3:,.3g} ms",
                f"{route['flops']:.4g} FLOPs",
                f"{route['bytes'] / 1e6:,.3g} MB moved",
                f"{route['intermediate_elements']:,} elements between" if route["intermediate_elements"] else "",
            ]
            for route in found[mode]
        ]
        table = tabulate(
            rows, tablefmt="plain", disable_numparse=True, colalign=("left", "left", *["right"] * 3, "left")
        )
        lines += [(f"  {mode}" if n == 0 else "", line) for n, line in enumerate(table.splitlines())]
    lines.append(("", "→ is taken; a merged matrix is formed once at inference, in every step in training,"))
    lines.append(("", "and left only for routes predicted to take less than 80% of its time"))
    return lines
