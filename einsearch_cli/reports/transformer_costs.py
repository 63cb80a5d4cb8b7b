"""Parameters, FLOPs, memory and time of a transformer as rows and lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from einsearch_cli.reports.numbers import MISSING, duration_text, flops_text, share_text

if TYPE_CHECKING:  # the models package needs torch, a report does not
    from einsearch_cli.models.transformer import Accelerator, Estimate, ModelCosts


def cost_rows(costs: ModelCosts, dense: ModelCosts) -> list[dict[str, str]]:
    """Every part and the total for people, compared with the same network with dense layers."""
    rows = []
    for cost, twin in zip((*costs.parts, costs.total), (*dense.parts, dense.total), strict=True):
        rows.append(
            {
                "part": cost.part,
                "params": f"{cost.params:,}",
                "share": share_text(cost.params / costs.total.params),
                "of dense": share_text(cost.params / twin.params) if twin.params else MISSING,
                "FLOPs/token": f"{cost.flops:,}",
                "share ": share_text(cost.flops / costs.total.flops),
                "of dense ": share_text(cost.flops / twin.flops) if twin.flops else MISSING,
            }
        )
    return rows


def cost_records(costs: ModelCosts) -> list[dict[str, Any]]:
    """Every part and the total for programs, as plain numbers."""
    return [
        {"part": cost.part, "params": cost.params, "flops_per_token": cost.flops}
        for cost in (*costs.parts, costs.total)
    ]


def estimate_lines(found: Estimate, device: Accelerator, devices: int = 1) -> list[str]:
    """Memory of one device and duration of a run, with what was assumed."""
    gigabytes = {
        "weights": found.weights_bytes,
        "gradients": found.gradients_bytes,
        "moments": found.moments_bytes,
        "activations": found.activations_bytes,
    }
    parts = " + ".join(f"{name} {size / 1e9:.2f}" for name, size in gigabytes.items())
    verdict = "fits" if found.fits else "does not fit"
    return [
        f"memory per device: {parts} = {found.total_bytes / 1e9:.2f} GB of {found.device_bytes / 1e9:.0f} GB: {verdict}",
        f"time: {flops_text(found.flops)} FLOPs on {devices} × {device.name} at an assumed {share_text(found.utilisation)} "
        f"of the peak: {duration_text(found.seconds)}",
    ]
