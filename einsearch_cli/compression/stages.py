"""A model cut into stages that run one after another, so that a stage runs again without those before it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from torch import Tensor, nn

from einsearch_cli.swap.pointwise import CONVOLUTIONS

Call = Callable[[nn.Module, Any], object]
"""A function that runs a model on a batch."""


_CACHES: Final = ("past_key_values", "past_key_value", "layer_past", "cache_params")
"""Names under which blocks receive caches."""


class _ReachedError(Exception):
    """Ends a forward pass at the last observed layer."""


@dataclass(frozen=True)
class Stage:
    """A part of a model, and how it runs on its inputs for each of the calibration batches."""

    name: str
    """Name of the module; empty for the whole model."""
    batches: int
    run: Callable[[int], object]
    """Run the part on the batch of this number, with the inputs from the changed stages before it."""
    copy: nn.Module | None
    """The module before its changes; None for the whole model, which is not copied."""
    run_copy: Callable[[int], object]
    """Run the copy on the batch of this number, with the inputs from the unchanged stages before it."""

    def has(self, layer: str) -> bool:
        """Whether a layer of the model is in this stage."""
        return not self.name or layer == self.name or layer.startswith(f"{self.name}.")

    def copied(self, layer: str) -> nn.Module | None:
        """The layer of that name in the copy."""
        return None if self.copy is None else self.copy.get_submodule(layer[len(self.name) + 1 :])


def stages_of(
    model: nn.Module, batches: Sequence[Any], call: Call, names: Sequence[str], copies: bool
) -> Iterator[Stage]:
    """The blocks of a model one after another, each with its inputs from the present blocks before it.

    Changes to a block before the next stage is requested are seen by all later ones. A model whose blocks are not a
    chain, in which each takes the output of the one before, is a single stage. Layers outside of the blocks are in a
    last stage, the whole model.

    Args:
        model: the model in evaluation mode.
        batches: calibration data.
        call: runs the model on one batch.
        names: the layers that matter.
        copies: whether blocks are copied before they change; two blocks and two states of each batch are then held.
    """
    chain = _chain(model, batches[0], call, names)
    if chain:
        yield from _blocks(model, batches, call, chain, copies)
    if any(not _is_within(name, chain) for name in names):
        whole = partial(_call_on, call, model, batches)
        yield Stage("", len(batches), whole, None, whole)


def _call_on(call: Call, model: nn.Module, batches: Sequence[Any], number: int) -> object:
    return call(model, batches[number])


def _is_within(layer: str, blocks: Iterable[str]) -> bool:
    return any(layer == block or layer.startswith(f"{block}.") for block in blocks)


@dataclass
class _Given:
    """The inputs of a block in one pass other than the output of the block before it."""

    args: tuple[Any, ...]
    options: Mapping[str, Any]


def _blocks(model: nn.Module, batches: Sequence[Any], call: Call, chain: list[str], copies: bool) -> Iterator[Stage]:
    given: list[list[_Given]] = [[] for _ in chain]
    states: list[Tensor] = []

    def note(place: int, _: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if place == 0:
            states.append(args[0].clone())  # as the model may add to it in place
        others = {name: None if name in _CACHES else _uncached(value) for name, value in options.items()}
        given[place].append(_Given(tuple(map(_uncached, args[1:])), others))
        if place == len(chain) - 1:
            raise _ReachedError

    for batch in batches:
        with _listening([model.get_submodule(name) for name in chain], note):
            _run_until_reached(partial(call, model, batch))
    of_copies = list(states)
    for name, own in zip(chain, given, strict=True):
        copied = copy.deepcopy(model.get_submodule(name)) if copies else None
        run = partial(_run_block, partial(model.get_submodule, name), states, own)
        run_copy = run if copied is None else partial(_run_block, partial(_itself, copied), of_copies, own)
        yield Stage(name, len(batches), run, copied, run_copy)
        for number in range(len(batches)):
            if copies:
                of_copies[number] = _first_tensor(run_copy(number))
            states[number] = _first_tensor(run(number))
        own.clear()


def _uncached(value: Any) -> Any:
    """A value without caches of keys and values: a block runs often, and each run would add to them."""
    return None if any(kind.__name__.endswith("Cache") for kind in type(value).__mro__) else value


def _itself(module: nn.Module) -> nn.Module:
    return module


def _run_block(
    block: Callable[[], nn.Module], states: Sequence[Tensor], given: Sequence[_Given], number: int
) -> object:
    # A clone, as a block may change its inputs in place.
    return block()(states[number].clone(), *given[number].args, **given[number].options)


def _first_tensor(output: object) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _chain(model: nn.Module, batch: object, call: Call, names: Sequence[str]) -> list[str]:
    """Names of the blocks, if each is called once and takes the output of the one before it; else empty."""
    best: list[str] = []
    most = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len(module) < 2:
            continue
        blocks = [f"{name}.{number}".lstrip(".") for number in range(len(module))]
        covered = sum(_is_within(layer, blocks) for layer in names)
        if covered > most:
            best, most = blocks, covered
    modules = [model.get_submodule(name) for name in best]
    return best if best and _is_chain(modules, partial(call, model, batch)) else []


def _is_chain(blocks: list[nn.Module], run: Callable[[], object]) -> bool:
    order: list[int] = []
    fits = len(set(blocks)) == len(blocks)
    last: list[tuple[Any, int]] = []

    def before(place: int, _: nn.Module, args: tuple[Any, ...], __: dict[str, Any]) -> None:
        nonlocal fits
        order.append(place)
        fits = fits and bool(args) and isinstance(args[0], Tensor)
        if fits and place > 0:
            output, version = last[-1] if last else (None, 0)
            fits = args[0] is output and _version(output) == version

    def after(_: nn.Module, __: Any, output: object) -> None:
        last[:] = [(_first_tensor(output), _version(_first_tensor(output)))]

    handles = [block.register_forward_hook(after) for block in blocks]
    try:
        with _listening(blocks, before):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return fits and order == list(range(len(blocks)))


@dataclass(frozen=True)
class Group:
    """Layers with the same inputs, all with a bias or all without."""

    names: tuple[str, ...]
    calls: int
    """Calls of each layer in one pass."""
    has_bias: bool
    tokens: int
    """Number of tokens of the first batch."""


def groups_of(stage: Stage, model: nn.Module, names: Sequence[str]) -> list[Group]:
    """The layers of a stage grouped by their inputs for the first batch, in the order of their first calls."""
    found: list[tuple[Tensor, int, list[str]]] = []
    calls: dict[str, int] = {}

    def note(place: int, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        name, x = names[place], _rows(module, _input(args, options))
        calls[name] = calls.get(name, 0) + 1
        if calls[name] > 1:
            return
        same = next((group for other, version, group in found if _is_same(x, other, version)), None)
        if same is None:
            found.append((x, _version(x), [name]))  # held, so that no other tensor gets its memory
        else:
            same.append(name)

    with _listening([model.get_submodule(name) for name in names], note):
        stage.run(0)

    def kind(name: str) -> tuple[int, bool]:
        return calls[name], model.get_submodule(name)._parameters.get("bias") is not None

    kinds = ((x, group, own) for x, _, group in found for own in dict.fromkeys(map(kind, group)))
    return [
        Group(tuple(name for name in group if kind(name) == own), *own, x.shape[:-1].numel()) for x, group, own in kinds
    ]


def inputs_of(layer: nn.Module, calls: int, run: Callable[[], object]) -> list[Tensor]:
    """A layer's inputs in a pass, (…, width) each; the pass ends with the last of its calls."""
    found: list[Tensor] = []

    def note(_: int, layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        x = _rows(layer, _input(args, options))
        found.append(x.clone() if calls > 1 else x)  # it may change in place before the next call
        if len(found) == calls:
            raise _ReachedError

    with _listening([layer], note):
        _run_until_reached(run)
    return found


def _run_until_reached(run: Callable[[], object]) -> None:
    try:
        run()
    except _ReachedError:
        return


def _input(args: tuple[Any, ...], options: Mapping[str, Any]) -> Tensor:
    x: Tensor = args[0] if args else next(iter(options.values()))
    return x


def _rows(layer: nn.Module, x: Tensor) -> Tensor:
    """Inputs with features as the last axis."""
    return x.movedim(1, -1) if isinstance(layer, CONVOLUTIONS) else x


def _is_same(first: Tensor, second: Tensor, version: int) -> bool:
    """Whether a tensor is another one with the contents that this one had at an earlier version."""
    return _version(first) == version and (
        first is second
        or (first.data_ptr() == second.data_ptr() and first.shape == second.shape and first.stride() == second.stride())
    )


def _version(x: Any) -> int:
    """How often a tensor was changed in place, if torch counts it."""
    return x._version if isinstance(x, Tensor) and not x.is_inference() else 0


@contextmanager
def _listening(
    modules: Sequence[nn.Module], note: Callable[[int, nn.Module, tuple[Any, ...], dict[str, Any]], None]
) -> Iterator[None]:
    """Call `note` with a module's place, itself and its arguments before each of its calls."""

    def hook(place: int) -> Callable[..., None]:
        return lambda module, args, options: note(place, module, args, options)

    handles = [module.register_forward_pre_hook(hook(place), with_kwargs=True) for place, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
