"""The order in which the features of input and output count through the indices of a structure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.normal_form import text_of_carriers

Axes = tuple[str, ...]
"""Carrier sets, the slowest first."""

_NAME = re.compile(r"[A-Z]{2,}'*", re.ASCII)
_MAX_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class FeatureOrder:
    """Which index counts slowest and which fastest along the features of input and output.

    The features of the input are numbered row-major over `inputs`: the last index counts through neighbours. An
    equation may write one index as several letters that lie apart; each letter is then a part of its own: `XA`, `XA'`,
    ….

    >>> order = FeatureOrder.of_text("XAB,XA/YB,YAB")
    >>> order.inputs, order.outputs, str(order)
    (('XAB', 'XA'), ('YB', 'YAB'), 'XAB,XA/YB,YAB')
    """

    inputs: Axes
    outputs: Axes
    factors: tuple[Axes, ...] = ()
    """The order of the axes of every stored factor, factors in alphabetical order; empty if the layer chooses."""

    @classmethod
    def of_text(cls, text: str) -> FeatureOrder:
        """Read `XAB,XA/YB,YAB`, optionally followed by the axes of all factors."""
        groups = [tuple(filter(None, group.split(","))) for group in text.split("/")]
        names = [name for group in groups for name in group]
        if len(text) > _MAX_LENGTH or len(groups) < 2 or not all(_NAME.fullmatch(name) for name in names):
            raise StructureError(
                f"{text[:80]!r} is not an order of features: it needs the carrier sets of the input and of the output",
                remedy="write for example XA,XB/YA,YB: slowest first, separated by commas, the output after a slash",
            )
        sorted_groups = [tuple(_sorted(name) for name in group) for group in groups]
        return cls(sorted_groups[0], sorted_groups[1], tuple(sorted_groups[2:]))

    @property
    def sides(self) -> tuple[Axes, Axes]:
        return self.inputs, self.outputs

    @property
    def is_split(self) -> bool:
        """Whether an index is split into several parts."""
        return any(name.endswith("'") for name in (*self.inputs, *self.outputs))

    @property
    def is_only_one(self) -> bool:
        """Whether there is no other order, because each side has one index."""
        return len(self.inputs) <= 1 and len(self.outputs) <= 1

    def joined(self, index_of: Callable[[str], str | None]) -> FeatureOrder:
        """The order after indices have been renamed, merged or dropped.

        Args:
            index_of: the index that a name of this order belongs to; None if it is dropped.

        >>> FeatureOrder.of_text("XA,XA',XB/YA").joined(lambda name: name.rstrip("'"))
        FeatureOrder(inputs=('XA', 'XB'), outputs=('YA',), factors=())
        """
        named = [[(index_of(name), name) for name in side] for side in self.sides]
        kept = [[(index, name) for index, name in side if index is not None] for side in named]
        split = _lies_apart(kept)
        parts: dict[str, list[str]] = {}
        for index, name in (*kept[0], *kept[1]):
            if index in split and name not in parts.setdefault(index, []):
                parts[index].append(name)
        inputs, outputs = (
            [index + "'" * parts[index].index(name) if index in split else index for index, name in side]
            for side in kept
        )
        return FeatureOrder(tuple(name for name, _ in groupby(inputs)), tuple(name for name, _ in groupby(outputs)))

    def __str__(self) -> str:
        return "/".join(",".join(group) for group in (self.inputs, self.outputs, *self.factors))


def _sorted(name: str) -> str:
    carriers = name.rstrip("'")
    return text_of_carriers(frozenset(carriers)) + name.removeprefix(carriers)


def _lies_apart(sides: Sequence[Sequence[tuple[str, str]]]) -> set[str]:
    """Indices whose parts do not lie next to each other, or lie in different orders in input and output."""
    runs: dict[str, list[list[str]]] = {}
    for side in sides:
        for index, run in groupby(side, key=lambda item: item[0]):
            runs.setdefault(index, []).append([name for _, name in run])
    places = {index: sum(any(found == index for found, _ in side) for side in sides) for index in runs}
    return {index for index, found in runs.items() if len(found) > places[index] or any(r != found[0] for r in found)}


def check_sides(order: FeatureOrder, sides: Mapping[str, Sequence[str]], what: str) -> None:
    """Raise StructureError unless an order names every index of each side once.

    Args:
        order: to be checked; parts of an index must all be there.
        sides: "X" and "Y", and the indices of each.
        what: what the order belongs to, for the message.
    """
    for tensor, named in zip("XY", order.sides, strict=True):
        found = {name.rstrip("'") for name in named}
        if found != set(sides[tensor]) or len(set(named)) < len(named):
            side = "input" if tensor == "X" else "output"
            raise StructureError(
                f"order {str(order)[:80]!r} of {what}: its {side} indices are {', '.join(sides[tensor]) or 'none'}, "
                "and each must be named once",
                remedy="write for example order=" + "/".join(",".join(sides[tensor]) for tensor in "XY"),
            )
