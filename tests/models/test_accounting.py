"""Counts by part, compared with published ones, formulas, and a network that is really built."""

import time

import pytest
import torch

from einsearch_cli.models import PRESETS, Transformer, preset
from einsearch_cli.models.transformer import Part, dense_twin, meta_transformer, model_costs
from tests.models.transformers import KINDS, config_of

PUBLISHED = {"s": 110e6, "m": 335e6, "l": 729e6, "xl": 1.3e9}
"""Wei et al. 2024 (arXiv 2406.16450), table 1."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_dense_presets_have_the_published_parameters(name: str) -> None:
    total = model_costs(preset(name)).total.params
    digits = 1 if name == "xl" else 2  # 1.3B; 110M, 335M, 729M
    assert float(f"{total:.{digits}e}") == PUBLISHED[name]
    config = preset(name)
    assert (config.vocabulary, config.context) == (32_000, 1024)
    assert (config.layers, config.width) == {"s": (12, 768), "m": (24, 1024), "l": (24, 1536), "xl": (24, 2048)}[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_dense_parts_follow_the_textbook(name: str) -> None:
    config = preset(name, bias=False)
    costs = {cost.part: cost for cost in model_costs(config).parts}
    layers, width = config.layers, config.width
    assert costs["embedding"].params == 32_000 * width
    assert costs["attention"].params == layers * 4 * width**2
    assert costs["ffn"].params == layers * 8 * width**2
    assert costs["norms"].params == (2 * layers + 1) * 2 * width
    assert costs["head"].params == 0  # tied
    assert costs["attention"].flops == 2 * costs["attention"].params
    assert costs["ffn"].flops == 2 * costs["ffn"].params
    assert costs["attention scores"].flops == layers * 4 * 1024 * width
    assert costs["head"].flops == 2 * 32_000 * width


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(
    ("structure", "formula"),
    [
        ("low-rank:r={r}", lambda n, m, r, **_: r * (n + m)),
        ("block-shuffle:blocks={blocks}", lambda n, m, blocks, **_: min(n, m) * (n + m) // blocks),
        ("block-dense:r={r},blocks={blocks}", lambda n, m, r, blocks: r * (m + n // blocks)),
    ],
)
def test_structured_networks_follow_the_formulas(name: str, structure: str, formula) -> None:
    width, layers = PRESETS[name].width, PRESETS[name].layers
    sizes = {"r": width // 4, "blocks": 4}
    cost = model_costs(preset(name, structure=structure.format(**sizes), bias=False)).of(Part.ffn)
    one_block = formula(width, 4 * width, **sizes) + formula(4 * width, width, **sizes)
    gains = 2 * layers
    assert cost.params == layers * one_block + gains
    assert cost.flops == 2 * layers * one_block


@pytest.mark.parametrize(("rank", "share"), [(1024, 0.63), (512, 0.31)])
def test_low_rank_at_the_published_shares(rank: int, share: float) -> None:
    structured, dense = (model_costs(preset("xl", structure=text)) for text in (f"low-rank:r={rank}", "dense"))
    assert structured.of(Part.ffn).params / dense.of(Part.ffn).params == pytest.approx(share, abs=0.006)


def test_wide_presets_are_narrow_in_attention_and_smaller_than_their_dense_peers() -> None:
    for name, peer in (("wide-m", "m"), ("wide-l", "l")):
        wide, plain = PRESETS[name], PRESETS[peer]
        assert wide.width == plain.width
        assert wide.hidden > plain.hidden
        assert wide.attention_width == plain.width // 2
        assert (wide.kv_heads, wide.first_ffn_dense) == (4, True)
        assert 0.6 < model_costs(wide).total.params / PUBLISHED[peer] < 0.7
        first, second = (set(meta_transformer(wide).structured_layers()) & {f"blocks.{n}.ffn.up"} for n in (0, 1))
        assert (first, second) == (set(), {"blocks.1.ffn.up"})


@pytest.mark.parametrize("kind", KINDS)
def test_parts_sum_to_the_network_that_is_built(kind: str) -> None:
    config = config_of(kind)
    costs, model = model_costs(config), Transformer(config)
    assert costs.total.params == sum(value.numel() for value in model.parameters())
    assert costs.total.flops == model.flops_per_token().total
    assert costs.to_json()["total"]["params"] == sum(part["params"] for part in costs.to_json()["parts"])


def test_the_twin_differs_in_the_structure_alone() -> None:
    config = config_of("low-rank everywhere")
    structured, dense = model_costs(config), model_costs(dense_twin(config))
    for part in (Part.embedding, Part.norms, Part.head, Part.scores):
        assert structured.of(part) == dense.of(part)
    assert dense.of(Part.ffn).flops == 2 * 2 * 8 * 32**2


@pytest.mark.parametrize("structure", ["dense", "low-rank:r=512", "block-shuffle:blocks=4", "btt:r=4"])
def test_the_largest_presets_are_built_on_the_meta_device_in_a_moment(structure: str) -> None:
    """The limit is well below five seconds, even on a busy machine."""
    started_s = time.thread_time()
    model = meta_transformer(preset("xl", structure=structure, structured="all"))
    assert time.thread_time() - started_s < 2.5
    assert all(value.is_meta for value in model.parameters())
    assert model(torch.zeros(1, 1024, dtype=torch.long, device="meta")).shape == (1, 1024, 32_000)
