"""Export of a transformer of `einsearch train` to a folder that the `Auto…` classes of transformers load."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from einsearch_cli.data.tokens import Tokenizer
from einsearch_cli.errors import DataError, OutputError
from einsearch_cli.export.copies import dense_copy, refuse_guided
from einsearch_cli.export.hugging_face import save_swapped
from einsearch_cli.export.placing import refuse_existing
from einsearch_cli.export.programs import compare_outputs
from einsearch_cli.export.tokenizer_files import SAMPLE, tokenizer_files
from einsearch_cli.export.twins import Twin, twin_config, twin_of
from einsearch_cli.files import draft_folder, sync_folder, write_atomically, write_error
from einsearch_cli.layers.feature_orders import layer_orders
from einsearch_cli.lazy import optional_package
from einsearch_cli.models.transformer import Transformer
from einsearch_cli.swap import SwapReport, apply_swaps, plan_swaps

_COMPARED_TOKENS = 32
"""Tokens of the two texts on which both models are run."""


def save_for_transformers(
    model: Transformer, folder: Path, tokenizer: Tokenizer | None = None, *, structured: bool = False
) -> float:
    """Write config, generation config, weights and tokenizer, then load them with transformers and compare.

    The architecture is that of `twin_of`. A tied head divides logits by the root of the width; in the exported model,
    the last norm does so.

    Args:
        model: the model of a run; it stays unchanged.
        folder: a new folder.
        tokenizer: the run's tokenizer; if None, the folder has none.
        structured: keep structured layers as factors, for processes that import einsearch; else they are merged.

    Returns:
        The largest difference from the model's logits on some tokens, relative to the largest logit.

    Raises:
        LayerError: if no architecture of Hugging Face computes the same, or the model has guided layers.
        DataError: if the tokenizer cannot be written as a tokenizer.json that gives the same tokens.
        OutputError: if the folder exists already, transformers is not installed, or the folder cannot be written.
        RunFailedError: if the loaded model's outputs differ from the model's.
    """
    transformers = optional_package(
        "transformers", "a Hugging Face folder needs transformers", "pip install 'einsearch[transformers]'", OutputError
    )
    twin = twin_of(model.config, structured=structured)
    if structured:
        refuse_guided(model)
    refuse_existing(folder)
    folder = folder.resolve()
    files = {} if tokenizer is None else tokenizer_files(tokenizer, model.config.context)
    try:
        with _quiet(transformers), draft_folder(folder) as draft:
            end = None if tokenizer is None else tokenizer.end_of_text
            _write_model(transformers, model, twin, end, draft, structured)
            for name, text in files.items():
                write_atomically(draft / name, text)
            if tokenizer is not None:
                _check_tokens(transformers, tokenizer, draft)
            difference = _compared(transformers, model, draft, folder)
            os.replace(draft, folder)
            sync_folder(folder.parent)
    except (OSError, OutputError, SafetensorError) as error:
        raise write_error(repr(str(folder)), error.__cause__ or error) from error
    return difference


def _write_model(
    transformers: Any, model: Transformer, twin: Twin, end: int | None, folder: Path, structured: bool
) -> None:
    """Write config, generation config and weights."""
    source = model if structured else dense_copy(model)
    values = twin_config(model.config, twin)
    # Without this, the architecture's own numbers would hold: generation by Llama ends at token 2.
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    config = transformers.AutoConfig.for_model(twin.model_type, **values, **special)
    with torch.device("meta"):
        made = transformers.AutoModelForCausalLM.from_config(config)
    report = _swapped(made, source, twin) if structured and source.structured_layers() else None
    made.load_state_dict(_state(source, twin), assign=True)
    made.tie_weights()
    if report is None:
        made.save_pretrained(folder)
    else:
        save_swapped(made, report, folder)
    # Readers other than transformers 5 look for these keys here; their defaults differ.
    rope = values["rope_parameters"]
    base, share = rope["rope_theta"], rope["partial_rotary_factor"]
    older = {"rope_theta": base, "partial_rotary_factor": share, "rotary_emb_base": base, "rotary_pct": share}
    path = folder / "config.json"
    document = {**older, **json.loads(path.read_text(encoding="utf-8"))}
    write_atomically(path, json.dumps(document, indent=2, sort_keys=True) + "\n")


def _swapped(made: Any, source: Transformer, twin: Twin) -> SwapReport:
    """Give the new model the structured layers of the run, in the run's orders of features."""
    names = {_renamed(f"{name}.", twin)[:-1]: name for name in source.structured_layers()}
    orders = layer_orders(source)
    plan = plan_swaps(made, source.config.layer_spec, lambda _, name: name in names)
    ordered = [
        replace(swap, order=orders.get(names[swap.name]) or orders[f"{names[swap.name]}.experts"])
        for swap in plan.replaced
    ]
    return apply_swaps(made, replace(plan, replaced=tuple(ordered)))


