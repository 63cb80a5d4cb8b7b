"""Widths that a structure can have, and the one that is expected to be best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from einsearch_cli.errors import EinsearchError
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.cost import MINIMUM_STEPS, minimal_budget
from einsearch_cli.training.proxy.run_settings import OptimizerSettings, ProxyRun

TOKENS_PER_PARAMETER: Final = 20.0
"""The compute-optimal number of tokens per parameter (Hoffmann et al. 2022); used only as the start of a search."""
_LAST: Final = 40
"""Number of the widest width, 2^20."""
_MISSING: Final = 6
"""Widths in a row that may be missing (a factor of 8) before a row counts as ended."""
_NEAR: Final = 16
"""Largest distance of the first width from the guess: a factor of 256."""


def grid_width(number: int) -> int:
    """The width of this number in the geometric grid of ratio √2, rounded to sizes with many divisors.

    >>> [grid_width(number) for number in range(8, 17)]
    [16, 24, 32, 48, 64, 96, 128, 192, 256]
    """
    doubled, is_between = divmod(number, 2)
    return 3 << (doubled - 1) if is_between else 1 << doubled


def grid_number(width: float) -> int:
    """The number of the nearest width in the grid.

    >>> grid_number(64), grid_number(90)
    (12, 13)
    """
    rough = round(2 * math.log2(max(width, 2.0)))
    near = range(max(2, rough - 1), min(_LAST, rough + 1) + 1)
    return min(near, key=lambda number: abs(math.log(grid_width(number) / width)))


@dataclass
class WidthGrid:
    """The widths of the grid, or of a list, at which a structure can be trained on a budget."""

    task: AnyTask
    optimizer: OptimizerSettings
    fixed: tuple[int, ...] | None = None
    """The widths that the user gave; None for the grid of ratio √2."""
    _least: dict[tuple[LayerSpec, int], float] = field(default_factory=dict)

    def width(self, number: int) -> int:
        """The width of this number."""
        return grid_width(number) if self.fixed is None else self.fixed[number]

    def fits(self, structure: LayerSpec, number: int, budget_flops: float) -> bool:
        """Whether the structure can have this width, the machine has room for it, and the budget pays for enough steps."""
        return self.least_budget(structure, self.width(number)) <= budget_flops

    def least_budget(self, structure: LayerSpec, width: int) -> float:
        """Training FLOPs of the shortest run; infinite for a width that the structure cannot have."""
        known = self._least.get((structure, width))
        if known is None:
            run = ProxyRun(
                task=self.task, structure=structure, width=width, budget_flops=math.inf, optimizer=self.optimizer
            )
            try:
                known = float(minimal_budget(run))
            except EinsearchError:
                known = math.inf
            self._least[structure, width] = known
        return known

    def neighbour(self, structure: LayerSpec, number: int, step: int, budget_flops: float) -> int | None:
        """The next width that fits, `step` widths up or down; missing ones are skipped if |step| is 1."""
        last = _LAST if self.fixed is None else len(self.fixed) - 1
        first = 2 if self.fixed is None else 0
        for further in range(_MISSING if abs(step) == 1 else 1):
            found = number + step + (further if step > 0 else -further)
            if first <= found <= last and self.fits(structure, found, budget_flops):
                return found
        return None

    def around(self, structure: LayerSpec, number: int, budget_flops: float) -> list[int]:
        """The nearest width that fits and its two neighbours; fewer if there are fewer, none if none is near."""
        if self.fixed is not None:
            return [number for number in range(len(self.fixed)) if self.fits(structure, number, budget_flops)]
        near = range(max(2, number - _NEAR), min(_LAST, number + _NEAR) + 1)
        nearest = sorted(near, key=lambda other: (abs(other - number), other))
        centre = next((other for other in nearest if self.fits(structure, other, budget_flops)), None)
        if centre is None:
            return []
        neighbours = [self.neighbour(structure, centre, step, budget_flops) for step in (-1, 1)]
        return sorted([centre, *(other for other in neighbours if other is not None)])

    def guess(self, structure: LayerSpec, budget_flops: float) -> int:
        """The number of the width at which the budget pays for `TOKENS_PER_PARAMETER`.

        A step costs 6 FLOPs per parameter and token, so FLOPs per token are √(6 C / tokens per parameter). A structure
        that shares parameters, or has experts, is judged by its FLOPs.
        """
        if self.fixed is not None:
            return len(self.fixed) // 2
        wanted = math.sqrt(6 * budget_flops / TOKENS_PER_PARAMETER)
        sized = ((number, self.flops_per_token(structure, number)) for number in range(4, _LAST + 1))
        best, distance = grid_number(64), math.inf
        for number, flops in sized:
            if flops is None:
                continue
            if (away := abs(math.log(flops / wanted))) < distance:
                best, distance = number, away
            elif flops > 4 * wanted:
                break
        return best

    def expected(self, structure: LayerSpec, budget_flops: float, aim_flops: float | None = None) -> int | None:
        """The number of the width expected to be best at `aim_flops`, by default the budget; None if none fits."""
        fitting = self.around(structure, self.guess(structure, aim_flops or budget_flops), budget_flops)
        return fitting[len(fitting) // 2] if fitting else None

    def flops_per_token(self, structure: LayerSpec, number: int) -> float | None:
        """Training FLOPs per token at a width; None if the structure cannot have it."""
        least = self.least_budget(structure, self.width(number))
        return least / (MINIMUM_STEPS * self.task.tokens_per_batch) if math.isfinite(least) else None


def log_slope(best: Mapping[float, float]) -> float:
    """Slope of log best width over log compute, from the results of the rungs so far.

    With one rung it is 1/3. This lies between dense networks (parameters grow with width² and with √C: 1/4) and those
    whose parameters grow with the width (1/2).

    >>> round(log_slope({1e9: 32.0, 4e9: 64.0}), 3), round(log_slope({1e9: 32.0}), 3)
    (0.5, 0.333)
    """
    if len(best) < 2:
        return 1 / 3
    (c0, w0), (c1, w1) = sorted(best.items())[-2:]
    return min(1.0, max(0.0, math.log(w1 / w0) / math.log(c1 / c0)))
