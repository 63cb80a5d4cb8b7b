"""The names of the factors in normal form: A, B, C, … in the cheapest order of meeting the activation.

With two factors this is the canonical order min(α, ε) ≥ min(β, δ) of
Potapczynski et al. 2024. Ties go to the lexicographically smallest θ.

Sets of factors are bit masks here; exponents are whole numbers of their common denominator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.normal_form import FACTOR_LETTERS, Carriers, Extents

Order = tuple[int, ...]
"""The numbers of the factors in the order in which they meet the activation."""


def new_names(extents: Mapping[Carriers, Extent], factors: Sequence[str]) -> dict[str, str]:
    """The new name of every tensor; if factors could change places, the one given first gets the first name.

    >>> one = Extent.power(1)
    >>> new_names({frozenset("XC"): one, frozenset("CA"): one, frozenset("YA"): one}, "AC")
    {'C': 'A', 'A': 'B', 'X': 'X', 'Y': 'Y'}
    """
    order = _Naming(extents, tuple(factors)).best_order()
    return {factors[number]: FACTOR_LETTERS[place] for place, number in enumerate(order)} | {"X": "X", "Y": "Y"}


def renamed(extents: Mapping[Carriers, Extent], names: Mapping[str, str]) -> Extents:
    """The carrier sets after their tensors were renamed."""
    return {frozenset(names[tensor] for tensor in carriers): extent for carriers, extent in extents.items()}


@dataclass(frozen=True)
class _Naming:
    extents: Mapping[Carriers, Extent]
    factors: tuple[str, ...]

    @cached_property
    def everything(self) -> int:
        return (1 << len(self.factors)) - 1

    @cached_property
    def indices(self) -> list[tuple[int, int, int, int]]:
        """Group (shared, input, output, bond), set of factors, exponent, and place among all extents, of every index."""
        unit = math.lcm(*(extent.exponent.denominator for extent in self.extents.values()))
        sizes = sorted({(extent.exponent, extent.coefficient) for extent in self.extents.values()})
        found = []
        for carriers, extent in self.extents.items():
            group = 2 * ("X" not in carriers) + ("Y" not in carriers)
            mask = sum(1 << number for number, factor in enumerate(self.factors) if factor in carriers)
            found.append((group, mask, int(extent.exponent * unit), sizes.index((extent.exponent, extent.coefficient))))
        return found

    def step(self, met: int, factor: int) -> int:
        """The exponent of the cost when a factor meets the activation after those in `met`."""
        held, waiting = met | 1 << factor, self.everything & ~met
        return sum(
            exponent
            for group, mask, exponent, _ in self.indices
            if (group < 2 or mask & held) and (group in (0, 2) or mask & waiting)
        )

    @cached_property
    def steps(self) -> dict[tuple[int, int], int]:
        numbers = range(len(self.factors))
        return {(met, f): self.step(met, f) for met in range(self.everything) for f in numbers if not met >> f & 1}

    @cached_property
    def cost_after(self) -> list[int]:
        """The largest step of the best way to go on, for every set of factors met."""
        cost = [0] * (self.everything + 1)
        for met in range(self.everything - 1, -1, -1):
            cost[met] = min(max(self.steps[met, f], cost[met | 1 << f]) for f in _others(met, len(self.factors)))
        return cost

    @cached_property
    def earlier_twins(self) -> list[int]:
        """The earlier factors that could change places with each factor without changing the structure."""
        known = {(group, mask): size for group, mask, _, size in self.indices}

        def alike(a: int, b: int) -> bool:
            return all(known.get((group, _exchanged(mask, a, b))) == size for (group, mask), size in known.items())

        return [sum(1 << a for a in range(b) if alike(a, b)) for b in range(len(self.factors))]

    def best_order(self) -> Order:
        """The cheapest order of the factors; among equally cheap ones, the order with the smallest θ."""
        orders = self._cheapest_orders()
        return orders[0] if len(orders) == 1 else min(orders, key=self._theta)

    def _cheapest_orders(self) -> list[Order]:
        """All cheapest orders, up to twins, that may have the smallest θ."""
        most, number = self.cost_after[0], len(self.factors)
        first = {mask: size + 1 for group, mask, _, size in self.indices if group == 1}
        decisive = all(group for group, *_ in self.indices)
        # Orders grow from the front. One is dropped as soon as its steps, or the cheapest way to go on, cost more than the
        # optimum, and a twin waits for its earlier twins. θ begins with XA, XB, … where X and Y share no index, so the
        # newest factor must then have the smallest such size. Seven equal factors: 1 order remains of 5,040.
        growing: list[tuple[int, Order]] = [(0, ())]
        for _ in range(number):
            longer = [
                (met | 1 << f, (*order, f))
                for met, order in growing
                for f in _others(met, number)
                if not self.earlier_twins[f] & ~met and max(self.steps[met, f], self.cost_after[met | 1 << f]) <= most
            ]
            smallest = min(first.get(1 << order[-1], 0) for _, order in longer)
            growing = [item for item in longer if not decisive or first.get(1 << item[1][-1], 0) == smallest]
        return [order for _, order in growing]

    def _theta(self, order: Order) -> list[tuple[int, int]]:
        """A key that sorts orders as their θ vectors sort: an index that is missing is smaller than any other."""
        places = _places(len(self.factors))
        name = {1 << number: 1 << place for place, number in enumerate(order)}
        return sorted(
            (
                (-(group << 2 * len(order)) - places[_renamed(mask, name)], size)
                for group, mask, _, size in self.indices
            ),
            reverse=True,
        )


def _others(met: int, number: int) -> list[int]:
    return [f for f in range(number) if not met >> f & 1]


def _exchanged(mask: int, a: int, b: int) -> int:
    return mask ^ (1 << a | 1 << b) if (mask >> a ^ mask >> b) & 1 else mask


def _renamed(mask: int, name: Mapping[int, int]) -> int:
    renamed = 0
    while mask:
        lowest = mask & -mask
        renamed |= name[lowest]
        mask ^= lowest
    return renamed


@lru_cache
def _places(number: int) -> list[int]:
    """The place of every set of factors among the classes of a group: smaller sets first, then by their letters."""
    ordered = sorted(
        range(1 << number), key=lambda mask: (mask.bit_count(), [f for f in range(number) if mask >> f & 1])
    )
    return [ordered.index(mask) for mask in range(1 << number)]
