"""`compress`: replace the layers of a trained model by structured ones that do nearly the same to their inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeGuard

import torch
from torch import Tensor, nn

from einsearch_cli.compression.budget import Option, allocate
from einsearch_cli.compression.moments import Moments
from einsearch_cli.compression.options import check_choices, options_for
from einsearch_cli.compression.sensitivity import output_of, sensitivity
from einsearch_cli.compression.stages import Call, Group, Stage, groups_of, inputs_of, stages_of
from einsearch_cli.errors import DataError, LayerError, SizeError, near_name
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.machine import return_memory
from einsearch_cli.projection.projecting import Projection, project_, relative_distance
from einsearch_cli.structures import LayerSpec, MixtureOfExperts, Structure, parse_structure
from einsearch_cli.swap.applying import apply_swaps, check_projection, matrix_of, split_attentions
from einsearch_cli.swap.planning import Filter, plan_swaps
from einsearch_cli.swap.report import Swap, SwapReport

_PROBES: Final = 2
"""Batches on which the effect of a layer's error on the model's output is measured."""
Unit = Literal["params", "flops"]
_WORDS: Final = {"params": "parameters", "flops": "FLOPs per token"}


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a compression."""

    doing: str
    """`measuring` layers for a budget, or `replacing` them."""
    layers: tuple[str, ...]
    """Layers that have just been done."""
    done: int
    total: int


