"""Parameters and FLOPs of a d × d layer as sympy expressions, from their definitions."""

from __future__ import annotations

from collections.abc import Iterable

import sympy

from einsearch_cli.structures import Structure

D = sympy.Symbol("d", positive=True)


def params_formula(structure: Structure) -> sympy.Expr:
    return sympy.Add(*(_product(structure, ({factor}, {factor})) for factor in structure.factors))


def flops_formula(structure: Structure) -> sympy.Expr:
    """FLOPs in the order of the factors' names."""
    order = structure.factors
    steps = [({"X", *order[: place + 1]}, {"Y", *order[place:]}) for place in range(len(order))]
    return 2 * sympy.Add(*(_product(structure, step) for step in steps))


def _product(structure: Structure, sides: Iterable[set[str]]) -> sympy.Expr:
    """The product of the extents of all indices with a carrier on both sides."""
    extents = [extent for carriers, extent in structure.indices if all(side & set(carriers) for side in sides)]
    return sympy.Mul(*(sympy.Rational(e.coefficient) * D ** sympy.Rational(e.exponent) for e in extents))
