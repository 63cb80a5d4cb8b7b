"""Choose a structure for each layer, so that all together keep to a budget with the smallest error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einsearch_cli.errors import SizeError
from einsearch_cli.structures import Structure


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store one layer."""

    structure: Structure | None
    """The structure; None leaves the layer as it is."""
    cost: int
    """The cost in parameters, or FLOPs per token."""
    error: float
    """The layer's term in the sum that is minimised."""


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Option]:
    """One option for every layer, so that the costs sum to at most the budget and the errors to little.

    A price per unit of cost decides: each layer takes the option with the smallest error plus price times cost. The
    lowest price that keeps to the budget is found by bisection; it gives the best choice among those with the same sum
    of costs (Everett 1963). The rest of the budget goes, one layer after another, to the options that lower the error
    most for their cost.

    Raises:
        SizeError: if the cheapest options together exceed the budget.

    >>> small, large = Option(None, 1, 5.0), Option(None, 3, 1.0)
    >>> [found.cost for found in allocate({"a": [small, large], "b": [small, Option(None, 3, 4.0)]}, 4).values()]
    [3, 1]
    """
    least = sum(min(option.cost for option in several) for several in options.values())
    if least > budget:
        raise SizeError(
            f"a budget of {budget:,}: the layers need {least:,} with the smallest structures that are allowed",
            remedy="give a larger budget, or allow other structures",
        )
    low, high = 0.0, 1.0
    while _cost(_cheapest(options, high)) > budget:
        low, high = high, 2 * high
    for _ in range(100):
        price = (low + high) / 2
        if _cost(_cheapest(options, price)) > budget:
            low = price
        else:
            high = price
    return _filled_up(options, _cheapest(options, high), budget)


def _cheapest(options: Mapping[str, Sequence[Option]], price: float) -> dict[str, Option]:
    return {
        name: min(several, key=lambda option: (option.error + price * option.cost, option.cost))
        for name, several in options.items()
    }


def _filled_up(options: Mapping[str, Sequence[Option]], chosen: dict[str, Option], budget: int) -> dict[str, Option]:
    while True:
        left = budget - _cost(chosen)
        better = [
            ((chosen[name].error - option.error) / (option.cost - chosen[name].cost), name, option)
            for name, several in options.items()
            for option in several
            if option.error < chosen[name].error and chosen[name].cost < option.cost <= chosen[name].cost + left
        ]
        if not better:
            return chosen
        _, name, option = max(better, key=lambda one: one[0])
        chosen = {**chosen, name: option}


def _cost(chosen: Mapping[str, Option]) -> int:
    return sum(option.cost for option in chosen.values())
