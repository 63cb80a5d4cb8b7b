"""Hugging Face models with swapped layers: folders that `from_pretrained` loads in processes that import einsearch.

The config of a folder contains the swaps under `quantization_config`, by which transformers finds the code that changes
a model before its weights are loaded. Its `model_type` begins with `einsearch-`. So without einsearch, the `Auto…`
classes refuse the folder; otherwise they would fill the layers with random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from einsearch_cli.errors import SpecError
from einsearch_cli.export.swap_notes import METHOD, entry_with, remember_swaps, swaps_of
from einsearch_cli.export.transformers_models import CHECKED_LATER
from einsearch_cli.files import make_folder, write_atomically
from einsearch_cli.swap import SwapReport

_PLACES: Final = (
    *("revision", "token", "subfolder", "cache_dir", "local_files_only", "force_download", "proxies"),
    "trust_remote_code",
)
"""Options of `from_pretrained` that are also needed to find the config."""
_README: Final = """\
Linear layers of this model are structured matrices: it loads where einsearch is imported:

    import einsearch_cli  # then from_pretrained(folder), as for any model
"""
SWAPS: Final = "einsearch_swaps.json"
"""The file that earlier versions wrote next to the config instead of the entry in it."""


def save_swapped(model: Any, reports: SwapReport | Sequence[SwapReport], folder: str | Path, **options: Any) -> None:
    """Write a model of transformers or diffusers whose linear layers `swap_linear` replaced.

    `from_pretrained(folder)`, of `AutoModel…` or of the class, loads it in a process that has imported einsearch.
    Without the import, the `Auto…` classes and diffusers refuse it, and a concrete class of transformers only warns.
    The swaps are also noted in the model's config (`remember_swaps`).

    Args:
        model: a `PreTrainedModel` of transformers, or a `ModelMixin` of diffusers.
        reports: what `swap_linear` returned, in the order of the calls. Swaps that the config notes already are kept.
        folder: created if missing. It gets a README.md that says how it loads, unless it has one.
        options: `max_shard_size`, `push_to_hub` and whatever else `save_pretrained` takes.

    Raises:
        OutputError: if the folder or its config cannot be written.
        SpecError: for a model of another library, for reports of another model, and for quantised factors.
    """
    folder = Path(folder)
    remember_swaps(model, reports)
    make_folder(folder)
    model.save_pretrained(folder, **options)
    if not (folder / "README.md").exists():
        write_atomically(folder / "README.md", _README)


def load_swapped(folder: str | Path, model_class: Any = None, **options: Any) -> Any:
    """Load a model written by `save_swapped`, or by a Trainer that continued with it, in evaluation mode.

    It calls `model_class.from_pretrained(folder, **options)`, and raises an error if weights are missing or left over.

    Args:
        folder: the folder that `save_swapped` wrote, or the name of such a model on the hub.
        model_class: the class of the model, such as `transformers.GPT2LMHeadModel`, or one of the `AutoModel…` classes;
            by default the class of transformers or diffusers that the folder's config names.
        options: `dtype`, `device_map`, `attn_implementation` and whatever else `from_pretrained` takes.

    Raises:
        SpecError: if the swaps or the weights are missing, damaged, or do not fit each other, or if no class is given and
            the config names none that transformers or diffusers has.
        LayerError: if the model has other linear layers than the swaps name.
    """
    from safetensors import SafetensorError

    try:
        model_class = model_class or _class_of(folder, **_places(options))
        if hasattr(model_class, "load_config"):  # a class of diffusers
            _check_entry(model_class.load_config(folder, **_places(options)).get("quantization_config"), folder)
        elif "config" not in options:
            options["config"] = _config(folder, **_places(options))
    except OSError as error:
        raise SpecError(
            f"the config of {folder} cannot be read: {error}",
            remedy="give the folder that save_swapped wrote, or the name of such a model on the hub",
        ) from error
    # Other shapes are accepted at first, because the error of transformers does not name them.
    ignores_shapes = options.get("ignore_mismatched_sizes", False)
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    token = CHECKED_LATER.set(True)
    try:
        model, found = model_class.from_pretrained(folder, **options)
    except (OSError, SafetensorError) as error:
        raise SpecError(f"weights in {folder} cannot be read: {error}", remedy="save the model again") from error
    finally:
        CHECKED_LATER.reset(token)
    if found.get("mismatched_keys") and not ignores_shapes:
        name, there, wanted = min(found["mismatched_keys"])
        raise SpecError(
            f"{folder}: {len(found['mismatched_keys'])} of the weights have other shapes than the model: {name} is "
            f"{tuple(there)} in the file, and {tuple(wanted)} by the swaps and the config",
            remedy="give a folder whose config and weights were saved together",
        )
    lost, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if lost or unexpected:
        raise SpecError(
            f"{folder}: the weights lack {', '.join(lost) or 'none'} of the model's, and have {len(unexpected)} that it "
            f"does not have{': ' + ', '.join(unexpected[:3]) if unexpected else ''}",
            remedy="give the folder that save_swapped wrote, and the class of that model",
        )
    return model


def _check_entry(entry: Any, folder: str | Path) -> None:
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        raise SpecError(
            f"{folder} says nowhere which layers were swapped: its config has no entry of einsearch",
            remedy="give the folder that save_swapped wrote",
        )
    swaps_of(entry)


def _class_of(folder: str | Path, **places: Any) -> Any:
    """The class that was saved: transformers notes it under `architectures`, and diffusers under `_class_name`."""
    from transformers import PretrainedConfig

    config, _ = PretrainedConfig.get_config_dict(folder, **places)
    library = "diffusers" if "_class_name" in config else "transformers"
    name = next(iter([config["_class_name"]] if library == "diffusers" else config.get("architectures") or []), None)
    found = getattr(import_module(library), str(name), None)
    if found is None:
        raise SpecError(
            f"the config of {folder} names {name or 'no class'} as that of the model: a class of {library} is needed",
            remedy="give the class, such as load_swapped(folder, transformers.AutoModelForCausalLM)",
        )
    return found


def _places(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say where the files are."""
    return {name: options[name] for name in _PLACES if name in options}


def _config(folder: str | Path, **places: Any) -> Any:
    """The config with its swaps, including those of an earlier version."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, **places)
    entry = getattr(config, "quantization_config", None)
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        path = Path(folder) / places.get("subfolder", "") / SWAPS
        try:
            config.quantization_config = entry_with(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise SpecError(
                f"{folder} says nowhere which layers were swapped: its config has no entry of einsearch, and {path}: {error}",
                remedy="give the folder that save_swapped wrote",
            ) from error
    swaps_of(config.quantization_config)
    return config
