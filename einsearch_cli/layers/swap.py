"""Swapping the linear layers of a model: plan it, show it, then do it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from einsearch_cli.errors import EinsearchError, LayerError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.layout import plan_for
from einsearch_cli.structures import Structure, parse_structure
from einsearch_cli.taxonomy import meeting_order

Filter = Callable[[nn.Linear, str], bool]
"""Says for a linear layer and its name whether it is to be swapped."""


@dataclass(frozen=True, slots=True)
class Swap:
    """One linear layer that becomes an `EinsumLinear`; parameters without bias, FLOPs forward per token."""

    name: str
    aliases: tuple[str, ...]
    """Other names under which the model holds the same module."""
    tied_to: str | None
    """The layer that holds the factors this one shares, if the weights were tied."""
    in_features: int
    out_features: int
    params_before: int
    params_after: int
    flops_before: int
    flops_after: int


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """What a swap would do to a model, and what it would leave and why."""

    structure: Structure
    replaced: tuple[Swap, ...]
    skipped: dict[str, str]
    """Name of a linear layer that stays → the reason."""

    def __str__(self) -> str:
        return _as_text("would replace", self)


@dataclass(frozen=True, slots=True)
class SwapReport:
    """What a swap did to a model, and what it left and why."""

    structure: Structure
    replaced: tuple[Swap, ...]
    skipped: dict[str, str]
    """Name of a linear layer that stayed → the reason."""

    def __str__(self) -> str:
        return _as_text("replaced", self)


def swap_linear(model: nn.Module, structure: Structure | str, filter: Filter | None = None) -> SwapReport:
    """Replace the linear layers of a model, in place, by freshly initialised structured ones.

    The old weights are *not* projected onto the structure: train the result
    from scratch. Device, dtype, training mode, `requires_grad` and the presence
    of a bias are kept. Tied weights stay tied: a module held twice is converted
    once, and linear layers that share a weight become layers that share factors.

    Args:
        model: any module that is not itself a linear layer.
        structure: a `Structure`, or any text that `parse_structure` reads.
        filter: called with each `nn.Linear` and its name; False leaves it.

    Raises:
        LayerError: if the model itself is a linear layer.
        StructureError: if the text is not a structure.

    >>> mlp = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> print(swap_linear(mlp, "monarch", lambda layer, name: layer.out_features > 10))
    XA^1/2 XAB^1/2 YB^1/2 YAB^1/2
    replaced 1 of 2 linear layers: 4,096 -> 1,024 parameters, 8,192 -> 2,048 FLOPs per token
      0  64 -> 64: 4,096 -> 1,024 parameters, 8,192 -> 2,048 FLOPs per token
    left 1:
      2: filter said no
    """
    return apply_swaps(model, plan_swaps(model, structure, filter))


def plan_swaps(model: nn.Module, structure: Structure | str, filter: Filter | None = None) -> SwapPlan:
    """What `swap_linear` would do, without doing it; arguments and errors are the same."""
    structure = parse_structure(structure) if isinstance(structure, str) else structure
    if isinstance(model, nn.Linear | EinsumLinear):
        raise LayerError(
            f"the model itself is {type(model).__name__}: a module cannot be replaced inside itself",
            remedy="wrap it, nn.Sequential(layer), or build EinsumLinear(in_features, out_features, structure)",
        )
    names = _names(model)
    candidates: dict[nn.Linear, Swap] = {}
    skipped: dict[str, str] = {}
    for module, (name, *aliases) in names.items():
        if not isinstance(module, nn.Linear | EinsumLinear):
            continue
        reason = _reason_to_keep(module, name, filter)
        swap = None
        if reason is None and isinstance(module, nn.Linear):
            swap, reason = _sized_swap(module, name, tuple(aliases), structure)
        if swap is not None and isinstance(module, nn.Linear):
            candidates[module] = swap
        else:
            skipped[name] = reason or ""
    skipped |= _drop_shared_with_others(candidates, _holders(names))
    return SwapPlan(structure, _with_ties(candidates), skipped)


def apply_swaps(model: nn.Module, plan: SwapPlan) -> SwapReport:
    """Carry out a plan on the model it was made for; nothing is replaced unless all can be.

    Raises:
        LayerError: if the model no longer has the linear layers of the plan.
        SizeError: if the new parameters cannot be allocated.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    olds: dict[str, nn.Linear] = {}
    for swap in plan.replaced:
        old = modules.get(swap.name)
        if type(old) is not nn.Linear or (old.in_features, old.out_features) != (swap.in_features, swap.out_features):
            raise LayerError(
                f"the plan replaces {swap.name}, a linear layer {swap.in_features} -> {swap.out_features}: "
                f"the model has {'no module' if old is None else f'another {type(old).__name__}'} there",
                remedy="make the plan again with plan_swaps(model, ...), after the last change to the model",
            )
        olds[swap.name] = old
    news = {name: _converted(old, plan.structure) for name, old in olds.items()}
    _tie(plan, olds, news)
    for swap in plan.replaced:
        for name in (swap.name, *swap.aliases):
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, news[swap.name])
    return SwapReport(plan.structure, plan.replaced, dict(plan.skipped))


