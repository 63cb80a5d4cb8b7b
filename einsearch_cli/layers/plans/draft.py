"""A step of a plan in terms of axes, before it is turned into shapes."""

from __future__ import annotations

from dataclasses import dataclass

from einsearch_cli.layers.plans.plan import FactorRole

MemoryOrder = tuple[str, ...]
"""Axes of a contiguous intermediate, slowest first; indices of size 1 are left out."""


@dataclass(frozen=True, slots=True)
class Draft:
    """How one step reads the activation and writes its result."""

    role: FactorRole
    before: MemoryOrder
    """The activation as it lies before the step."""
    batch: MemoryOrder
    rows: MemoryOrder
    contracted: MemoryOrder
    new: MemoryOrder
    is_feature_major: bool
    grad_is_feature_major: bool = False

    @property
    def after(self) -> MemoryOrder:
        """The result as it lies in memory."""
        return (*self.batch, *((*self.new, *self.rows) if self.is_feature_major else (*self.rows, *self.new)))

    @property
    def stored(self) -> MemoryOrder:
        """The axes of the stored factor."""
        return (*(axis for axis in self.batch if axis in self.role.batch), *self.contracted, *self.new)

    @property
    def grad_before(self) -> MemoryOrder:
        """The gradient of the activation as it lies in memory."""
        inner = (*self.contracted, *self.rows) if self.grad_is_feature_major else (*self.rows, *self.contracted)
        return (*self.batch, *inner)
