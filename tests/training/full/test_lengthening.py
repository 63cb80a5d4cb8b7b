"""A finished run with a constant schedule continues when it gets more steps; other runs say why they cannot."""

from pathlib import Path
from typing import Any

import pytest
import torch

from einsearch_cli.errors import CheckpointError
from einsearch_cli.training.full import read_metrics, read_result
from tests.training.full.runs import final_tensors, run_tiny, tiny_data

CONSTANT = {"shape": "constant", "warmup": 0.0}


def equal(first: Path, second: Path) -> bool:
    weights, others = final_tensors(first), final_tensors(second)
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"schedule": CONSTANT}, {"schedule": CONSTANT}),
        ({"schedule": {"shape": "constant", "warmup": 0.5}}, {"schedule": {"shape": "constant", "warmup": 0.25}}),
    ],
    ids=["without warm-up", "with equal warm-up"],
)
def test_a_longer_run_is_the_one_that_was_as_long_from_the_start(
    tmp_path: Path, short: dict[str, Any], long: dict[str, Any]
) -> None:
    assert run_tiny(tmp_path / "a", steps=6, **short).steps == 6
    result = run_tiny(tmp_path / "a", steps=12, **long)
    whole = run_tiny(tmp_path / "b", steps=12, **long)
    assert (result.steps, result.tokens, result.flops) == (whole.steps, whole.tokens, whole.flops)
    assert result.loss == whole.loss
    assert equal(tmp_path / "a", tmp_path / "b")
    assert [line["step"] for line in read_metrics(tmp_path / "a")] == list(range(1, 13))
    kept = read_result(tmp_path / "a")
    assert kept is not None
    assert kept.spec["steps"] == 12


@pytest.mark.parametrize(
    ("changes", "longer", "message"),
    [
        ({"schedule": {"shape": "cosine"}}, {}, "its learning rate falls by the cosine schedule"),
        ({"schedule": {"shape": "wsd"}}, {}, "its learning rate falls by the wsd schedule"),
        ({"schedule": {"shape": "constant", "warmup": 0.5}}, {}, "its warm-up took 3 steps, now it would take 6"),
        (
            {"schedule": CONSTANT, "guidance": {"ratio": 0.5}},
            {},
            "the weight of its guides depends on the number of steps",
        ),
        (
            {"schedule": CONSTANT, "guidance": {"flop_matched": True}},
            {},
            "the weight of its guides depends on the number of steps",
        ),
        ({"schedule": CONSTANT}, {"seed": 1}, "other settings: seed was 0 and is 1; steps was 6 and is 12"),
        ({"schedule": CONSTANT}, {"steps": 5}, "other settings: steps was 6 and is 5"),
    ],
    ids=["cosine", "wsd", "warm-up", "guides", "flop-matched guides", "seed", "shorter"],
)
def test_runs_that_cannot_be_lengthened_say_why(
    tmp_path: Path, changes: dict[str, Any], longer: dict[str, Any], message: str
) -> None:
    run_tiny(tmp_path, steps=6, **changes)
    with pytest.raises(CheckpointError, match=message):
        run_tiny(tmp_path, **{"steps": 12, **changes, **longer})


def test_the_remedy_for_a_warm_up_makes_it_longer(tmp_path: Path) -> None:
    run_tiny(tmp_path, steps=6, schedule={"shape": "constant", "warmup": 0.5})
    with pytest.raises(CheckpointError) as refused:
        run_tiny(tmp_path, steps=12, schedule={"shape": "constant", "warmup": 0.5})
    assert refused.value.remedy == "--set schedule.warmup=0.25, or give another --out"
    assert run_tiny(tmp_path, steps=12, schedule={"shape": "constant", "warmup": 0.25}).steps == 12


def test_a_longer_run_needs_the_same_tokens(tmp_path: Path) -> None:
    run_tiny(tmp_path, steps=6, schedule=CONSTANT)
    with pytest.raises(CheckpointError, match="other data"):
        run_tiny(tmp_path, tiny_data(1), steps=12, schedule=CONSTANT)
