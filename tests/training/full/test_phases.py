"""Guided steps, the tokens they see, and their costs."""

import pytest
import torch

from einsearch_cli.data.tokens import BlockSampler
from einsearch_cli.errors import LayerError, SpecError
from einsearch_cli.training.full import phases_of, plan_run
from einsearch_cli.training.full.network import Network
from einsearch_cli.training.full.phases import Phases
from tests.training.full.runs import CPU, run_tiny, tiny_data, tiny_spec


def phases(**changes: object) -> Phases:
    spec = tiny_spec(**changes)
    return phases_of(spec, spec.config(256))


def test_without_guide() -> None:
    plain = phases()
    assert (plain.steps, plain.guided_steps, plain.repeated_steps) == (12, 0, 0)
    assert [plain.guide(step) for step in range(12)] == [None] * 12
    assert [plain.data_step(step) for step in range(12)] == list(range(12))


def test_the_guide_lasts_for_its_ratio() -> None:
    guided = phases(steps=20, guidance={"mode": "full", "ratio": 0.25})
    weights = [guide.weight for step in range(20) if (guide := guided.guide(step)) is not None]
    assert weights == pytest.approx([1.0, 0.9045, 0.6545, 0.3455, 0.0955], abs=1e-4)
    assert guided.steps == 20
    assert guided.flops_before(20) == 20 * guided.body_flops + 5 * guided.guide_flops


@pytest.mark.parametrize("mode", ["full", "stochastic"])
@pytest.mark.parametrize("steps", [100, 1000])
def test_flops_match_those_of_dense(mode: str, steps: int) -> None:
    """The first tokens are repeated at the end, and the sum is that of the dense model, less than a step below.

    In stochastic mode the draws matter: the sum is within four standard deviations.
    """
    spec = tiny_spec(steps=steps, guidance={"mode": mode, "flop_matched": True})
    plan = plan_run(spec, 256)
    matched = plan.phases
    guided = matched.guided_steps
    assert 0.2 * steps < guided < steps
    assert matched.steps == steps + guided
    assert [matched.data_step(step) for step in (0, steps - 1, steps, steps + guided - 1)] == [
        0,
        steps - 1,
        0,
        guided - 1,
    ]
    summed = sum(matched.flops_of(step) + matched.head_flops for step in range(matched.steps))
    assert plan.total_flops == summed
    per_step = matched.body_flops + matched.head_flops + matched.guide_flops
    slack = 1.0 if mode == "full" else 4 * (guided / 8) ** 0.5
    assert abs(summed - steps * (matched.dense_flops + matched.head_flops)) <= slack * per_step


def test_flops_by_hand() -> None:
    """Per token and block: 4 projections of 32 x 32, two factors of rank 4, two guides of 32 x 128, scores and values."""
    guided = phases(guidance={"mode": "full"})
    projections, factors, guides = 2 * 4 * 32 * 32, 2 * 2 * 4 * (32 + 128), 2 * 2 * 32 * 128
    attention, head = 2 * 2 * 16 * 32, 2 * 32 * 256
    training = 3 * 8 * 16
    assert guided.body_flops == training * 2 * (projections + factors + attention)
    assert guided.flops_of(1) - guided.body_flops == guided.guide_flops == training * 2 * guides
    assert guided.head_flops == training * head
    assert guided.dense_flops == training * 2 * (projections + guides + attention)
    assert guided.guide_params == 2 * 2 * 32 * 128


def test_the_plan_agrees_with_the_run(tmp_path: object) -> None:
    guidance = {"mode": "stochastic", "flop_matched": True}
    plan = plan_run(tiny_spec(guidance=guidance), 256)
    result = run_tiny(tmp_path, guidance=guidance)  # type: ignore[arg-type]
    assert (plan.phases.steps, plan.tokens, plan.flops) == (result.steps, result.tokens, result.flops)
    assert (plan.total_flops, plan.phases.params) == (result.total_flops, result.params)


def test_nothing_to_guide() -> None:
    with pytest.raises(SpecError, match="guidance in train: its layers are dense, guides lead structured ones"):
        phases(model={"structure": "dense"}, guidance={})


def test_experts_have_no_guide() -> None:
    with pytest.raises(LayerError, match="only layers without experts can be guided"):
        phases(model={"structure": "btt-moe:experts=4,top=2"}, guidance={})


def test_flops_that_cannot_match() -> None:
    with pytest.raises(SpecError, match="which leaves nothing to guide with"):
        phases(model={"structure": "low-rank:r=32"}, guidance={"flop_matched": True})


def test_dropping_the_guide_moves_everything_else_over() -> None:
    """Weights, moments and learning rates of the other parameters stay as they are."""
    spec = tiny_spec(guidance={"mode": "full"})
    network = Network(spec, spec.config(256), CPU, guided=True)
    batch = BlockSampler(tiny_data().training, block=16, batch=8, seed=0).batch_at(0)
    network.step(batch, phases_of(spec, spec.config(256)).guide(1), 1.0)
    before, moments = network.model_tensors(), network.optimizer_tensors()
    rates = {
        name: group["lr"]
        for group in network.optimizer.param_groups
        for name, value in network.parameters.items()
        if any(value is other for other in group["params"])
    }
    plain = network.without_guide()
    after = plain.model_tensors()
    assert sorted(set(before) - set(after)) == sorted(name for name in before if name.endswith(".guide"))
    assert len(before) - len(after) == 4
    for name, value in after.items():
        assert torch.equal(value, before[name])
    assert {name: value.tolist() for name, value in plain.optimizer_tensors().items()} == {
        name: value.tolist() for name, value in moments.items() if not name.endswith(".guide")
    }
    for group in plain.optimizer.param_groups:
        for value in group["params"]:
            (name,) = [name for name, other in plain.parameters.items() if other is value]
            assert group["peak_lr"] == pytest.approx(rates[name])
