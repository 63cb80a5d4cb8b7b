import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.errors import LayerError, SizeError, SpecError, StructureError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models import Transformer, TransformerConfig, config_from, preset
from tests.models.routes import keep_factors_apart
from tests.models.transformers import BASE, KINDS, awake, config_of

WITHOUT_EXPERTS = [kind for kind in KINDS if "experts" not in kind]
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def matrix(layer: nn.Module) -> Tensor:
    """The layer's matrix, column by column, without the bias."""
    size = layer.in_features
    zero = layer(torch.zeros(1, size, dtype=torch.float64))
    return (layer(torch.eye(size, dtype=torch.float64)) - zero).T


def affine(layer: nn.Module, x: Tensor) -> Tensor:
    bias = 0 if layer.bias is None else layer.bias
    return x @ matrix(layer).T + bias


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, nn.RMSNorm):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def turned(x: Tensor, base: float) -> Tensor:
    """Rotate pairs of numbers of one head as complex numbers."""
    length, size = x.shape
    angle = torch.outer(torch.arange(length).double(), base ** (-torch.arange(0, size, 2).double() / size))
    result = torch.complex(x[:, : size // 2], x[:, size // 2 :]) * torch.exp(1j * angle)
    return torch.cat([result.real, result.imag], dim=-1)


def plain_attention(attention: nn.Module, config: TransformerConfig, x: Tensor) -> Tensor:
    """Attention one head at a time, with an explicit mask."""
    query, key, value = (affine(getattr(attention, name), x) for name in ("query", "key", "value"))
    size, heads = config.head_size, []
    for head in range(config.heads):
        shared = head // (config.heads // config.kv_heads)
        own, common = slice(head * size, (head + 1) * size), slice(shared * size, (shared + 1) * size)
        q, k = query[:, own], key[:, common]
        if config.qk_norm:
            q, k = normed(attention.query_norm, q), normed(attention.key_norm, k)
        scores = turned(q, config.rotary_base) @ turned(k, config.rotary_base).T / size**0.5
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ value[:, common])
    return affine(attention.output, torch.cat(heads, dim=-1))


def plain_logits(model: Transformer, tokens: list[int]) -> Tensor:
    config = model.config
    x = model.embedding.weight[tokens]
    for block in model.blocks:
        x = x + plain_attention(block.attention, config, normed(block.attention_norm, x))
        inner, ffn = normed(block.ffn_norm, x), block.ffn
        up = affine(ffn.up, inner)
        if config.activation == "swiglu":
            gate = affine(ffn.gate, inner)
            hidden = gate * torch.sigmoid(gate) * up
        else:
            hidden = up * 0.5 * (1 + torch.erf(up / 2**0.5))
        x = x + affine(ffn.down, hidden)
    if config.tied:
        return normed(model.norm, x) @ model.embedding.weight.T / config.width**0.5
    return normed(model.norm, x) @ model.head.weight.T


@pytest.mark.parametrize("kind", WITHOUT_EXPERTS)
@torch.no_grad()
def test_against_a_plain_implementation(kind: str) -> None:
    model = awake(config_of(kind))
    torch.testing.assert_close(model(torch.tensor([TOKENS]))[0], plain_logits(model, TOKENS), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", WITHOUT_EXPERTS)
def test_flops_equal_torchs_own_counter(kind: str) -> None:
    model = Transformer(config_of(kind))
    keep_factors_apart(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(16, 12, dtype=torch.long))
    count = model.flops_per_token()
    assert counter.get_total_flops() == 16 * 12 * (count.linears + count.head)  # none for attention on the CPU


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_a_learning_rate_and_a_gradient(kind: str) -> None:
    model = awake(config_of(kind)).train()
    assert model.learning_rate_multipliers(base_width=16).keys() == {name for name, _ in model.named_parameters()}
    model(torch.tensor([TOKENS] * 4)).square().sum().backward()
    unused = [name for name, value in model.named_parameters() if value.grad is None]
    assert not unused


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_add_nothing_at_the_start(kind: str) -> None:
    model = Transformer(config_of(kind))
    x = model.embedding(torch.tensor([TOKENS]))
    seen: list[Tensor] = []
    model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = model(torch.tensor([TOKENS]))
    torch.testing.assert_close(seen[0], x)
    if model.config.tied:
        assert 0.5 < logits.std() < 2
    else:
        assert not logits.any()


@pytest.mark.parametrize(
    ("structured", "first_ffn_dense", "expected"),
    [
        ("ffn", False, {"0.ffn", "1.ffn"}),
        ("ffn", True, {"1.ffn"}),
        ("attn", True, {"0.attention", "1.attention"}),
        ("all", True, {"0.attention", "1.attention", "1.ffn"}),
        ("all", False, {"0.attention", "1.attention", "0.ffn", "1.ffn"}),
    ],
)
def test_which_layers_carry_the_structure(structured: str, first_ffn_dense: bool, expected: set[str]) -> None:
    changes = {"structure": "monarch", "structured": structured, "first_ffn_dense": first_ffn_dense}
    model = Transformer(TransformerConfig.model_validate({**BASE, **changes, "activation": "swiglu"}))
    found = model.structured_layers()
    assert {name.removeprefix("blocks.").rpartition(".")[0] for name in found} == expected
    assert all(isinstance(layer, EinsumLinear) for layer in found.values())
    per_part = {"attention": 4, "ffn": 3}
    assert len(found) == sum(per_part[name.partition(".")[2]] for name in expected)
    plain = {name for name, layer in model.named_modules() if type(layer) is nn.Linear}
    assert plain | found.keys() == {
        f"blocks.{block}.{layer}"
        for block in (0, 1)
        for layer in (
            *(f"attention.{n}" for n in ("query", "key", "value", "output")),
            "ffn.gate",
            "ffn.up",
            "ffn.down",
        )
    } | {"head"}


def test_dense_layers_are_ordinary_ones_with_the_start_of_a_dense_structure() -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(vocabulary=5, width=256, layers=1, heads=4, bias=True))
    assert not model.structured_layers()
    up = model.blocks[0].ffn.up
    assert up.weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert not up.bias.any()


def test_recomputed_blocks_give_the_same_gradients() -> None:
    model = awake(config_of("low-rank everywhere")).train()
    grads = []
    for recomputes in (False, True):
        model.recomputes_blocks = recomputes
        model.zero_grad()
        model(torch.tensor([TOKENS])).square().sum().backward()
        grads.append([value.grad.clone() for value in model.parameters()])
    for first, second in zip(*grads, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_a_config_goes_through_json() -> None:
    config = preset("wide-m", qk_norm=True)
    assert TransformerConfig.model_validate_json(config.model_dump_json()) == config


def test_sizes_that_follow_from_others_follow_changes() -> None:
    assert preset("m", width=2048).hidden == 8192
    assert preset("m", activation="swiglu").hidden == 2752  # 8/3 × 1024 = 2730.7, rounded up to a multiple of 64
    assert preset("wide-m", heads=4).attention_width == 256
    assert preset("m", kv_heads=None).kv_heads == 16


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"heads": 5}, SizeError, "5 heads in a width of 32: the heads have to divide the width\ntry: give 4 or 8"),
        (
            {"kv_heads": 3},
            SizeError,
            "3 kv_heads for 4 heads: each has to serve equally many\ntry: give 2 or 4 kv_heads",
        ),
        ({"head_size": 7}, SizeError, "head_size of 7: rotary embeddings turn pairs .*\ntry: use 8"),
        ({"layers": 0}, SizeError, "layers 0: every size has to be at least 1\ntry: give a positive layers"),
        ({"layers": 10**6}, SizeError, "layers 1,000,000: at most 10,000 is possible\ntry: give a smaller layers"),
        ({"width": 10**12}, SizeError, "width 1,000,000,000,000: at most 16,777,216 is possible"),
        ({"heads": 1 << 20, "head_size": 1 << 20}, SizeError, "heads × head_size 1,099,511,627,776: at most"),
        ({"vocabulary": -1}, SizeError, "vocabulary -1: every size"),
        ({"structure": "monrach"}, StructureError, "monrach"),
        ({"structure": "ffn-moe:experts=4,top=2", "structured": "attn"}, SpecError, "its experts are feed-forward"),
        ({"structure": "ffn-moe:experts=4,top=2", "bias": True}, SpecError, "use GELU and have no bias"),
        ({"norm": "batch"}, SpecError, "norm is 'batch': one of layer, rms is needed\ntry: norm: layer"),
        ({"rotary_base": 0.5}, SpecError, "rotary_base is 0.5: a number above 1 is needed\ntry: rotary_base: 10000"),
        ({"depth": 3}, SpecError, "unknown key 'depth'\ntry: use one of: vocabulary"),
        ({"width": "wide"}, SpecError, "width is 'wide': a whole number is needed\ntry: width: 768"),
    ],
)
def test_impossible_configs(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        config_from({**BASE, **changes})


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SpecError, match="heads is missing"):
        config_from({"vocabulary": 3, "width": 32, "layers": 1})


def test_more_tokens_than_the_context() -> None:
    with pytest.raises(LayerError, match="13 tokens for a context of 12"):
        Transformer(config_of("plain"))(torch.zeros(1, 13, dtype=torch.long))
