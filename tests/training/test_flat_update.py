"""Clipping and AdamW on flat parameters, compared with torch's own on lists of parameters."""

import pytest
import torch

from einsearch_cli.models import MLP, structured_linear
from einsearch_cli.structures import parse_layer
from einsearch_cli.training import OptimizerSettings
from einsearch_cli.training.flat_update import ALIGNMENT, FlatAdamW, FlatLayout, JointAdamW
from einsearch_cli.training.groups import grouped, set_learning_rates
from einsearch_cli.training.optimizers import find_optimizer

RATES = (0.01, 0.003)
ADAMW = find_optimizer("adamw")


def mlp(seed: int, text: str) -> MLP:
    torch.manual_seed(seed)
    return MLP(16, 48, 1, depth=3, make_linear=structured_linear(parse_layer(text)), dense_input=True)


@pytest.mark.parametrize("kind", [FlatAdamW, JointAdamW])
@pytest.mark.parametrize("text", ["btt:r=2", "tt:r=2", "btt-moe:experts=4,top=2"])
def test_steps_are_those_of_torch(text: str, kind: type[FlatAdamW]) -> None:
    """Norms lie on both sides of the clip; rates differ between runs, decay between parameters."""
    settings = OptimizerSettings(clip_norm=1.0)
    models = [mlp(seed, text) for seed in range(2)]
    options = [
        ADAMW.options(model, base_width=64, learning_rate=rate, weight_decay=0.1)
        for model, rate in zip(models, RATES, strict=True)
    ]
    layout = FlatLayout.of(models[0], options[0])
    betas = settings.beta1, settings.beta2
    flat = kind(layout, layout.rows(models), options, betas=betas, clip_norm=settings.clip_norm)
    optimizers = [ADAMW.make(grouped(m, option), settings) for m, option in zip(models, options, strict=True)]
    draws = torch.Generator().manual_seed(0)
    for fraction, size in ((0.25, 0.001), (1.0, 3.0), (0.5, 0.01)):
        norms = []
        for run, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            for name, gradient in layout.split(flat.gradients_RP[run]).items():
                gradient.copy_(torch.randn(gradient.shape, generator=draws) * size)
                model.get_parameter(name).grad = gradient.clone()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
            set_learning_rates(optimizer, fraction)
            optimizer.step()
        given, near = (fraction, 1e-6) if kind is FlatAdamW else (torch.tensor(fraction), 1e-5)
        assert flat.step(given).tolist() == pytest.approx(norms, rel=1e-6)
        for run, model in enumerate(models):
            for name, value in layout.split(flat.values_RP[run]).items():
                torch.testing.assert_close(value, model.get_parameter(name).detach(), rtol=near, atol=near / 100)


def test_a_step_everywhere_depends_on_its_tensors_alone() -> None:
    """A CUDA graph must not depend on Python numbers: two steps from one state are equal."""
    models = [mlp(0, "monarch")]
    options = [ADAMW.options(models[0], base_width=64, learning_rate=0.01, weight_decay=0.1)]
    layout = FlatLayout.of(models[0], options[0])
    flat = JointAdamW(layout, layout.rows(models), options, betas=(0.9, 0.95), clip_norm=1.0)
    gradients = torch.randn_like(flat.values_RP)
    start = [tensor.clone() for tensor in flat.state()]
    found = []
    for _ in range(2):
        for tensor, values in zip(flat.state(), start, strict=True):
            tensor.copy_(values)
        for _ in range(3):
            flat.gradients_RP.copy_(gradients)
            flat.step(torch.tensor(0.5))
        found.append([tensor.clone() for tensor in flat.state()])
    assert all(map(torch.equal, *found))
    assert found[0][-1].item() == 3


def test_a_layout_holds_every_number_once_and_starts_rows_at_cache_lines() -> None:
    model = mlp(0, "monarch")
    options = ADAMW.options(model, base_width=64, learning_rate=0.01, weight_decay=0.1)
    layout = FlatLayout.of(model, options)
    row = layout.rows([model])[0]
    assert len(row) % ALIGNMENT == 0
    assert len(row) - ALIGNMENT < model.parameter_count() <= len(row)
    parts = layout.split(row)
    assert {name: value.tolist() for name, value in parts.items()} == {
        name: value.tolist() for name, value in model.named_parameters()
    }
    for (start, end), first in zip(layout.groups, layout.first_of_groups, strict=True):
        inside = [name for name, value in parts.items() if start <= value.storage_offset() < end and value.numel() > 0]
        assert {tuple(options[name].items()) for name in inside} == {tuple(options[layout.names[first]].items())}
    assert len(layout.groups) == len({tuple(option.items()) for option in options.values()})


def test_a_run_that_was_stopped_stays_as_it_is() -> None:
    models = [mlp(seed, "dense") for seed in range(2)]
    options = [ADAMW.options(model, base_width=64, learning_rate=0.01, weight_decay=0.0) for model in models]
    layout = FlatLayout.of(models[0], options[0])
    flat = ADAMW.flat_steps(layout, layout.rows(models), options, OptimizerSettings())
    assert flat is not None
    before = flat.values_RP.clone()
    flat.stop(0)
    flat.gradients_RP.fill_(1.0)
    flat.step(1.0)
    assert torch.equal(flat.values_RP[0], before[0])
    assert not torch.equal(flat.values_RP[1], before[1])
