"""Compress a model, and recover by LoRA on its structured layers (peft). Run: python examples/clients/lora.py FOLDER"""

import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from einsearch_cli import swap_linear
from einsearch_cli.export import dense_copy, save_swapped

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/lora"
config = LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
model = AutoModelForCausalLM.from_config(config)  # yours: AutoModelForCausalLM.from_pretrained(...)
save_swapped(model, swap_linear(model, "low-rank:r=16", project=True), f"{folder}/compressed")

adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
adapted.print_trainable_parameters()
optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
tokens = torch.arange(96).reshape(3, 32)
for _ in range(30):
    (loss := adapted(input_ids=tokens, labels=tokens).loss).backward()
    optimizer.step(), optimizer.zero_grad()
print("loss", loss.item())
adapted.save_pretrained(f"{folder}/adapter")

base = AutoModelForCausalLM.from_pretrained(f"{folder}/compressed")
loaded = PeftModel.from_pretrained(base, f"{folder}/adapter").eval()
merged = dense_copy(loaded).merge_and_unload()  # dense; structured layers keep their adapters apart
print("difference", (merged(tokens).logits - loaded(tokens).logits).abs().max().item())
