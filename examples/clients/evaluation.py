"""Perplexity of a swapped model by lm-evaluation-harness. Run: python examples/clients/evaluation.py FOLDER"""

import json
import sys
from pathlib import Path

import lm_eval
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from einsearch_cli import swap_linear
from einsearch_cli.export import save_swapped

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/evaluation")
config = LlamaConfig(vocab_size=257, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
model = AutoModelForCausalLM.from_config(config)  # yours: AutoModelForCausalLM.from_pretrained(...)
save_swapped(model, swap_linear(model, "btt:r=2", project=True), folder)
letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))} | {"<end>": 256}
tokenizer = Tokenizer(models.BPE(letters, []))
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)

# einsearch is imported, so the harness loads the folder by itself. A task of yours; a name such as "lambada" downloads.
lines = [json.dumps({"text": f"The number {i} is even. " * 4}) for i in (2, 4)]
(folder / "texts.jsonl").write_text("\n".join(lines))
data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "texts.jsonl")}}}
task = {"task": "numbers", "output_type": "loglikelihood_rolling", "test_split": "test", "doc_to_text": "", **data}
task |= {"doc_to_target": "{{text}}", "metric_list": [{"metric": "byte_perplexity"}]}
print(lm_eval.simple_evaluate(HFLM(pretrained=str(folder), device="cpu"), tasks=[task])["results"]["numbers"])
