"""The update that proxy and full runs share, compared with plain steps of torch in float64."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import DivergedError
from einsearch_cli.guided import guide_layers
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.moe import AuxiliaryLoss, StructuredMoE
from einsearch_cli.training.update import Course, GuideStep, Update

ROWS = torch.randn(12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(text: str = "experts") -> nn.Sequential:
    torch.manual_seed(1)
    first = StructuredMoE(16, 16, "btt-moe:experts=4,top=2") if text == "experts" else EinsumLinear(16, 16, text)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(16, 1)).double()


def losses(model: nn.Module, parts: int) -> list[Callable[[], Tensor]]:
    return [lambda rows=rows: model(rows).square().mean() for rows in ROWS.chunk(parts)]


def update_of(model: nn.Module, *, clip_norm: float = 1e9, weight: float = 0.5, **more: object) -> Update:
    groups = [{"params": list(model.parameters()), "lr": 0.3, "peak_lr": 0.3}]
    auxiliary = AuxiliaryLoss(model, weight)
    parameters = tuple(model.parameters())
    optimizer = torch.optim.SGD(groups)
    return Update(optimizer=optimizer, parameters=parameters, clip_norm=clip_norm, auxiliary=auxiliary, **more)  # type: ignore[arg-type]


def test_a_step_by_hand() -> None:
    """Gradients of the loss and of the balance loss are clipped, then multiplied by a fraction of the peak rate."""
    model, plain = network(), network()
    loss, norm = update_of(model, clip_norm=0.01).step(losses(model, 1), 0.5)
    auxiliary = AuxiliaryLoss(plain, 0.5)
    with auxiliary:
        expected = losses(plain, 1)[0]()
    gradients = torch.autograd.grad(expected + auxiliary.loss(), list(plain.parameters()))
    whole = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert norm.item() == pytest.approx(whole.item(), rel=1e-12)
    for value, origin, gradient in zip(model.parameters(), plain.parameters(), gradients, strict=True):
        torch.testing.assert_close(value, origin - 0.15 * gradient * 0.01 / whole, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_parts_are_the_whole_batch(parts: int) -> None:
    whole, split = network("btt:r=2"), network("btt:r=2")
    loss, norm = update_of(whole).step(losses(whole, 1), 1.0)
    part_loss, part_norm = update_of(split).step(losses(split, parts), 1.0)
    assert (part_loss.item(), part_norm.item()) == pytest.approx((loss.item(), norm.item()), rel=1e-10)
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_gradients_are_exchanged_in_the_last_part_only() -> None:
    model, told = network(), []

    @contextmanager
    def exchange(last: bool) -> Iterator[None]:
        told.append(last)
        yield

    update_of(model, exchange=exchange).step(losses(model, 3), 1.0)
    assert told == [False, False, True]


def test_guides_weigh_what_the_step_says() -> None:
    model = network("btt:r=2")
    guide = guide_layers(model)
    update = update_of(model, guide=guide)
    update.step(losses(model, 1), 1.0, guide=GuideStep(weight=0.25, evaluate=False))
    (layer,) = guide.layers.values()
    assert (layer.mix.item(), layer.is_evaluated) == (0.25, False)
    update.step(losses(model, 1), 1.0)
    assert (layer.mix.item(), layer.is_evaluated) == (0.25, False)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_a_number_ends_the_run(loss: float) -> None:
    course = Course(steps=2000, run="of a", learning_rate=0.3, rate_name="optimizer.learning_rate")
    assert course.finite(1.5, "training", 3) == 1.5
    with pytest.raises(DivergedError, match=f"held-out loss became {loss} at step 1,003 of 2,000 of a") as caught:
        course.finite(loss, "held-out", 1003)
    assert caught.value.remedy == "lower optimizer.learning_rate, e.g. to 0.1, or lengthen the warm-up"