def _state(model: Transformer, twin: Twin) -> dict[str, Tensor]:
    """The parameters by the names of the twin."""
    config, own = model.config, {name: value.detach() for name, value in model.state_dict().items()}
    if config.tied:
        own["head.weight"] = own["embedding.weight"]
        for name in ("norm.weight", "norm.bias"):
            if name in own:
                own[name] = own[name] * config.width**-0.5
    for block in range(config.layers):
        if twin.packed:
            for kind in ("weight", "bias"):
                names = [f"blocks.{block}.attention.{part}.{kind}" for part in ("query", "key", "value")]
                if names[0] in own:
                    heads = [own.pop(name).unflatten(0, (config.heads, -1)) for name in names]
                    own[f"blocks.{block}.packed.{kind}"] = torch.stack(heads, dim=1).flatten(0, 2)
        if twin.ffn_biased and not config.bias:
            for part, size in (("up", config.hidden), ("down", config.width)):
                own[f"blocks.{block}.ffn.{part}.bias"] = torch.zeros(size)
    return {_renamed(name, twin): value for name, value in own.items()}


def _renamed(name: str, twin: Twin) -> str:
    """The name in the twin of a parameter, or of a module with a trailing dot."""
    top, _, rest = name.partition(".")
    if top == "head":
        return f"lm_head.{rest}"
    if top != "blocks":
        return f"{twin.body}.{twin.embedding if top == 'embedding' else twin.norm}.{rest}"
    block, _, rest = rest.partition(".")
    modules = twin.modules if twin.packed is None else {**twin.modules, "packed": twin.packed}
    part = next(part for part in modules if rest.startswith(f"{part}."))
    return f"{twin.body}.layers.{block}.{modules[part]}.{rest.removeprefix(f'{part}.')}"


def _check_tokens(transformers: Any, tokenizer: Tokenizer, folder: Path) -> None:
    found = transformers.AutoTokenizer.from_pretrained(folder)(SAMPLE)["input_ids"]
    if found != tokenizer.encode(SAMPLE).tolist():
        raise DataError(
            f"the tokenizer of the run, of kind {tokenizer.kind!r}, gives other tokens as a tokenizer.json",
            remedy="use --to dense, whose metadata hold the tokenizer",
        )


@torch.no_grad()
def _compared(transformers: Any, model: Transformer, written: Path, folder: Path) -> float:
    """Load the folder as any user would, and compare logits."""
    config = model.config
    loaded = transformers.AutoModelForCausalLM.from_pretrained(written)
    shape = (2, min(_COMPARED_TOKENS, config.context))
    tokens = torch.randint(config.vocabulary, shape, generator=torch.Generator().manual_seed(0))
    return compare_outputs(model, (tokens,), loaded(tokens).logits, folder)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence progress bars and reports of loading."""
    logging = transformers.utils.logging
    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()
