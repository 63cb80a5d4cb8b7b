"""Compression of Hugging Face folders with calibration data."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from einsearch_cli.compression import compress
from einsearch_cli.compression.compressing import Progress, Unit
from einsearch_cli.data.tokens import Tokenizer, open_tokenizer
from einsearch_cli.errors import OutputError, SpecError
from einsearch_cli.export.calibration_data import calibration_batches
from einsearch_cli.export.hugging_face import save_swapped
from einsearch_cli.export.placing import refuse_existing
from einsearch_cli.export.swap_notes import METHOD
from einsearch_cli.export.transformers_models import PREFIX
from einsearch_cli.files import draft_folder, sync_folder, write_error
from einsearch_cli.lazy import optional_package
from einsearch_cli.swap import SwapReport

_CONTEXT: Final = 2048
_COPIED: Final = ("tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "*.model", "chat_template*")
"""Names of a tokenizer's files."""


def compress_folder(
    source: Path,
    target: Path,
    structures: Sequence[str],
    data: Path,
    tokens: int,
    keep: float | None = None,
    unit: Unit = "params",
    watch: Callable[[Progress], object] = lambda _: None,
    announce: Callable[[int, float], object] = lambda _, __: None,
) -> SwapReport:
    """Compress the causal language model in a folder of transformers.

    The new folder loads in any process that imports einsearch.

    Args:
        source: folder with `config.json` and weights, and with `tokenizer.json` if the data are text.
        target: a new folder.
        structures: as in `compress`.
        data: text file, folder of text files, or folder of token files.
        tokens: most tokens to calibrate with.
        keep: as in `compress`.
        unit: as in `compress`.
        watch: as in `compress`.
        announce: called before the start with the number of tokens and the seconds of one pass of the model over them.

    Raises:
        SpecError: if the source is not such a model, or is compressed or quantised already.
        DataError: if the data cannot be used.
        LayerError, SizeError: as in `compress`.
        OutputError: if transformers is not installed, or the target exists or cannot be written.
    """
    transformers = optional_package(
        "transformers", "a Hugging Face folder needs transformers", "pip install 'einsearch[transformers]'", OutputError
    )
    refuse_existing(target)
    model = _opened(transformers, source)
    tokenizer = _tokenizer(source)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    context = min(_CONTEXT, int(getattr(model.config, "max_position_embeddings", _CONTEXT)))
    rows = calibration_batches(data, tokenizer, vocabulary, context, tokens)
    batches = [{"input_ids": row} for row in rows]
    started_s = time.perf_counter()
    with torch.no_grad():
        model.eval()(**batches[0], use_cache=False)
    announce(sum(row.numel() for row in rows), (time.perf_counter() - started_s) * len(batches))
    report = compress(model, batches, list(structures), keep, unit, watch=watch)
    folder = target.resolve()
    try:
        with draft_folder(folder) as draft:
            save_swapped(model, report, draft)
            for pattern in _COPIED:
                for file in source.glob(pattern):
                    shutil.copyfile(file, draft / file.name)
            os.replace(draft, folder)
            sync_folder(folder.parent)
    except (OSError, OutputError) as error:
        raise write_error(repr(str(target)), error.__cause__ or error) from error
    return report


def _opened(transformers: Any, source: Path) -> Any:
    """The model, loaded from its folder alone."""
    try:
        config = transformers.AutoConfig.from_pretrained(source, local_files_only=True)
        quantised = getattr(config, "quantization_config", None)
        if quantised is not None:
            method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
            done = (
                "compressed by einsearch"
                if method == METHOD or str(config.model_type).startswith(PREFIX)
                else f"quantised ({method})"
            )
            raise SpecError(f"the model in {source} is {done} already", remedy="give the folder of the dense model")
        return transformers.AutoModelForCausalLM.from_pretrained(source, config=config, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise SpecError(
            f"{source} has no causal language model that transformers can load: {error}",
            remedy="give a folder that save_pretrained wrote, with config.json and weights",
        ) from error


def _tokenizer(source: Path) -> Tokenizer | None:
    return open_tokenizer(f"huggingface:{source}") if (source / "tokenizer.json").exists() else None
