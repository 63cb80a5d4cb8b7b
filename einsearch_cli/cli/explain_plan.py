"""`--explain-plan`: the ways in which a layer can multiply, and which one it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from einsearch_cli.cli.options import Device, Dtype
from einsearch_cli.errors import SpecError

if TYPE_CHECKING:
    from einsearch_cli.sizing import SizedStructure


class PlanSetting(NamedTuple):
    """The request for an explanation of routes."""

    device: Device
    dtype: Dtype


def plan_setting(explain_plan: bool, device: Device | None, dtype: Dtype | None) -> PlanSetting | None:
    """The request that the options make; None without `--explain-plan`."""
    if explain_plan:
        return PlanSetting(device or Device.cpu, dtype or Dtype.float32)
    for option, value in (("--device", device), ("--dtype", dtype)):
        if value is not None:
            raise SpecError(
                f"{option} {value.value} without --explain-plan: only predicted times depend on it",
                remedy=f"add --explain-plan, or leave {option} out",
            )
    return None


def plan_object(sized: SizedStructure, tokens: int, setting: PlanSetting | None) -> dict[str, Any]:
    """The entry of the result, empty without a setting: the routes for each use of the layer, fastest first."""
    if setting is None:
        return {}
    import torch

    from einsearch_cli.layers.plans.machine_profile import profile_for
    from einsearch_cli.layers.plans.planner import Use, explain

    device, dtype = setting.device.value, setting.dtype.value
    profile = profile_for(device, torch.get_num_threads(), getattr(torch, dtype))
    routes = {use.value: [asdict(e) for e in explain(sized, tokens, profile, use)] for use in Use}
    return {
        "plan": {
            "cost_model": profile.source,
            "dense_margin": profile.dense_margin,
            "device": device,
            "dtype": dtype,
            **routes,
        }
    }


def plan_lines(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of the card."""
    if "plan" not in item:
        return []
    from tabulate import tabulate

    found = item["plan"]
    place = "the CPU" if found["device"] == "cpu" else "a GPU"
    predicted = f"predicted for {found['dtype']} on {place} by {found['cost_model']}"
    lines = [("", ""), (f"plan, {item['tokens']} tokens", predicted)]
    for mode in ("inference", "merged", "training"):
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
    lines.append(
        ("", "→ is taken; merged: after merge(model), which forms a matrix once. Other calls form it each time;")
    )
    lines.append(
        ("", f"it is left only for routes predicted to take less than {found['dense_margin']:.0%} of its time")
    )
    return lines
