"""swap_linear on GPT-2 and Llama of Hugging Face transformers, tiny and random."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.swap import DenseLayer, SwapReport, apply_swaps, plan_swaps, swap_linear

transformers = pytest.importorskip("transformers")

VOCABULARY = 96


def _gpt2(tied: bool = True) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2,
        n_embd=32,
        n_head=2,
        n_positions=32,
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=tied,
    )
    return transformers.GPT2LMHeadModel(config).eval()  # type: ignore[no-any-return]


def _llama() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()  # type: ignore[no-any-return]


MODELS = {"gpt2": _gpt2, "llama": _llama}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request: pytest.FixtureRequest) -> nn.Module:
    made: nn.Module = request.param()
    return made


def _not_the_head(_layer: DenseLayer, name: str) -> bool:
    return "lm_head" not in name


def _tokens() -> Tensor:
    return torch.randint(1, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0))


def test_gpt2_has_its_conv1d_replaced_and_its_tied_head_kept() -> None:
    model = _gpt2()
    report = swap_linear(model, "btt:r=2")
    block = {"attn.c_attn": (32, 96), "attn.c_proj": (32, 32), "mlp.c_fc": (32, 128), "mlp.c_proj": (128, 32)}
    assert {swap.name: (swap.in_features, swap.out_features) for swap in report.replaced} == {
        f"transformer.h.{i}.{name}": widths for i in range(2) for name, widths in block.items()
    }
    assert {swap.kind for swap in report.replaced} == {"Conv1D"}
    assert report.skipped == {"lm_head": "it is the output layer, which only a filter replaces"}
    asked = plan_swaps(_gpt2(), "monarch", lambda *_: True)
    assert asked.skipped == {"lm_head": "weight is shared with transformer.wte"}
    assert model.lm_head.weight is model.transformer.wte.weight  # type: ignore[union-attr]
    assert report.model.params_after == sum(p.numel() for p in model.parameters())
    assert report.total.params_before == 2 * sum(i * o for i, o in block.values())
    assert report.model.flops_before == 2 * (report.total.params_before + 32 * VOCABULARY)


def test_llama_has_every_layer_replaced() -> None:
    report = swap_linear(_llama(), "monarch", lambda *_: True)
    assert len(report.replaced) == 2 * 7 + 1
    assert report.skipped == {}


def test_a_conv1d_keeps_what_it_multiplies_with() -> None:
    """A dense GPT-2 with the transposed matrices of the structured layers gives the same logits."""
    model, dense = _gpt2(), _gpt2()
    swap_linear(model, "btt:r=2")
    for name, layer in model.named_modules():
        if isinstance(layer, EinsumLinear):
            assert layer.bias is not None
            nn.init.normal_(layer.bias)
            conv1d = dense.get_submodule(name)
            with torch.no_grad():
                conv1d.weight.copy_(layer.to_dense().T)  # type: ignore[operator,union-attr]
                conv1d.bias.copy_(layer.bias)  # type: ignore[operator,union-attr]
    tokens = _tokens()
    torch.testing.assert_close(model(tokens).logits, dense(tokens).logits, rtol=1e-4, atol=1e-5)


def test_it_trains_and_generates(model: nn.Module) -> None:
    swap_linear(model, "btt:r=2", _not_the_head)
    tokens = _tokens()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        found = model.generate(tokens, max_new_tokens=5, do_sample=False)  # type: ignore[operator]
    # Greedy decoding again, without the cache.
    slow = tokens
    for _ in range(5):
        slow = torch.cat([slow, model(slow).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, slow[:, : found.shape[1]])


def test_saved_weights_come_back(model: nn.Module, tmp_path: Path) -> None:
    rebuilt = copy.deepcopy(model)
    report = swap_linear(model, "btt:r=2", _not_the_head)
    apply_swaps(rebuilt, SwapReport.from_json(report.to_json()))
    tokens = _tokens()
    assert not torch.equal(model(tokens).logits, rebuilt(tokens).logits)

    torch.save(model.state_dict(), tmp_path / "weights.pt")
    rebuilt.load_state_dict(torch.load(tmp_path / "weights.pt"), strict=True)
    assert torch.equal(model(tokens).logits, rebuilt(tokens).logits)


def test_safetensors_keeps_ties(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        torch.manual_seed(0)
        model = _gpt2()
        first, second = model.transformer.h  # type: ignore[union-attr]
        second.mlp.c_fc.weight = first.mlp.c_fc.weight
        swap_linear(model, "btt:r=2")
        return model

    model, rebuilt = tied(), tied()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))
    missing, unexpected = safetensors.torch.load_model(rebuilt, tmp_path / "model.safetensors", strict=True)
    assert (missing, unexpected) == (set(), [])
    first, second = rebuilt.transformer.h  # type: ignore[union-attr]
    assert first.mlp.c_fc.factors["A"] is second.mlp.c_fc.factors["A"]
    assert rebuilt.lm_head.weight is rebuilt.transformer.wte.weight  # type: ignore[union-attr]
    tokens = _tokens()
    assert torch.equal(model(tokens).logits, rebuilt(tokens).logits)


def test_save_pretrained_comes_back_by_config_and_swap(model: nn.Module, tmp_path: Path) -> None:
    swap_linear(model, "btt:r=2", _not_the_head)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    rebuilt = transformers.AutoModelForCausalLM.from_config(config).eval()
    swap_linear(rebuilt, "btt:r=2", _not_the_head)
    safetensors.torch.load_model(rebuilt, tmp_path / "model.safetensors", strict=True)
    tokens = _tokens()
    assert torch.equal(model(tokens).logits, rebuilt(tokens).logits)


def test_a_conv1d_tied_to_a_linear_layer_stays() -> None:
    conv1d = transformers.pytorch_utils.Conv1D(16, 16)
    linear = nn.Linear(16, 16)
    linear.weight = conv1d.weight
    report = plan_swaps(nn.Sequential(conv1d, linear), "monarch")
    assert report.skipped == {"0": "weight is shared with 1", "1": "weight is shared with 0"}


def test_a_subclass_of_conv1d_stays() -> None:
    class OwnConv1D(transformers.pytorch_utils.Conv1D):  # type: ignore[misc,name-defined]
        pass

    report = plan_swaps(nn.Sequential(OwnConv1D(16, 16)), "monarch")
    assert report.skipped == {"0": "OwnConv1D is a subclass of Conv1D whose own behaviour would be lost"}


def test_a_projected_conv1d_is_not_transposed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(transformers.pytorch_utils.Conv1D(24, 16)).double()
    x = torch.randn(3, 16, dtype=torch.float64)
    y = model(x)
    swap_linear(model, "low-rank:r=16", project=True)
    torch.testing.assert_close(model(x), y, rtol=1e-10, atol=1e-10)


def test_the_output_layer_stays_dense_unless_a_filter_takes_it() -> None:
    def llama() -> nn.Module:
        config = transformers.LlamaConfig(
            num_hidden_layers=1, hidden_size=32, intermediate_size=48, num_attention_heads=4, vocab_size=96,
            tie_word_embeddings=False,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config)

    model = llama()
    report = swap_linear(model, "monarch")
    assert report.skipped == {"lm_head": "it is the output layer, which only a filter replaces"}
    model.resize_token_embeddings(110)  # type: ignore[operator]
    assert model(torch.arange(5)[None]).logits.shape[-1] == 110
    taken = llama()
    assert "lm_head" in [swap.name for swap in swap_linear(taken, "monarch", lambda *_: True).replaced]
    assert isinstance(taken.lm_head, EinsumLinear)
