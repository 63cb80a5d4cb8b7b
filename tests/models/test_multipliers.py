import pytest
import torch
from torch import nn

from einsearch_cli.layers import EinsumLinear, learning_rate_multipliers
from einsearch_cli.models import MLP, StructuredNetwork, Transformer, proxy_config, structured_linear
from einsearch_cli.moe import StructuredMoE
from einsearch_cli.structures import parse_layer, parse_structure


def mlp(text: str, width: int) -> MLP:
    return MLP(8, width, 1, depth=3, make_linear=structured_linear(parse_structure(text)))


def gpt(text: str, width: int, vocabulary: int = 13) -> Transformer:
    config = proxy_config(vocabulary=vocabulary, width=width, layers=1, context=8, structure=text)
    return Transformer(config, structured_linear(parse_layer(text)))


def test_dense_mlp() -> None:
    multipliers = mlp("dense", 256).learning_rate_multipliers(base_width=64)
    matrices = {name: value for name, value in multipliers.items() if value != 1.0}
    assert all(value == 0.25 for value in matrices.values())
    assert set(matrices) == {name for name in multipliers if name.startswith(("layers.1.factors", "head.weight"))}


def test_the_input_layer_has_a_fixed_fan_in() -> None:
    narrow, wide = (mlp("dense", width).learning_rate_multipliers(base_width=64) for width in (64, 1024))
    first = [name for name in wide if name.startswith("layers.0.")]
    assert len(first) >= 2
    assert all(wide[name] == narrow[name] == 1.0 for name in first)


@pytest.mark.parametrize("text", ["monarch", "btt:r=2", "low-rank", "kronecker"])
@pytest.mark.parametrize("build", [mlp, gpt])
def test_a_factor_multiplies_the_dense_rule_with_its_own(build: type[StructuredNetwork], text: str) -> None:
    model = build(text, 256)
    multipliers = model.learning_rate_multipliers(base_width=64)
    assert multipliers.keys() == {name for name, _ in model.named_parameters()}
    checked = 0
    for layer, module in model.named_modules():
        if not isinstance(module, EinsumLinear):
            continue
        dense = 1.0 if layer == "layers.0" else 64 / 256
        own = module.learning_rate_multipliers()
        for name, value in module.named_parameters():
            expected = own[name] * dense if value.ndim >= 2 else 1.0
            assert multipliers[f"{layer}.{name}"] == pytest.approx(expected)
            checked += 1
    assert checked >= 4


def test_biases_gains_and_norms_keep_the_base_rate() -> None:
    for model in (mlp("btt:r=2", 256), gpt("btt:r=2", 256)):
        multipliers = model.learning_rate_multipliers(base_width=64)
        vectors = [name for name, value in model.named_parameters() if value.ndim < 2]
        assert vectors
        assert all(multipliers[name] == 1.0 for name in vectors)


def test_embedding_is_fixed_and_head_scales() -> None:
    multipliers = gpt("dense", 256).learning_rate_multipliers(base_width=64)
    assert multipliers["embedding.weight"] == 1.0
    assert multipliers["head.weight"] == 0.25


def test_nothing_is_stored_on_parameters() -> None:
    model = gpt("btt:r=2", 64)
    model.learning_rate_multipliers(base_width=64)
    assert all(not vars(value) for value in model.parameters())


def test_plain_linear_layers_follow_the_dense_rule() -> None:
    model = MLP(8, 256, 1, depth=3, make_linear=nn.Linear)
    multipliers = model.learning_rate_multipliers(base_width=64)
    assert multipliers["layers.0.weight"] == 1.0
    assert multipliers["layers.1.weight"] == 0.25
    assert multipliers["layers.1.bias"] == 1.0


def test_experts_learn_like_a_layer_of_their_own_and_routers_like_dense_ones() -> None:
    for text in ("btt-moe:r=2,experts=4,top=2", "ffn-moe:experts=4,top=2"):
        layer = parse_layer(text)
        model = gpt(text, 128, vocabulary=11)
        rates = model.learning_rate_multipliers(base_width=64)
        assert set(rates) == {name for name, _ in model.named_parameters()}
        routers = [name for name in rates if name.endswith("router.weight")]
        assert len(routers) == (1 if layer.feed_forward else 6)  # type: ignore[union-attr]
        assert all(rates[name] == 0.5 for name in routers)
        if "btt" in text:
            single = EinsumLinear(128, 128, "btt:r=2").learning_rate_multipliers()
            assert rates["blocks.0.attention.query.experts.factors.A"] == 0.5 * single["factors.A"]
            assert rates["blocks.0.attention.query.experts.gain"] == 1
        else:
            assert rates["blocks.0.ffn.up.factors.A"] == rates["blocks.0.ffn.down.factors.A"] == 0.5
        tokens = torch.randint(11, (3, 8))
        assert not model(tokens).any(), "the head starts at zero"
        assert not any(output.any() for output in _residual_outputs(model))


def _residual_outputs(model: Transformer) -> list[torch.Tensor]:
    x = torch.randn(5, 128)
    (block,) = model.blocks
    return [block.attention.output(x), block.ffn(x)]  # type: ignore[operator, union-attr]


def test_any_module_has_the_rates_of_its_structured_layers() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(64, 64),
            "layer": EinsumLinear(64, 64, "btt:r=2"),
            "experts": StructuredMoE(64, 64, "btt-moe:r=2,experts=4,top=2"),
        }
    )
    single = EinsumLinear(64, 64, "btt:r=2").learning_rate_multipliers()
    rates = learning_rate_multipliers(model, lambda layer: 0.5 if layer == "experts" else 1.0)
    assert rates == {
        "layer.factors.A": single["factors.A"],
        "layer.factors.B": single["factors.B"],
        "experts.experts.factors.A": 0.5 * single["factors.A"],
        "experts.experts.factors.B": 0.5 * single["factors.B"],
        "experts.router.weight": 0.5,
    }
    assert rates.keys() <= dict(model.named_parameters()).keys()
    assert learning_rate_multipliers(EinsumLinear(64, 64, "btt:r=2")) == single
