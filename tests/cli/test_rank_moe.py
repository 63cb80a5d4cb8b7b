"""The study of layers of experts, made small: every candidate is trained, and none of its experts starves."""

from __future__ import annotations

import json
import math
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from einsearch_cli.search.spec import load_study_spec
from einsearch_cli.structures import MixtureOfExperts, parse_layer, structure_of_entry
from einsearch_cli.tasks import open_task
from einsearch_cli.training import OptimizerSettings, ProxyRun, RunOutcome, run_cost, train

SPEC = Path(__file__).parents[2] / "specs" / "moe.yaml"
BALANCE = SPEC.with_name("moe_balance.yaml")
SMALL_TASK = {"context": 32, "batch": 16, "layers": 1, "validation_blocks": 32}
SUBWORDS = SMALL_TASK | {
    # half a megabyte: encoded in a second
    "data": {"tokenizer": "bpe:512", "text": str(Path(sysconfig.get_path("stdlib"), "asyncio"))},
}
"""The data of the studies, but less text."""

OTHERS = ["dense-moe:experts=8,top=2", {"structure": "low-rank", "experts": 8, "top": 2}]


def reduced(folder: Path) -> Path:
    """specs/moe.yaml with two more baselines, one seed, one narrow width and few steps."""
    study: dict[str, Any] = yaml.safe_load(SPEC.read_text(encoding="utf-8"))
    study["structures"] += OTHERS
    study |= {"widths": [32], "seeds": 1, "budget_flops": "1e9", "task_settings": SUBWORDS}
    study |= {"halving": {"rungs": 1}, "ablate_balance": True, "rates": "fixed", "confirm": 0, "controls": False}
    path = folder / "moe.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def test_the_plan_has_flops_and_time(einsearch, tmp_path: Path) -> None:
    plan = json.loads(einsearch("rank", reduced(tmp_path), "--dry-run", "--format", "json").out)
    spec = yaml.safe_load(SPEC.read_text())
    entries = [*spec["baselines"], *spec["structures"], *OTHERS]
    wanted = [structure_of_entry(entry, "spec").layer for entry in entries]
    assert [parse_layer(text) for text in plan["structures"]] == [parse_layer("dense"), *wanted]
    assert plan["train_flops"] == (5 + 4) * 1e9, "dense and four candidates, and these once more without balance loss"
    assert plan["seconds"] > 0
    shown = einsearch("rank", reduced(tmp_path), "--dry-run").out
    assert "btt-moe:experts=8,top=2" in shown
    assert "1e+09" in shown


def test_the_ablation_is_of_the_same_candidates() -> None:
    study, ablation = (load_study_spec(path) for path in (SPEC, BALANCE))
    assert set(ablation.candidates()) >= set(study.candidates())
    assert ablation.optimizer == study.optimizer
    assert ablation.open_task().fingerprint() == study.open_task().fingerprint()
    assert ablation.ablate_balance


