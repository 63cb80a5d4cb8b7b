"""Estimates of memory and time, compared with torch's allocations and sums by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from einsearch_cli.errors import SpecError
from einsearch_cli.models import Transformer, TransformerConfig, preset
from einsearch_cli.models.transformer import accelerator, estimate, model_costs

H100 = accelerator("h100")


def test_memory_of_weights_gradients_and_moments() -> None:
    params = model_costs(preset("s")).total.params
    found = estimate(preset("s"), H100, tokens=1e9, batch=1)
    assert (found.weights_bytes, found.gradients_bytes, found.moments_bytes) == (6 * params, 4 * params, 8 * params)
    plain = estimate(preset("s"), H100, tokens=1e9, batch=1, precision="float32")
    assert plain.weights_bytes == 4 * params
    sharded = estimate(preset("s"), H100, tokens=1e9, batch=1, devices=8, shards=8)
    assert sharded.moments_bytes == pytest.approx(params, rel=1e-6)
    guided = estimate(preset("s"), H100, tokens=1e9, batch=1, extra_params=1_000_000)
    assert guided.gradients_bytes - found.gradients_bytes == 4_000_000


def test_time_is_flops_over_what_the_card_does() -> None:
    config = preset("xl")
    forward = model_costs(config).total.flops
    found = estimate(config, H100, tokens=26e9, batch=8, utilisation=0.5)
    assert found.flops == 26e9 * 3 * forward
    assert found.seconds == pytest.approx(26e9 * 3 * forward / (989e12 * 0.5))
    eight = estimate(config, H100, tokens=26e9, batch=8, devices=8, utilisation=0.5)
    assert eight.seconds == pytest.approx(found.seconds / 8)
    slow = estimate(config, H100, tokens=26e9, batch=8, precision="float32", utilisation=0.5)
    assert slow.seconds == pytest.approx(found.seconds * 989 / 67)
    given = estimate(config, H100, tokens=26e9, batch=8, flops=1e18, utilisation=0.5)
    assert given.flops == 1e18


def saved_bytes(model: Transformer, tokens_BT: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass in addition to parameters, each memory once."""
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model(tokens_BT).flatten(0, 1), tokens_BT.flatten())
    del loss
    return sum(seen.values())


@pytest.mark.parametrize(
    "changes",
    [{}, {"activation": "swiglu", "norm": "rms", "kv_heads": 2}, {"tied": True, "bias": True}],
    ids=str,
)
def test_activations_are_those_that_autograd_keeps(changes: dict[str, object]) -> None:
    base = {"vocabulary": 128, "width": 128, "layers": 3, "heads": 4, "context": 64}
    config = TransformerConfig.model_validate({**base, **changes})
    model = Transformer(config)
    found = estimate(config, H100, tokens=1e6, batch=4, precision="float32").activations_bytes
    # The gradient of the logits is not there yet, and is counted in the estimate.
    measured = saved_bytes(model, torch.zeros(4, 64, dtype=torch.long)) + 4 * 64 * 128 * 4
    assert found == pytest.approx(measured, rel=0.1)


def test_structured_layers_keep_what_is_between_their_factors() -> None:
    dense, structured = (
        estimate(preset("xl", structure=text), H100, tokens=1e9, batch=4).activations_bytes
        for text in ("dense", "low-rank:r=512")
    )
    assert structured - dense == 4 * 1024 * 24 * 2 * 512 * 2  # tokens, blocks, layers, rank, bytes


def test_recomputation_saves_memory_and_costs_a_forward_pass() -> None:
    config = preset("l")
    kept, recomputed = (estimate(config, H100, tokens=1e9, batch=8, recompute=value) for value in (False, True))
    assert recomputed.activations_bytes < 0.35 * kept.activations_bytes
    assert 1.25 < recomputed.flops / kept.flops < 4 / 3


def test_a_run_that_needs_too_much_memory_does_not_fit() -> None:
    assert estimate(preset("xl"), H100, tokens=1e9, batch=4).fits
    assert not estimate(preset("xl"), accelerator("rtx4090"), tokens=1e9, batch=4).fits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"utilisation": 0.0}, "a utilisation of 0: it is a share of the peak, above 0 and at most 1\ntry: give 0.4"),
        ({"utilisation": 1.5}, "a utilisation of 1.5"),
        ({"batch": 0}, "batch 0: at least 1 is needed"),
        ({"tokens": float("nan")}, "tokens nan: at least 1 is needed"),
    ],
)
def test_impossible_estimates(changes: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        estimate(preset("s"), H100, **{"tokens": 1e9, "batch": 1, **changes})
