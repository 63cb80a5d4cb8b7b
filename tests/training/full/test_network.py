"""Ways to compute a step that have to give the same numbers."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from einsearch_cli.data import Batch
from einsearch_cli.errors import SpecError
from einsearch_cli.layers import AuxiliaryLoss, EinsumLinear
from einsearch_cli.models.transformer.blocks import Block
from einsearch_cli.training.full import World, read_metrics
from einsearch_cli.training.full.network import Network
from tests.training.full.runs import CPU, TINY, curve, run_tiny, tiny_spec

GUIDED = {"steps": 6, "guidance": {"mode": "stochastic"}}


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder)]


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    run_tiny(tmp_path / "kept", **GUIDED)
    run_tiny(tmp_path / "recomputed", recompute=True, **GUIDED)
    assert curve(tmp_path / "recomputed") == curve(tmp_path / "kept")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks at its inputs
def test_compiled_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the guided part and after it, all blocks with one compilation each way, without a break in the graph.

    The tracer is the real one; its code is run as it is, since the default back end compiles for a minute.
    """
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(Block, "compile", lambda block: nn.Module.compile(block, backend="aot_eager"))
    run_tiny(tmp_path / "compiled", compile=True, **GUIDED)
    run_tiny(tmp_path / "eager", **GUIDED)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-5)
    assert not counters["graph_break"]
    assert 1 <= counters["stats"]["unique_graphs"] <= 6


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_every_network_of_a_process_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives up on a function that was compiled too often, in whatever networks."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(Block, "compile", lambda block: nn.Module.compile(block, backend="eager"))
    batch = Batch(*torch.zeros(2, 8, 16, dtype=torch.int64))
    with torch._dynamo.config.patch(recompile_limit=1):
        for structure in ("low-rank:r=4", "block-shuffle:blocks=2"):
            spec = tiny_spec(model={"structure": structure}, compile=True)
            Network(spec, spec.config(256), CPU, guided=False).step(batch, None, 1.0)
    assert counters["stats"]["unique_graphs"] == 2


def test_bfloat16_is_near(tmp_path: Path) -> None:
    run_tiny(tmp_path / "full", **GUIDED)
    run_tiny(tmp_path / "half", precision="bfloat16", **GUIDED)
    assert losses(tmp_path / "half") != losses(tmp_path / "full")
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "full"), rel=1e-2)


def test_other_starts_of_structured_layers() -> None:
    """Blocks of orthogonal columns; the layers at the end of a residual branch start at zero all the same."""
    model = {**TINY, "structure": "block-shuffle:blocks=2"}
    spec = tiny_spec(model=model, initialisation="orthogonal")
    network = Network(spec, spec.config(256), CPU, guided=False)
    layers = dict(network.model.structured_layers())
    up, down = layers["blocks.0.ffn.up"], layers["blocks.0.ffn.down"]
    assert isinstance(up, EinsumLinear)
    assert isinstance(down, EinsumLinear)
    for factor in up.factors.values():
        small = factor if factor.shape[1] >= factor.shape[2] else factor.mT
        identity = torch.eye(small.shape[2]).expand(len(small), -1, -1)
        torch.testing.assert_close(small.mT @ small, identity)
    assert not down.to_dense().any()


def test_rows_that_do_not_divide_among_parts_and_processes() -> None:
    """12 rows in 4 parts are 3 rows each; of two processes with 6 rows each they would be 6 parts of 1."""
    spec = tiny_spec(batch=12, accumulation=4)
    Network(spec, spec.config(256), CPU, guided=False)
    with pytest.raises(SpecError, match="12 rows does not divide into 4 parts in each of 2 processes"):
        Network(spec, spec.config(256), World(torch.device("cpu"), rank=0, size=2), guided=False)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_the_balance_loss_of_every_part_reaches_the_routers(recompute: bool) -> None:
    """The mean over the parts of an accumulated batch, on top of the gradient of the task."""
    model = {**TINY, "structure": "btt-moe:experts=4,top=2", "structured": "all"}
    spec = tiny_spec(model=model, accumulation=2, recompute=recompute, optimizer={"clip_norm": 1e9})
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
