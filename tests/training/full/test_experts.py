"""Full training of networks with experts: the loss that balances their load, and the reported load."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.data import Batch
from einsearch_cli.data.tokens import held_out_batches
from einsearch_cli.models import Transformer
from einsearch_cli.moe import AuxiliaryLoss, StructuredMoE
from einsearch_cli.training.full import read_metrics
from einsearch_cli.training.full.network import Network
from tests.training.full.runs import CPU, final_tensors, run_tiny, tiny_data, tiny_spec

EXPERTS = {"structure": "btt-moe:experts=4,top=2", "structured": "all"}


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_the_balance_loss_of_every_part_reaches_the_routers(recompute: bool) -> None:
    """It is the mean over the parts of an accumulated batch, added to the gradient of the task."""
    spec = tiny_spec(model=EXPERTS, accumulation=2, recompute=recompute, optimizer={"clip_norm": 1e9})
    batch = Batch(*torch.randint(0, 256, (2, 8, 16), generator=torch.Generator().manual_seed(0)))
    gradients = []
    for weight in (1.0, 0.0):
        network = Network(spec, spec.config(256), CPU, guided=False)
        network.auxiliary.weight = weight
        routers = {name: value for name, value in network.parameters.items() if "router" in name}
        with torch.no_grad():
            for number, router in enumerate(routers.values()):
                router.normal_(generator=torch.Generator().manual_seed(number))
        alone = AuxiliaryLoss(network.model, weight=1.0)
        wanted = [torch.zeros_like(router) for router in routers.values()]
        for rows in batch.inputs.chunk(2):
            with alone:
                network.model(rows)
            for total, found in zip(wanted, torch.autograd.grad(alone.loss(), list(routers.values())), strict=True):
                total += found / 2
        network.step(batch, None, 1.0)
        gradients.append([router.grad for router in routers.values()])
    assert len(wanted) == 2 * 6
    for with_loss, without, expected in zip(*gradients, wanted, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(with_loss - without, expected, rtol=1e-3, atol=1e-5)


def test_the_load_of_held_out_text_is_measured_with_its_loss(tmp_path: Path) -> None:
    run_tiny(tmp_path, model=EXPERTS)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8, 12]
    assert [line["step"] for line in lines if "smallest_load" in line] == [4, 8, 12]
    model = Transformer(tiny_spec(model=EXPERTS).config(256))
    weights = final_tensors(tmp_path)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    slots: dict[nn.Module, Tensor] = {}
    for module in model.modules():
        if isinstance(module, StructuredMoE):
            module.router.register_forward_hook(
                lambda router, _, routing: slots.__setitem__(
                    router, slots.get(router, 0) + routing.experts_TK.flatten().bincount(minlength=4)
                )
            )
    for inputs, _ in held_out_batches(tiny_data().held_out, block=16, batch=8, blocks=5):
        model(inputs)
    assert len(slots) == 2 * 6
    assert lines[-1]["smallest_load"] == pytest.approx(min(4 * (n / n.sum()).min().item() for n in slots.values()))


def test_without_experts_there_is_no_load(tmp_path: Path) -> None:
    run_tiny(tmp_path)
    assert not any("smallest_load" in line for line in read_metrics(tmp_path))
