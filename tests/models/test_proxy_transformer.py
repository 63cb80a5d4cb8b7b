import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.errors import LayerError, SizeError
from einsearch_cli.models import LinearRule, Transformer, proxy_config, structured_linear
from einsearch_cli.models.transformer.blocks import rotation
from einsearch_cli.structures import parse_structure
from tests.models.routes import keep_factors_apart


def proxy(
    make_linear: LinearRule = nn.Linear, vocabulary: int = 13, width: int = 64, layers: int = 2, context: int = 8
) -> Transformer:
    config = proxy_config(vocabulary=vocabulary, width=width, layers=layers, context=context, structure="dense")
    return Transformer(config, make_linear)


@pytest.fixture
def awake() -> Transformer:
    """A network whose zero tensors are random, so that its outputs depend on everything."""
    torch.manual_seed(0)
    model = proxy(width=128, context=12)
    for value in model.parameters():
        if value.ndim >= 2:
            nn.init.normal_(value, std=0.3)
    return model.double()


def logits(model: Transformer, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens]))[0]


def test_a_token_sees_no_later_token(awake: Transformer) -> None:
    first, second = logits(awake, [1, 2, 3, 4, 5]), logits(awake, [1, 2, 3, 9, 9])
    torch.testing.assert_close(first[:3], second[:3])
    assert (first[3] - second[3]).abs().max() > 1e-3


def test_a_token_sees_the_order_of_earlier_ones(awake: Transformer) -> None:
    assert (logits(awake, [1, 2, 3])[2] - logits(awake, [2, 1, 3])[2]).abs().max() > 1e-3


def test_only_distances_count(awake: Transformer) -> None:
    """Positions are rotary: with one earlier token repeated, shifting everything changes nothing."""
    torch.testing.assert_close(logits(awake, [5] * 4)[0], logits(awake, [5] * 4)[3])


def test_against_a_plain_implementation(awake: Transformer) -> None:
    """The reference uses one block and one head at a time, complex rotations, and an explicit mask."""
    tokens = [3, 1, 4, 1, 5, 9]
    length, size = len(tokens), 64

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    def turn(x: Tensor) -> Tensor:
        pairs = torch.arange(0, size, 2, dtype=torch.float64)
        angle = torch.outer(torch.arange(length).double(), 10_000.0 ** (-pairs / size))
        turned = torch.complex(x[:, : size // 2], x[:, size // 2 :]) * torch.exp(1j * angle)
        return torch.cat([turned.real, turned.imag], dim=-1)

    x = awake.embedding.weight[tokens]
    for block in awake.blocks:
        heads = []
        for head in range(2):
            rows = slice(head * size, (head + 1) * size)
            query, key, value = (
                norm(x) @ layer.weight[rows].T
                for layer in (block.attention.query, block.attention.key, block.attention.value)
            )
            scores = turn(query) @ turn(key).T / size**0.5
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            heads.append(scores.softmax(-1) @ value)
        x = x + torch.cat(heads, dim=-1) @ block.attention.output.weight.T
        hidden = norm(x) @ block.ffn.up.weight.T
        x = x + (hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))) @ block.ffn.down.weight.T
    torch.testing.assert_close(logits(awake, tokens), norm(x) @ awake.head.weight.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", ["dense", "monarch", "btt:r=2", "low-rank"])
def test_flops_equal_torchs_own_counter(text: str) -> None:
    model = proxy(structured_linear(parse_structure(text)), context=32)
    keep_factors_apart(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(8, 32, dtype=torch.long))
    count = model.flops_per_token()
    # torch counts nothing for attention on the CPU
    assert counter.get_total_flops() == 8 * 32 * (count.linears + count.head)


def test_attention_flops_are_those_of_the_two_products() -> None:
    model = proxy(width=128, layers=3, context=32)
    query, key, value = (torch.zeros(2, 32, 64) for _ in range(3))  # 2 heads
    with FlopCounterMode(display=False) as counter:
        torch.bmm(torch.bmm(query, key.transpose(1, 2)), value)
    assert 32 * model.flops_per_token().attention == 3 * counter.get_total_flops()


@pytest.mark.parametrize("text", ["dense", "btt:r=2"])
def test_starts_by_passing_the_embedding_through(text: str) -> None:
    model = proxy(structured_linear(parse_structure(text)))
    x = model.embedding(torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(model.blocks[0](x, rotation(0, 3, 64, 10_000.0, x)), x)
    assert model(torch.tensor([[1, 2, 3]])).abs().max() == 0


def test_impossible_sizes() -> None:
    with pytest.raises(
        SizeError,
        match=r"a proxy transformer of width 130: it has 3 heads of at most 64, .* multiple of 6\ntry: use 132",
    ):
        proxy(width=130)
    assert proxy(width=132).count().params > 0
    with pytest.raises(SizeError, match="try: use 34"):
        proxy(width=33)
    with pytest.raises(SizeError, match="vocabulary 0"):
        proxy(vocabulary=0)
    model = proxy()
    with pytest.raises(LayerError, match="9 tokens for a context of 8"):
        model(torch.zeros(1, 9, dtype=torch.long))
