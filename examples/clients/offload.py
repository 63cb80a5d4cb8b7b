"""Load a swapped model with weights in memory and on disk (accelerate). Run: python examples/clients/offload.py FOLDER"""

import sys

import torch
from accelerate import cpu_offload
from transformers import AutoModelForCausalLM, LlamaConfig

from einsearch_cli import swap_linear
from einsearch_cli.export import save_swapped

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/offload"
config = LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
model = AutoModelForCausalLM.from_config(config).eval()
save_swapped(model, swap_linear(model, "monarch"), folder)
tokens = torch.arange(16).reshape(2, 8)
expected = model(tokens).logits

places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu"}
places |= {"model.rotary_emb": "cpu", "lm_head": "disk"}
parts = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=f"{folder}/offloaded")
print("on meta:", sum(parameter.is_meta for parameter in parts.parameters()), "of", len(list(parts.parameters())))
assert torch.equal(parts(tokens).logits, expected)

whole = AutoModelForCausalLM.from_pretrained(folder)
cpu_offload(whole, execution_device=torch.device("cpu"))  # on a GPU: one layer of the CPU's copy at a time
assert torch.equal(whole(tokens).logits, expected)
print("equal")
