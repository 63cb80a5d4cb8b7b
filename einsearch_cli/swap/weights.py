"""Count every weight of two or more dimensions in a model by kind, whatever module holds it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from einsearch_cli.swap.products import LOOKUP, Place, Product, is_opaque, product_of
from einsearch_cli.swap.report import Kept

_FOLDED = (nn.ParameterList, nn.ParameterDict)


def kept_weights(
    model: nn.Module, taken: Mapping[nn.Parameter, int], flops_taken: Mapping[nn.Module, int]
) -> tuple[Kept, ...]:
    """The weights that stay, by kind, the largest kind first; each tensor counts once, where it multiplies.

    Together with `taken`, they contain all parameters of the model in tensors of two or more dimensions.

    Args:
        model: the model before the swap.
        taken: number of replaced elements by parameter.
        flops_taken: forward FLOPs per token of replaced products, by module.
    """
    places = [(place, product) for place in _places(model) if (product := product_of(place)) is not None]
    owners = _owners(places)
    looked_up = {value for place, product in places if product.note == LOOKUP for value in place.tensors.values()}
    kinds: dict[tuple[str, str, bool], list[Kept]] = defaultdict(list)
    for place, product in places:
        own = {name: value for name, value in place.tensors.items() if owners[value] is place}
        params = sum(_size(value) - taken.get(value, 0) for value in own.values())
        names = tuple(name for name, value in own.items() if not _size(value) or _size(value) > taken.get(value, 0))
        flops = None if product.flops is None else product.flops - flops_taken.get(place.module, 0)
        is_tied = product.note != LOOKUP and not looked_up.isdisjoint(own.values())
        note = product.note or ("shared with an embedding" if is_tied else "")
        if names or flops != 0:
            kinds[product.kind, note, flops is None].append(
                Kept(product.kind, names, params, flops, note, product.dense)
            )
    return tuple(sorted((_together(group) for group in kinds.values()), key=lambda kept: -kept.params))


def _together(group: list[Kept]) -> Kept:
    known = [kept.flops for kept in group if kept.flops is not None]
    names, params = tuple(name for kept in group for name in kept.names), sum(kept.params for kept in group)
    return replace(group[0], names=names, params=params, flops=sum(known) if known else None)


def _owners(places: list[tuple[Place, Product]]) -> dict[nn.Parameter, Place]:
    """The place where a shared tensor is counted: where it is multiplied, not where it is looked up."""
    owners: dict[nn.Parameter, tuple[int, Place]] = {}
    for place, product in places:
        rank = 0 if product.flops else 1 if product.flops is None else 2
        for value in place.tensors.values():
            if value not in owners or rank < owners[value][0]:
                owners[value] = (rank, place)
    return {value: place for value, (_, place) in owners.items()}


def _places(model: nn.Module) -> Iterator[Place]:
    """The modules of a model that may multiply, each once, with their own tensors."""
    seen: set[nn.Module] = set()
    stack: list[tuple[str, nn.Module, tuple[nn.Module, ...]]] = [("", model, ())]
    while stack:
        name, module, above = stack.pop()
        if module in seen:
            continue
        seen.add(module)
        inside = _inside(module)
        seen.update(inside.values())
        tensors, entries = _tensors({name: module, **{f"{name}.{key}".lstrip("."): m for key, m in inside.items()}})
        yield Place(name, module, above, tensors, entries)
        children = [(f"{name}.{key}".lstrip("."), child, (module, *above)) for key, child in module.named_children()]
        stack.extend(reversed([child for child in children if child[1] not in seen]))


def _inside(module: nn.Module) -> dict[str, nn.Module]:
    """Modules that only hold a module's own tensors: lists of parameters, parametrizations, insides of linear layers."""
    if is_opaque(module):
        return {name: inner for name, inner in module.named_modules() if inner is not module}
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if isinstance(child, _FOLDED) or (name == "parametrizations" and isinstance(child, nn.ModuleDict)):
            found |= {f"{name}.{key}".rstrip("."): inner for key, inner in child.named_modules()}
    return found


def _tensors(holders: Mapping[str, nn.Module]) -> tuple[dict[str, nn.Parameter], int]:
    """Parameters of two or more dimensions by name, and the number of entries in buffers that look like weights."""
    found: dict[str, nn.Parameter] = {}
    entries = 0
    for name, holder in holders.items():
        for slot, value in holder._parameters.items():
            if value is not None and (nn.parameter.is_lazy(value) or value.ndim >= 2):
                found[f"{name}.{slot}".lstrip(".")] = value
        entries += sum(_weight_entries(value) for value in holder._buffers.values())
    return found, entries


def _weight_entries(buffer: Tensor | None) -> int:
    """Elements of a buffer that may be a weight, quantised or not; index tables and masks have other dtypes."""
    if buffer is None or nn.parameter.is_lazy(buffer) or buffer.ndim < 2:
        return 0
    is_weight = buffer.is_floating_point() or buffer.dtype in (torch.int8, torch.uint8, torch.int32)
    return buffer.numel() if is_weight else 0


def _size(value: nn.Parameter) -> int:
    return 0 if nn.parameter.is_lazy(value) else value.numel()