def call_model(model: nn.Module, batch: Any) -> object:
    """Run a model on a mapping of arguments, a sequence of them, or a single one."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


@torch.no_grad()
def compress(
    model: nn.Module,
    batches: Iterable[Any],
    structure: LayerSpec | str | Sequence[str] | Mapping[str, Structure | str] = "low-rank",
    keep: float | None = None,
    unit: Unit = "params",
    filter: Filter | None = None,
    call: Call = call_model,
    watch: Callable[[Progress], object] = lambda _: None,
) -> SwapReport:
    """Replace the linear layers of a trained model, in place, by structured ones that suit their inputs.

    This is `swap_linear(model, structure, filter, project=True)`, except that every layer's outputs come near to those
    of the dense layer for the inputs that it gets: E‖(W − V) x‖² is lowered, not ‖W − V‖ (see `project_`). The model
    runs over calibration batches, block after block. A layer's inputs are those that the already replaced layers
    produce. Only second moments of one layer's inputs, (in_features, in_features), and the inputs of one block are
    held. If a layer has a bias, it makes up for the mean of the error.

    The target is the layer's output in the dense model, so each layer makes up for errors of earlier ones. For this, a
    copy of one block and the dense model's states before it are held. A model whose blocks are not a chain, each taking
    the output of the one before, is treated as a whole, and its layers come near to the dense ones on the inputs that
    they get.

    With `keep`, every layer gets its own structure. The errors of all layers are weighted by how much the output of the
    model changes when that layer alone is of low rank. The budget goes where it lowers their sum most; a layer may also
    stay dense.

    Args:
        model: any module that `swap_linear` takes; its mode is kept, the passes are in evaluation mode.
        batches: calibration data; the tokens of all together must outnumber the inputs of the widest layer.
        structure: one for all layers, or a mapping from their names. With `keep`, one or several from which the
            budget chooses: structures, and names of families such as `low-rank`, `btt` or `block-shuffle`, whose
            rank or number of blocks it also chooses.
        keep: share of the layers' parameters to keep.
        unit: the unit of `keep`, `params` or `flops`.
        filter: as in `swap_linear`.
        call: runs the model on a batch. By default a mapping is given as `model(**batch)`, a tuple or list
            as `model(*batch)`, and a tensor as `model(batch)`.
        watch: called after every group of layers with the same inputs.

    Raises:
        LayerError: as in `swap_linear`, and for inputs that are not finite.
        DataError: if there are no batches, too few, or tokens that the model does not know.
        SizeError: for a budget that no choice can meet.

    >>> mlp = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> report = compress(mlp, [torch.randn(32, 64) for _ in range(8)], keep=0.5)
    >>> report.total.params_after <= 0.5 * report.total.params_before, report.replaced[0].output_error < 1
    (True, True)
    """
    held = list(batches)
    _check_batches(model, held)
    texts: list[Any] = (
        [structure] if isinstance(structure, str) or not isinstance(structure, Sequence) else [*structure]
    )
    if keep is not None:
        _check_budget(keep, texts, unit)
    first = plan_swaps(model, "dense" if keep is not None else _only(texts), filter)
    if isinstance(first.structure, MixtureOfExperts):
        raise LayerError(
            f"{first.structure} with calibration data: a dense matrix has no nearest mixture of experts",
            remedy="give a structure without experts",
        )
    if isinstance(structure, Mapping):
        _check_names(structure, first)
    check_projection(model, first)
    with _in_evaluation(model):
        split_attentions(model, first)
        run = _Run(model, held, call, watch)
        wanted = _only(texts) if keep is None else run.chosen(plan_swaps(model, "dense", filter), texts, keep, unit)
        report = run.replaced(plan_swaps(model, wanted, filter))
    kinds = {swap.name: swap.kind for swap in first.replaced}
    return replace(report, replaced=tuple(replace(swap, kind=kinds[swap.name]) for swap in report.replaced))


@dataclass(frozen=True)
class _Run:
    """One compression of one model."""

    model: nn.Module
    batches: Sequence[Any]
    call: Call
    watch: Callable[[Progress], object]

    def chosen(self, plan: SwapReport, texts: Sequence[str], keep: float, unit: Unit) -> dict[str, Structure]:
        """The structures of all layers that do not stay dense, chosen by a budget."""
        options: dict[str, list[Option]] = {}
        runs = [partial(self.call, self.model, batch) for batch in self.batches[:_PROBES]]
        expected = [output_of(run()) for run in runs]
        for stage, group in self._groups(plan, "measuring", copies=False):
            moments = self._moments(stage, group, plan)
            for name in group.names:
                weight = matrix_of(self.model.get_submodule(name))
                scale = sensitivity(weight, moments, keep, runs, expected)
                found = options_for(weight, moments, texts, unit, keep)
                options[name] = [replace(option, error=scale * option.error) for option in found]
        before = sum(max(option.cost for option in several) for several in options.values())
        try:
            chosen = allocate(options, int(keep * before))
        except SizeError as error:
            least = sum(min(option.cost for option in several) for several in options.values())
            raise SizeError(
                f"keep={keep:g} of {before:,} {_WORDS[unit]} in {len(options)} layers: {', '.join(texts)} can go down to "
                f"{least:,}, {least / before:.2%}",
                remedy=f"keep={math.ceil(1e4 * least / before) / 1e4:g}, or other structures",
            ) from error
        return {name: option.structure for name, option in chosen.items() if option.structure is not None}

    def replaced(self, plan: SwapReport) -> SwapReport:
        """The report of all replaced layers."""
        done: dict[str, Swap] = {}
        for stage, group in self._groups(plan, "replacing", copies=True):
            moments = self._moments(stage, group, plan)
            names = {*group.names}
            part = [swap for swap in plan.replaced if swap.name in names or swap.tied_to in names]
            report = apply_swaps(self.model, replace(plan, replaced=tuple(part)), partial(_project, moments))
            done |= {swap.name: swap for swap in report.replaced}
        left = [swap for swap in plan.replaced if swap.name not in done]
        report = apply_swaps(self.model, replace(plan, replaced=tuple(left)), project=True)
        done |= {swap.name: swap for swap in report.replaced}
        return replace(plan, applied=True, replaced=tuple(done[swap.name] for swap in plan.replaced))

    def _groups(self, plan: SwapReport, doing: str, copies: bool) -> Iterator[tuple[Stage, Group]]:
        """All groups of layers with the same inputs, in the order in which the model calls them."""
        names = [swap.name for swap in plan.replaced if swap.tied_to is None and self._is_heard(swap.name)]
        done = 0
        for stage in stages_of(self.model, self.batches, self.call, names, copies):
            own = [name for name in names if stage.has(name)]
            names = [name for name in names if name not in own]
            groups = groups_of(stage, self.model, own)
            if done == 0:
                self._check_length(stage, groups, max(swap.in_features for swap in plan.replaced))
            for group in groups:
                yield stage, group
                done += len(group.names)
                self.watch(Progress(doing, group.names, done, done + len(names)))
            return_memory()  # memory of replaced matrices, whose gaps are too small for what comes next

    def _check_length(self, stage: Stage, groups: Sequence[Group], widest: int) -> None:
        """Raise DataError if the tokens without padding are fewer than the inputs of the widest layer."""
        if not groups:
            return
        group = max(groups, key=lambda group: group.tokens)
        layer, tokens = self.model.get_submodule(group.names[0]), 0
        for number in range(stage.batches):
            mask = self._mask(number, group.names[0])
            for x in inputs_of(layer, group.calls, partial(stage.run, number)):
                tokens += int(mask.sum()) if _fits(mask, x) else x.shape[:-1].numel()
        if tokens < widest:
            raise DataError(
                f"{tokens:,} tokens to calibrate with: the widest layer has {widest:,} inputs, whose correlations so few "
                "do not tell",
                remedy=f"give at least {4 * widest:,} tokens",
            )

    def _mask(self, number: int, layer: str) -> Tensor | None:
        """Which of a layer's tokens are not padding, if the batch says so."""
        batch = self.batches[number]
        if not isinstance(batch, Mapping):
            return None
        masks = [batch.get(name) for name in ("attention_mask", "decoder_attention_mask")]
        own, other = (mask if isinstance(mask, Tensor) else None for mask in masks)
        has_decoder = getattr(getattr(self.model, "config", None), "is_encoder_decoder", False)
        if (has_decoder or any(str(name).startswith("decoder_") for name in batch)) and "decoder" in layer.split("."):
            # A decoder gets its own tokens and, in cross-attention, those of the encoder: if shapes do not distinguish
            # them, all count.
            own = None if own is not None and other is not None and own.shape == other.shape else other
        return None if own is None else own.bool()

    def _moments(self, stage: Stage, group: Group, plan: SwapReport) -> Moments:
        """Moments of the inputs of a group of layers, over all batches."""
        name = group.names[0]
        layer = self.model.get_submodule(name)
        width = next(swap.in_features for swap in plan.replaced if swap.name == name)
        moments = Moments(width, centred=group.has_bias)
        before = stage.copied(name)
        for number in range(stage.batches):
            mask = self._mask(number, name)
            given = inputs_of(layer, group.calls, partial(stage.run, number))
            earlier = None if before is None else inputs_of(before, group.calls, partial(stage.run_copy, number))
            for place, x in enumerate(given):
                z = None if earlier is None else earlier[place]
                known = _fits(mask, x)
                moments.add(x[mask] if known else x, z[mask] if known and z is not None else z)
        if not moments.is_finite:
            raise LayerError(
                f"the inputs of {name} have entries that are NaN or infinite, or whose squares are",
                remedy="look whether the model's outputs for these data are finite, or run it in float32",
            )
        return moments

    def _is_heard(self, name: str) -> bool:
        """Whether a layer is a separate module, whose inputs can be observed."""
        holder, _, own = name.rpartition(".")
        return own in self.model.get_submodule(holder)._modules


