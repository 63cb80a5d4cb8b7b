"""Trainers of other libraries with swapped models: rates of the factors, decay, the balance of experts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli import optimizer_groups, swap_linear
from einsearch_cli.export import load_swapped, remember_swaps
from einsearch_cli.moe import AuxiliaryLoss, StructuredMoE
from einsearch_cli.training import StructuredTraining
from tests.clients.test_transformers import build

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

ROWS = torch.arange(3, 67).reshape(8, 8)
TEXTS = [{"input_ids": row, "labels": row, "attention_mask": (row > 5).long()} for row in ROWS]


def trainer(folder: Path, model: Any, base: Any = transformers.Trainer, **options: Any) -> Any:
    kind = type("StructuredTrainer", (StructuredTraining, base), {})
    settings: dict[str, Any] = {
        "max_steps": 4, "learning_rate": 1e-2, "weight_decay": 0.1, "per_device_train_batch_size": 4, "report_to": "none",
        "disable_tqdm": True, "use_cpu": True, "seed": 0, "dataloader_pin_memory": False,
    }  # fmt: skip
    return kind(model, transformers.TrainingArguments(str(folder), **{**settings, **options}), train_dataset=TEXTS)


def test_factors_have_their_rates_gains_do_not_decay_and_checkpoints_load(tmp_path: Path) -> None:
    model = build("Llama")
    remember_swaps(model, swap_linear(model, "btt:r=2"))
    run = trainer(tmp_path, model, lr_scheduler_type="cosine", warmup_steps=1, save_steps=2)
    run.train()
    rates = {
        id(p): (group["initial_lr"], group["weight_decay"])
        for group in run.optimizer.param_groups
        for p in group["params"]
    }
    found = {name: rates[id(p)] for name, p in model.named_parameters()}
    layer = model.model.layers[0].mlp.up_proj
    for name, multiplier in layer.learning_rate_multipliers().items():
        assert found[f"model.layers.0.mlp.up_proj.{name}"] == (1e-2 * multiplier, 0.1)
    assert {decay for name, (_, decay) in found.items() if name.endswith("gain")} == {0.0}
    assert found["lm_head.weight"] == (1e-2, 0.1)
    written = json.loads((tmp_path / "checkpoint-4" / "config.json").read_text())
    assert written["model_type"] == "einsearch-llama", "so that it is refused where einsearch is not imported"
    loaded = load_swapped(tmp_path / "checkpoint-4", transformers.AutoModelForCausalLM)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    again = trainer(tmp_path, load_swapped(tmp_path / "checkpoint-2", transformers.AutoModelForCausalLM), warmup_steps=1,
                    lr_scheduler_type="cosine")  # fmt: skip
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    torch.testing.assert_close(again.model.state_dict(), model.state_dict())


class _Plain(nn.Module):
    """A model without a config, unlike those of any library."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(96, 16), nn.Linear(16, 96)

    def forward(self, input_ids: Tensor, labels: Tensor, **_: Any) -> dict[str, Tensor]:
        scores = self.layer(self.embedding(input_ids))
        return {"loss": nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten()), "logits": scores}


def test_a_module_without_a_config_trains(tmp_path: Path) -> None:
    model = _Plain()
    swap_linear(model, "monarch")
    before = model.layer.factors["A"].clone()
    trainer(tmp_path, model, save_strategy="no", max_steps=1).train()
    assert not torch.equal(model.layer.factors["A"], before)


@pytest.mark.parametrize("name", ["adafactor", "adamw_torch_fused", "sgd"])
def test_other_optimizers_of_the_trainer_take_the_groups(name: str, tmp_path: Path) -> None:
    model = build("Llama")
    swap_linear(model, "btt:r=2")
    run = trainer(tmp_path, model, optim=name, save_strategy="no")
    run.train()
    assert len({group["initial_lr"] for group in run.optimizer.param_groups}) > 1


@pytest.mark.parametrize("steps", [1, 2])
def test_experts_are_balanced_with_padding_left_out_and_micro_batches_shared(steps: int, tmp_path: Path) -> None:
    """The router's gradient of a whole step, compared with one computed by hand without a Trainer."""
    model = build("Llama")
    swap_linear(model, "btt-moe:experts=4,top=1", lambda _, name: "down_proj" in name)
    (layer,) = (module for module in model.modules() if isinstance(module, StructuredMoE))
    seen: list[Tensor] = []
    batches: list[dict[str, Tensor]] = []
    run = trainer(tmp_path, model, save_strategy="no", max_steps=1, gradient_accumulation_steps=steps,
                  per_device_train_batch_size=8 // steps, max_grad_norm=0, optim="sgd")  # fmt: skip
    run.auxiliary_weight = 1.0
    model.register_forward_pre_hook(lambda _, __, named: batches.append(named), with_kwargs=True)
    run.add_callback(_Noting(lambda: seen.append(layer.router.weight.grad.clone())))
    run.train()
    assert len(batches) == steps
    start = build("Llama")
    swap_linear(start, "btt-moe:experts=4,top=1", lambda _, name: "down_proj" in name)
    expected = _router_gradient(start, batches)
    torch.testing.assert_close(seen[0], expected, rtol=1e-3, atol=1e-6)


def _router_gradient(model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
    model.train()
    (layer,) = (module for module in model.modules() if isinstance(module, StructuredMoE))
    for batch in batches:
        with AuxiliaryLoss(model, 1.0, mask=batch["attention_mask"]) as auxiliary:
            loss = model(**batch).loss
        (loss + auxiliary.loss() / len(batches)).backward()
    found: Tensor = layer.router.weight.grad
    return found


class _Noting(transformers.TrainerCallback):  # type: ignore[misc]
    def __init__(self, note: Any) -> None:
        self.note = note

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.note()


def test_evaluation_has_the_loss_of_the_model_alone(tmp_path: Path) -> None:
    model = build("Llama")
    swap_linear(model, "btt-moe:experts=4,top=1", lambda _, name: "down_proj" in name)
    run = trainer(tmp_path, model, per_device_eval_batch_size=8)
    run.auxiliary_weight = 1e6
    assert run.evaluate(TEXTS)["eval_loss"] < 100


def test_schedules_keep_the_ratios_of_the_rates() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    swap_linear(model, "btt:r=2", lambda _, name: name == "0")
    groups = optimizer_groups(model, lr=1e-3, weight_decay=0.1)
    ratios = [group["lr"] / groups[0]["lr"] for group in groups]
    assert len(set(ratios)) > 1
    for make in (
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, [group["lr"] for group in groups], 10),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
        lambda optimizer: transformers.get_cosine_schedule_with_warmup(optimizer, 2, 10),
    ):
        optimizer = torch.optim.AdamW(optimizer_groups(model, lr=1e-3, weight_decay=0.1))
        schedule = make(optimizer)
        for step in range(8):
            optimizer.step()
            schedule.step()
            rates = [group["lr"] for group in optimizer.param_groups]
            assert all(
                math.isclose(rate, rates[0] * ratio, rel_tol=1e-6) for rate, ratio in zip(rates, ratios, strict=True)
            ), step
