"""Swap the linear layers of two networks for structured ones: train an MLP for a moment, time a GPT-2.

Run: python examples/swap_linear.py
The GPT-2 needs transformers (pip install 'einsearch[transformers]'); it is random, nothing is downloaded.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch

from einsearch_cli import swap_linear
from einsearch_cli.layers import learning_rate_multipliers


def train_mlp() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1)
    )
    print(swap_linear(model, "btt:r=2", filter=lambda layer, _: layer.out_features > 1))

    inputs = torch.randn(2048, 64)
    targets = inputs[:, :8].prod(dim=1, keepdim=True).sign()
    rates = learning_rate_multipliers(model)
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(rates.get(name, 1.0), []).append(parameter)
    optimizer = torch.optim.AdamW([{"params": group, "lr": 3e-3 * rate} for rate, group in groups.items()])
    for step in range(301):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def time_gpt2() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2))
    body, tokens = model.transformer, torch.randint(0, 50_257, (1, 256))

    def training_step() -> None:
        body(tokens).last_hidden_state.sum().backward()

    dense_s = median_s(training_step)
    print(swap_linear(model, "monarch"))
    structured_s = median_s(training_step)
    print(f"forward and backward of the body, 256 tokens, {torch.get_num_threads()} threads:")
    print(f"  dense {dense_s * 1e3:.0f} ms, structured {structured_s * 1e3:.0f} ms")
    model.eval()
    print("generated:", model.generate(tokens[:, :4], max_new_tokens=4, do_sample=False, pad_token_id=0).tolist())


def median_s(run: Callable[[], None], repeats: int = 5) -> float:
    run()  # warm up
    seconds = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds)


if __name__ == "__main__":
    torch.manual_seed(0)
    train_mlp()
    if find_spec("transformers") is None:
        print("\ntransformers is not installed: no GPT-2")
    else:
        print()
        time_gpt2()