def _names(model: nn.Module) -> dict[nn.Module, list[str]]:
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    return names


def _reason_to_keep(module: nn.Linear | EinsumLinear, name: str, filter: Filter | None) -> str | None:
    if isinstance(module, EinsumLinear):
        return "already an EinsumLinear"
    if type(module) is not nn.Linear:
        return f"{type(module).__name__} is a subclass of nn.Linear whose own behaviour would be lost"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "it has hooks, which may rely on its weight"
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        return "its weight is not a parameter of its own"
    if not module.weight.is_floating_point():
        return f"its weight is {module.weight.dtype}, not floating"
    if filter is not None and not filter(module, name):
        return "filter said no"
    return None


def _sized_swap(
    module: nn.Linear, name: str, aliases: tuple[str, ...], structure: Structure
) -> tuple[Swap | None, str | None]:
    """The swap of one layer, or the reason why the structure does not fit it."""
    try:
        sized = structure.at(module.in_features, module.out_features)
    except EinsearchError as error:
        return None, error.problem
    dense = module.in_features * module.out_features
    flops = plan_for(sized, tuple(meeting_order(sized))).flops_per_token
    swap = Swap(name, aliases, None, module.in_features, module.out_features, dense, sized.params, 2 * dense, flops)
    return swap, None


Holders = dict[nn.Parameter, list[tuple[nn.Module, str, str]]]
"""Parameter → modules that hold it, with their names and the name they hold it by."""


def _holders(names: dict[nn.Module, list[str]]) -> Holders:
    holders: Holders = defaultdict(list)
    for module, (name, *_) in names.items():
        for slot, parameter in module._parameters.items():
            if parameter is not None:
                holders[parameter].append((module, name, slot))
    return holders


def _drop_shared_with_others(candidates: dict[nn.Linear, Swap], holders: Holders) -> dict[str, str]:
    """Remove candidates that share a parameter with a module that stays; name → reason."""
    dropped: dict[str, str] = {}
    while True:
        found = next(_shared_with_others(candidates, holders), None)
        if found is None:
            return dropped
        module, reason = found
        dropped[candidates.pop(module).name] = reason


def _shared_with_others(candidates: dict[nn.Linear, Swap], holders: Holders) -> Iterator[tuple[nn.Linear, str]]:
    for module in candidates:
        for slot, parameter in module._parameters.items():
            for other, name, other_slot in holders[parameter] if parameter is not None else ():
                if other not in candidates or other_slot != slot:
                    yield module, f"{slot} is shared with {name or 'the model itself'}"


def _with_ties(candidates: dict[nn.Linear, Swap]) -> tuple[Swap, ...]:
    """The swaps with `tied_to` set where an earlier layer has the same weight."""
    first: dict[Tensor, str] = {}
    swaps = []
    for module, swap in candidates.items():
        owner = first.setdefault(module.weight, swap.name)
        swaps.append(replace(swap, tied_to=None if owner == swap.name else owner))
    return tuple(swaps)


def _converted(old: nn.Linear, structure: Structure) -> EinsumLinear:
    weight, bias = old.weight, old.bias
    new = EinsumLinear(
        old.in_features,
        old.out_features,
        structure,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(bias.requires_grad if name == "bias" else weight.requires_grad)
    return new.train(old.training)


def _tie(plan: SwapPlan, olds: dict[str, nn.Linear], news: dict[str, EinsumLinear]) -> None:
    """Give layers that shared a weight the same factors and gain, and the same bias if they shared it."""
    biases: dict[Tensor, nn.Parameter] = {}
    for swap in plan.replaced:
        new, old_bias = news[swap.name], olds[swap.name].bias
        if swap.tied_to is not None:
            new.factors = news[swap.tied_to].factors
            new.gain = news[swap.tied_to].gain
        if old_bias is not None and isinstance(new.bias, nn.Parameter):
            new.bias = biases.setdefault(old_bias, new.bias)


def _as_text(verb: str, done: SwapPlan | SwapReport) -> str:
    own = [swap for swap in done.replaced if swap.tied_to is None]
    total = len(done.replaced) + len(done.skipped)
    lines = [
        str(done.structure),
        f"{verb} {len(done.replaced)} of {total} linear layers: "
        + _change(
            sum(s.params_before for s in own),
            sum(s.params_after for s in own),
            sum(s.flops_before for s in done.replaced),
            sum(s.flops_after for s in done.replaced),
        ),
    ]
    for s in done.replaced:
        also = "".join(f", also {alias}" for alias in s.aliases)
        tied = f", factors shared with {s.tied_to}" if s.tied_to else ""
        change = _change(s.params_before, s.params_after, s.flops_before, s.flops_after)
        lines.append(f"  {s.name}{also}  {s.in_features} -> {s.out_features}: {change}{tied}")
    if done.skipped:
        lines.append(f"left {len(done.skipped)}:")
        lines += [f"  {name}: {reason}" for name, reason in done.skipped.items()]
    return "\n".join(lines)


def _change(params_before: int, params_after: int, flops_before: int, flops_after: int) -> str:
    return f"{params_before:,} -> {params_after:,} parameters, {flops_before:,} -> {flops_after:,} FLOPs per token"
