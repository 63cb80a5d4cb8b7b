"""Short loss curves kept in tests/golden: a refactor that moves them has changed the training.

Write them anew, after a change that is meant to move them, by running this file as a program.
"""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from einsearch_cli.training import train
from tests.training.proxy.tasks import run_of, small_teacher

GOLDEN = Path(__file__).parents[2] / "golden" / "training_curves_cpu.json"
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
    expected = json.loads(GOLDEN.read_text())[structure]
    for (flops, loss), (expected_flops, expected_loss) in zip(curve(tmp_path, structure), expected, strict=True):
        assert flops == expected_flops
        assert loss == pytest.approx(expected_loss, rel=5e-3)  # processors sum in different orders


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        curves = {name: curve(Path(scratch), name) for name in STRUCTURES}
    GOLDEN.write_text(json.dumps(curves, indent=1) + "\n")
