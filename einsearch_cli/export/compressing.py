"""Projection of trained dense matrices onto a structure: those of a transformer, or of any file of weights."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from einsearch_cli.compression import compress
from einsearch_cli.errors import EinsearchError, OutputError, SpecError
from einsearch_cli.export.copies import dense_copy
from einsearch_cli.export.placing import place, refuse_other_than_safetensors
from einsearch_cli.files import refuse_unwritable
from einsearch_cli.layers import EinsumLinear, set_layer_orders_
from einsearch_cli.models.transformer import Transformer, TransformerConfig
from einsearch_cli.projection import project_
from einsearch_cli.structures import LayerSpec, MixtureOfExperts, Structure
from einsearch_cli.swap import Costs, Kept, Swap, SwapReport, kept_weights
from einsearch_cli.taxonomy import layer_costs

SWAPS_ENTRY: Final = "einsearch_swaps"
"""Key of the JSON report in the metadata of a compressed file."""

Watch = Callable[[Swap], None]
"""Called for every layer when it is done."""


def compress_transformer(
    model: Transformer, config: TransformerConfig, watch: Watch, batches: Sequence[Tensor] | None = None
) -> tuple[Transformer, SwapReport]:
    """Project a trained transformer onto another structure; each new matrix is the nearest to the old one.

    Args:
        model: the trained model; it stays unchanged, and its own structured layers are merged first.
        config: config of the new model, which differs only in what is structured, and how.
        watch: called for every layer.
        batches: rows of tokens; with them, outputs are fitted instead of weights (see `compress`).

    Returns:
        The new transformer, in evaluation mode, and a report on every layer of the old one.

    Raises:
        LayerError: for layers of experts.
        SpecError: if the config gives no layer a structure.
    """
    if isinstance(config.layer_spec, MixtureOfExperts):
        raise SpecError(
            f"structure {config.structure}: a dense matrix has no nearest mixture of experts",
            remedy="give a structure without experts",
        )
    dense = dense_copy(model)
    compressed = Transformer(config)
    structured = compressed.structured_layers()
    if not structured:
        raise SpecError(
            f"structure {config.structure} in {config.structured}: no layer of the model carries it",
            remedy="give --structure a structure other than dense",
        )
    if batches is not None:
        return _calibrated(dense, compressed, structured, batches, watch)
    old = dense.state_dict()
    new = compressed.state_dict()
    compressed.load_state_dict({**new, **{name: value for name, value in old.items() if name in new}})
    done = []
    for name, layer in structured.items():
        assert isinstance(layer, EinsumLinear)
        done.append(_swap(name, layer, old[f"{name}.weight"]))
        watch(done[-1])
    return compressed.eval(), _report(config.layer_spec, dense, compressed, tuple(done))


def _calibrated(
    dense: Transformer, compressed: Transformer, names: Iterable[str], batches: Sequence[Tensor], watch: Watch
) -> tuple[Transformer, SwapReport]:
    wanted = {*names}
    report = compress(dense, batches, compressed.config.layer_spec, filter=lambda _, name: name in wanted)
    set_layer_orders_(compressed, {swap.name: str(swap.order) for swap in report.replaced})
    compressed.load_state_dict(dense.state_dict())
    for swap in report.replaced:
        watch(swap)
    return compressed.eval(), report


def _report(structure: LayerSpec, dense: Transformer, compressed: Transformer, done: tuple[Swap, ...]) -> SwapReport:
    old = {dense.get_submodule(swap.name): swap.costs for swap in done}
    taken = {
        weight: costs.params_before
        for layer, costs in old.items()
        if (weight := layer._parameters["weight"]) is not None
    }
    kept = kept_weights(dense, taken, {layer: costs.flops_before for layer, costs in old.items()})
    costs = Costs.of_model(_size(dense.parameters()), _size(compressed.parameters()), kept, done)
    return SwapReport(structure, True, done, {}, costs, kept)


def _swap(name: str, layer: EinsumLinear, weight: Tensor) -> Swap:
    found = project_(layer, weight)
    width_in, width_out = layer.in_features, layer.out_features
    after = layer_costs(layer.structure, width_in, width_out)
    dense = width_in * width_out
    costs = Costs(dense, after.params, 2 * dense, after.flops_per_token)
    return Swap(name, "Linear", (), None, width_in, width_out, costs, found.relative_error, str(layer.order))


@dataclass(frozen=True, slots=True)
class Names:
    """Selects the tensors of a file that are weights of linear layers, by shell patterns on the names of layers."""

    only: tuple[str, ...] = ()
    """Patterns of which at least one must fit; all layers if empty."""
    skip: tuple[str, ...] = ()
    """Patterns of which none may fit."""

    def reason_to_stay(self, layer: str) -> str | None:
        """Why a layer of this name stays unchanged; None if it is replaced."""
        if self.only and not any(fnmatchcase(layer, pattern) for pattern in self.only):
            return "no --only pattern fits"
        found = next((pattern for pattern in self.skip if fnmatchcase(layer, pattern)), None)
        return None if found is None else f"--skip {found}"


def compress_file(source: Path, target: Path, structure: Structure, names: Names, watch: Watch) -> SwapReport:
    """Replace the matrices of a safetensors file by factors; other tensors are copied.

    Every floating-point two-dimensional `NAME.weight`, (out_features, in_features), that `names` selects becomes
    `NAME.factors.A`, …, and `NAME.gain`. The metadata contain the report: `apply_swaps(model, report)` returns a model
    with these names.

    Args:
        source: the file to read; embeddings are matrices too, and have to be named in `names.skip`.
        target: the file to write.
        structure: structure of all new layers.
        names: selects the layers.
        watch: called for every layer.

    Raises:
        SpecError: if the source is not a safetensors file, or has no selected matrix.
        LayerError: for weights that are not finite.
        OutputError: if the target cannot be written.
    """
    if refuse_unwritable(target, is_stream=False) == source.resolve():
        raise OutputError(
            f"cannot write {str(target)!r}: it is the file that is read, whose dense matrices would be lost",
            remedy="give another --out",
        )
    tensors, metadata = _read(source)
    swaps: list[Swap] = []
    skipped: dict[str, str] = {}
    new: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = key.removesuffix(".weight")
        if name == key or value.ndim != 2 or not value.is_floating_point():
            new[key] = value
            continue
        layer = _layer_for(name, value, structure, names)
        if isinstance(layer, str):
            skipped[name], new[key] = layer, value
            continue
        swaps.append(_swap(name, layer, value))
        new |= {f"{name}.{own}": parameter.detach() for own, parameter in layer.named_parameters()}
        watch(swaps[-1])
    if not swaps:
        raise SpecError(
            f"{source} has no matrix to project: {_listed(skipped)}",
            remedy="give patterns for --only and --skip that leave a layer, and a structure that fits its widths",
        )
    taken = {f"{swap.name}.weight" for swap in swaps}
    kept = _kept({key: value for key, value in tensors.items() if key not in taken})
    costs = Costs.of_model(_size(tensors.values()), _size(new.values()), (), swaps)
    report = SwapReport(structure, True, tuple(swaps), skipped, costs, kept)
    metadata = {**metadata, SWAPS_ENTRY: json.dumps(report.to_json())}
    place(target, lambda draft: save_file(new, draft, metadata))
    return report


def _layer_for(name: str, weight: Tensor, structure: Structure, names: Names) -> EinsumLinear | str:
    """A layer for the weight, or the reason why the weight stays unchanged."""
    if reason := names.reason_to_stay(name):
        return reason
    width_out, width_in = weight.shape
    try:
        return EinsumLinear(width_in, width_out, structure, bias=False, dtype=weight.dtype)
    except EinsearchError as error:
        return error.problem


def _kept(tensors: dict[str, Tensor]) -> tuple[Kept, ...]:
    """The tensors that stay, by number of dimensions: a file does not say what a tensor is used for."""
    kinds: dict[int, dict[str, int]] = defaultdict(dict)
    for name, value in tensors.items():
        if value.ndim >= 2:
            kinds[value.ndim][name] = value.numel()
    found = (
        Kept(f"{ndim}-dimensional tensor{'s' * (len(sizes) > 1)}", tuple(sizes), sum(sizes.values()), None)
        for ndim, sizes in kinds.items()
    )
    return tuple(sorted(found, key=lambda kept: -kept.params))


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(value.numel() for value in tensors)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    refuse_other_than_safetensors(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {"format": "pt"})  # noqa: SIM118


def _listed(skipped: dict[str, str]) -> str:
    shown = [f"{name}: {reason}" for name, reason in list(skipped.items())[:3]]
    return "; ".join([*shown, *(["…"] if len(skipped) > 3 else [])]) or "no floating matrix is named NAME.weight"