def _project(moments: Moments, _: Swap, new: EinsumLinear, weight: Tensor) -> Projection:
    """Fit a new layer to its inputs, and let its bias make up for the mean of the error."""
    wanted = weight.detach().to("cpu", torch.float64)
    found = project_(new, moments.target(wanted), moments.second)
    near = new.to_dense().to(wanted)
    if moments.centred and new.bias is not None:
        new.bias += moments.lost_mean(wanted, near).to(new.bias)
    difference = relative_distance(wanted - near, wanted)
    return replace(found, relative_error=difference, output_error=moments.error(wanted, near))


def _only(texts: Sequence[Any]) -> Any:
    if len(texts) == 1 and isinstance(texts[0], Mapping):
        return {name: parse_structure(own) if isinstance(own, str) else own for name, own in texts[0].items()}
    if len(texts) == 1:
        return texts[0]
    raise LayerError(
        f"{len(texts)} structures without a budget: one is needed for all layers",
        remedy="give keep=0.5, or one structure",
    )


def _check_names(structures: Mapping[str, Any], plan: SwapReport) -> None:
    known = {*plan.skipped, *(name for swap in plan.replaced for name in (swap.name, *swap.aliases))}
    if unknown := [name for name in structures if name not in known]:
        near = near_name(unknown[0], known)
        raise LayerError(
            f"a structure for {', '.join(unknown)}: the model has no linear layer of that name",
            remedy=f"{near}, perhaps, or a name that plan_swaps(model, ...) lists"
            if near
            else "see plan_swaps(model, ...)",
        )


def _check_budget(keep: float, texts: Sequence[str], unit: str) -> None:
    if unit not in _WORDS:
        raise SizeError(f"unit={unit!r}: a budget is a share of params or of flops", remedy="unit='params'")
    if not 0 < keep < 1:
        raise SizeError(f"keep={keep:g}: a share above 0 and below 1 is needed", remedy="keep=0.5")
    check_choices(texts)


def _fits(mask: Tensor | None, x: Tensor) -> TypeGuard[Tensor]:
    return mask is not None and mask.shape == x.shape[:-1]


def _check_batches(model: nn.Module, batches: Sequence[Any]) -> None:
    if not batches:
        raise DataError("no batches to calibrate with", remedy="give at least one")
    find: Any = getattr(model, "get_input_embeddings", None)
    try:
        embedding = find() if callable(find) else None
    except NotImplementedError:  # models of images
        return
    if not isinstance(embedding, nn.Embedding):
        return
    for batch in batches:
        if isinstance(batch, Mapping):
            tokens = batch.get("input_ids")
        else:
            tokens = next(iter(batch), None) if isinstance(batch, tuple | list) else batch
        if (
            isinstance(tokens, Tensor)
            and not tokens.is_floating_point()
            and tokens.numel()
            and int(tokens.max()) >= embedding.num_embeddings
        ):
            raise DataError(
                f"token {int(tokens.max()):,} in the calibration data: the model knows {embedding.num_embeddings:,} tokens",
                remedy="encode the text with the tokenizer of the model",
            )


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Switch off dropout and caches of keys and values; all settings are restored at the end."""
    modes = {name: module.training for name, module in model.named_modules()}
    cached: list[tuple[Any, Any]] = []
    for config in _configs(model):
        if value := getattr(config, "use_cache", None):
            cached.append((config, value))
            config.use_cache = False
    model.eval()
    try:
        yield
    finally:
        for name, module in model.named_modules():
            while (
                name not in modes
            ):  # new modules, such as a part of an attention, take the mode of the module around them
                name = name.rpartition(".")[0]
            module.training = modes[name]
        for config, value in cached:
            config.use_cache = value


def _configs(model: nn.Module) -> Iterator[Any]:
    """The settings of a model and of its parts, which may have their own or share those of the whole."""
    for module in model.modules():
        config = getattr(module, "config", None)
        yield from (config, getattr(config, "text_config", None))