def test_a_study_of_experts_from_start_to_report(einsearch, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = einsearch("rank", reduced(tmp_path), "--out", out)
    assert found.code == 0, found.err
    document = json.loads((out / "results.json").read_text())
    runs = {run["structure"]: run for run in document["results"]}
    layers = {text: parse_layer(text) for text in runs}
    assert len(runs) == 5
    for text, layer in layers.items():
        run = runs[text]
        assert 0.9 * 1e9 < run["train_flops"] <= 1e9, text
        if isinstance(layer, MixtureOfExperts):
            assert len(run["routing"]) == (1 if layer.feed_forward else 6), "head and embedding have no experts"
            for found_layer in run["routing"]:
                assert len(found_layer["load"]) == layer.experts
                assert sum(found_layer["load"]) == pytest.approx(1)
                assert found_layer["dropped"] == 0
        else:
            assert run["routing"] == []
    baselines = [parse_layer(found["yardstick"]) for found in document["comparisons"]]
    assert baselines == [parse_layer("ffn-moe:experts=8,top=2")]
    unbalanced = {run["structure"]: run for run in document["unbalanced"]}
    assert set(unbalanced) == {text for text, layer in layers.items() if isinstance(layer, MixtureOfExperts)}
    for text, run in unbalanced.items():
        assert run["steps"] == runs[text]["steps"]
        assert run["loss"] != runs[text]["loss"], "the loss that is left out was there before"
    families = {run["family"] for run in runs.values()}
    assert families == {"dense", "ffn-moe", "btt-moe", "dense-moe", "low-rank-moe"}
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "Load of the experts" in report
    assert "blocks.0.attention.query" in report
    assert "Ablation: the same runs without the loss that balances the load" in report
    assert "least load" in found.err, "what the routers did is shown with every run"
    assert document["loss_name"] == "validation loss (nats per token)"
    assert "validation loss (nats per token)" in found.err
    assert "validation loss (nats per token)" in report


def test_flops_grow_with_the_experts_of_a_token_not_with_all() -> None:
    """FLOPs of whole networks by hand: attention scores, and every linear layer with its router."""
    task = open_task("text", SMALL_TASK)
    width, vocabulary_free = 32, 4 * 32 * 32  # scores and values: 2 · 2 · context · width
    dense_step = {}
    for text in ("dense", "dense-moe:experts=8,top=2", "dense-moe:experts=16,top=2", "ffn-moe:experts=8,top=2"):
        run = ProxyRun(task=task, structure=parse_layer(text), width=width, budget_flops=1e12)
        dense_step[text] = run_cost(run).train_flops_per_step / (3 * task.tokens_per_batch) - vocabulary_free
    square, wide = 2 * width * width, 2 * width * 4 * width
    assert dense_step["dense"] == 4 * square + 2 * wide
    routers = 2 * 8 * (5 * width + 4 * width)
    assert dense_step["dense-moe:experts=8,top=2"] == 2 * (4 * square + 2 * wide) + routers
    assert dense_step["dense-moe:experts=16,top=2"] == 2 * (4 * square + 2 * wide) + 2 * routers
    assert dense_step["ffn-moe:experts=8,top=2"] == 4 * square + 2 * 2 * wide + 2 * 8 * width


def trained(text: str, weight: float, budget: float, settings: dict[str, Any], seed: int = 0) -> RunOutcome:
    return train(
        ProxyRun(
            task=open_task("text", settings),
            structure=parse_layer(text),
            width=32,
            budget_flops=budget,
            seed=seed,
            optimizer=OptimizerSettings(auxiliary_weight=weight, validations=1),
        )
    )


def smallest_load(outcome: RunOutcome) -> float:
    return min(layer.smallest_load for layer in outcome.routing)


@pytest.mark.parametrize(
    ("text", "weight", "budget", "settings", "share"),
    [
        ("ffn-moe:experts=8,top=2", 0.01, 1.2e10, SMALL_TASK, 1 / 4),
        # As short as this the smallest share is 0.12 to 0.16, and 0 without the loss; twice the FLOPs bring it to 1/4.
        ("btt-moe:experts=16,top=2", 0.2, 4e9, SUBWORDS, 1 / 12),
    ],
)
def test_the_balance_loss_keeps_every_expert_in_use(
    text: str, weight: float, budget: float, settings: dict[str, Any], share: float
) -> None:
    """The last bit decides which expert a token meets, so the load of one run is luck: the median of five is judged.

    It is known as soon as three of them are on one side.
    """
    balanced: list[RunOutcome] = []
    even: list[bool] = []
    while max(even.count(True), even.count(False)) < 3:
        balanced.append(trained(text, weight, budget, settings, seed=len(balanced)))
        even.append(smallest_load(balanced[-1]) >= share)
    assert even.count(True) == 3, "the least used expert of any layer has this share of an even load"
    assert smallest_load(trained(text, 0.0, budget, settings)) < share, "and it is the loss that keeps it so"
    uniform = math.log(settings.get("vocabulary", 128))
    assert max(outcome.loss for outcome in balanced) < 0.8 * uniform, "and it learns: below a uniform guess"


def test_the_teacher_task_has_no_networks_to_replace(einsearch, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "task: teacher\ntask_settings: {teacher_width: 16, pool_size: 4096, validation_size: 256, batch_size: 64}\n"
        "structures: ['ffn-moe:experts=4,top=2']\n"
    )
    found = einsearch("rank", path, "--out", tmp_path / "out")
    assert found.code == 2
    assert "the task's network is not a transformer" in found.err
