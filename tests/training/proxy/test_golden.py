"""Short loss curves stored in tests/golden: a refactor that moves them has changed the training.

There is one file for each kind of processor. After a change that is meant to move the curves, or for another kind, run
this file as a program.
"""

import json
import platform
import re
import tempfile
from pathlib import Path

import pytest
import torch

from einsearch_cli.training import train
from tests.training.proxy.tasks import run_of, small_teacher


def _vendor() -> str:
    found = (
        re.search(r"vendor_id\s*: (\w+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return found[1] if found else platform.machine()


GOLDEN = Path(__file__).parents[2] / "golden"
KIND = f"{_vendor()}-{torch.backends.cpu.get_cpu_capability()}-torch-{torch.__version__.partition('+')[0]}"
"""The kind of processor; one kind sums in the same order, with the same version of torch."""
OWN = GOLDEN / f"training_curves_{KIND}.json"
STRUCTURES = ("dense", "monarch", "btt:r=2", "low-rank", "kronecker")


def curve(folder: Path, structure: str) -> list[tuple[float, float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return list(train(run_of(small_teacher(folder), structure, budget_flops=2e8, validations=5)).curve)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_curve_has_not_moved(tmp_path: Path, structure: str) -> None:
    """The tolerance is 1e-5 on a kind of processor that has a file; elsewhere it is the difference between kinds."""
    path, tolerance = (OWN, 1e-5) if OWN.exists() else (min(GOLDEN.glob("training_curves_*.json")), 5e-3)
    expected = json.loads(path.read_text())[structure]
    for (flops, loss), (expected_flops, expected_loss) in zip(curve(tmp_path, structure), expected, strict=True):
        assert flops == expected_flops
        assert loss == pytest.approx(expected_loss, rel=tolerance)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        curves = {name: curve(Path(scratch), name) for name in STRUCTURES}
    OWN.write_text(json.dumps(curves, indent=1) + "\n")
