"""Swap the linear layers of a small network for structured ones and train it for a moment.

Run: python examples/swap_linear.py
"""

from __future__ import annotations

import torch

from einsearch_cli import EinsumLinear, swap_linear

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1)
)
print(swap_linear(model, "btt:r=2", filter=lambda layer, _: layer.out_features > 1))

inputs = torch.randn(2048, 64)
targets = inputs[:, :8].prod(dim=1, keepdim=True).sign()
groups = []
for layer in model.modules():
    if isinstance(layer, EinsumLinear):
        rates = layer.learning_rate_multipliers()
        groups += [{"params": [p], "lr": 3e-3 * rates.get(name, 1.0)} for name, p in layer.named_parameters()]
    elif isinstance(layer, torch.nn.Linear):
        groups.append({"params": list(layer.parameters()), "lr": 3e-3})
optimizer = torch.optim.AdamW(groups)
for step in range(301):
    loss = torch.nn.functional.mse_loss(model(inputs), targets)
    if step % 100 == 0:
        print(f"step {step}: loss {loss.item():.4f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
