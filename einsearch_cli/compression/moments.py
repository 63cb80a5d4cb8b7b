"""Second moments of layers' inputs, summed batch after batch."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

_DAMPING = 1e-4
"""Part of the mean of a moment's diagonal that is added to the diagonal, as inputs may be nearly dependent."""

_LEAST: Final = torch.finfo(torch.float32).tiny
"""A constant added too, for inputs that are always zero."""


class Moments:
    """Moments of a layer's inputs x, and of its inputs z before other layers changed.

    They give E‖W z − V x‖² for all matrices W and V. A layer with a bias makes up for means, so its inputs count
    without their means.

    Args:
        width: width of x and z.
        centred: whether inputs count without their means.

    >>> found = Moments(2, centred=False)
    >>> found.add(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    >>> found.tokens, (found.second * 100).round().tolist()
    (2, [[500.0, 150.0], [150.0, 50.0]])
    """

    def __init__(self, width: int, centred: bool) -> None:
        self.tokens = 0
        self._width = width
        self.centred = centred
        self._sums: dict[str, Tensor] = {}
        self._shifts: dict[str, Tensor] = {}

    def add(self, x: Tensor, z: Tensor | None = None) -> None:
        """Add more inputs, (…, width); z are those of the same tokens in the unchanged model."""
        rows = self._shifted("x", x)
        self.tokens += len(rows)
        self._count("x", rows.sum(dim=0))
        self._count("xx", rows.T @ rows)
        if z is not None:
            others = self._shifted("z", z)
            self._count("z", others.sum(dim=0))
            self._count("zx", others.T @ rows)
            self._count("zz", others.T @ others)

    def _shifted(self, name: str, inputs: Tensor) -> Tensor:
        """Rows of inputs, minus the mean of the first ones if inputs are centred: it may be far above their spread."""
        rows = inputs.detach().reshape(-1, self._width).float()
        if not self.centred:
            return rows
        if name not in self._shifts:
            self._shifts[name] = rows.mean(dim=0) if len(rows) else torch.zeros_like(rows[:1].sum(dim=0))
        return rows - self._shifts[name].to(rows.device)

    def _count(self, name: str, value: Tensor) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros_like(value, device="cpu")
        self._sums[name] += value.to("cpu")  # in float32, as rounding is far below what is added to the diagonal

    @property
    def second(self) -> Tensor:
        """The moment E[x xᵀ] in float64, with its diagonal raised a little."""
        return self._raised(self._about_mean("xx"))

    @property
    def is_finite(self) -> bool:
        """Whether all inputs and their squares were finite."""
        return all(bool(torch.isfinite(value).all()) for value in self._sums.values())

    def target(self, weight: Tensor) -> Tensor:
        """The matrix V that minimises E‖W z − V x‖² among all matrices; W if z is x.

        The nearest V of a structure minimises E‖(target − V) x‖², as the rest of W z is uncorrelated with x.
        """
        if "zx" not in self._sums:
            return weight
        right = self._raised(self._about_mean("zx")).T @ weight.T
        return torch.cholesky_solve(right, torch.linalg.cholesky(self.second)).T

    def error(self, weight: Tensor, near: Tensor) -> float:
        """√(E‖W z − V x‖² / E‖W z‖²) for V = `near`; 0 for outputs that are always zero."""
        norm = ((weight @ self._about_mean("zz" if "zz" in self._sums else "xx")) * weight).sum().item()
        both = ((weight @ self._about_mean("zx" if "zx" in self._sums else "xx")) * near).sum().item()
        lost = norm - 2 * both + ((near @ self._about_mean("xx")) * near).sum().item()
        return math.sqrt(max(0.0, lost) / norm) if norm > 0 else 0.0

    def lost_mean(self, weight: Tensor, near: Tensor) -> Tensor:
        """The mean E[W z − V x], which a bias makes up for."""
        x, z = (self._mean(name) for name in ("x", "z" if "z" in self._sums else "x"))
        return weight @ z - near @ x

    def _mean(self, name: str) -> Tensor:
        mean = self._sums[name].double() / self.tokens
        return mean + self._shifts[name].to(mean) if name in self._shifts else mean

    def _about_mean(self, name: str) -> Tensor:
        """The expectation of an outer product, minus that of the means if inputs are centred."""
        found = self._sums[name].double().div_(self.tokens)
        if not self.centred:
            return found
        left, right = (self._sums[part].double() / self.tokens for part in name)
        return found.addr_(left, right, alpha=-1)

    def _raised(self, moment: Tensor) -> Tensor:
        """Raise the diagonal of a moment in place, so that it has an inverse, and return it."""
        squares = self._sums["xx"].diagonal().double() / self.tokens
        if self.centred:
            squares -= (self._sums["x"].double() / self.tokens).square()
        moment.diagonal().add_(_DAMPING * squares.mean() + _LEAST)
        return moment
