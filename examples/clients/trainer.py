"""Compress a Llama and train it on with the Trainer of transformers. Run: python examples/clients/trainer.py FOLDER"""

import sys

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments

from einsearch_cli import swap_linear
from einsearch_cli.export import remember_swaps
from einsearch_cli.training import StructuredTraining


class StructuredTrainer(StructuredTraining, Trainer):  # rates of the factors, gains without decay, balanced experts
    pass


folder = sys.argv[1] if len(sys.argv) > 1 else "runs/trainer"
config = LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
model = AutoModelForCausalLM.from_config(config)  # yours: AutoModelForCausalLM.from_pretrained(...)
report = swap_linear(model, "btt:r=2", project=True)
remember_swaps(model, report)  # every checkpoint of the Trainer loads by from_pretrained now
print(report.summary)

texts = [{"input_ids": row, "labels": row} for row in torch.arange(3200).reshape(100, 32) % 96]
settings = TrainingArguments(folder, max_steps=50, learning_rate=3e-3, weight_decay=0.1, lr_scheduler_type="cosine")
trainer = StructuredTrainer(model, settings, train_dataset=texts)
print("loss", trainer.train().training_loss)
trained = AutoModelForCausalLM.from_pretrained(f"{folder}/checkpoint-50")
print("continuation", trained.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=5, do_sample=False)[0].tolist())
