"""Different ways to compute a step give the same numbers."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from einsearch_cli.data import Batch
from einsearch_cli.errors import SpecError
from einsearch_cli.layers import EinsumLinear
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


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch reads its inputs
def test_compiled_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the guided part and after it, all blocks share one compilation each way, without a break in the graph.

    The tracer is the real one. Its code runs as it is, since the default back end compiles for a minute.
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
    """torch stops compiling a function that was compiled too often, in any networks."""
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
    """Blocks have orthogonal columns; the layers at the end of a residual branch still start at zero."""
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
