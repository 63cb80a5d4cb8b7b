"""Subclasses of `nn.Linear` with code of their own that computes what `nn.Linear` does."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

_OF_A_LINEAR: Final = vars(nn.Linear(1, 1, device="meta")).keys() | {"_is_hf_initialized"}
"""Attributes of every linear layer, and the mark by which transformers remembers that it has drawn the values."""
_HARMLESS: Final = frozenset(
    ("__module__", "__qualname__", "__doc__", "__annotations__", "__annotate__", "__annotate_func__",
     "__annotations_cache__", "__static_attributes__", "__firstlineno__", "__parameters__", "__orig_bases__",
     "__init__", "forward", "reset_parameters", "extra_repr")
)  # fmt: skip
"""Names that a class may define in addition: how it starts, how it is shown, and the product."""
_LINEAR_FUNCTIONS: Final = (
    functional.linear, operator.matmul, torch.matmul, operator.add, torch.add, torch.t, torch.transpose, torch.permute,
)  # fmt: skip
_LINEAR_METHODS: Final = ("matmul", "add", "t", "transpose", "permute")
_TRANSPOSES: Final = ("T", "mT")


def acts_as_linear(module: nn.Linear) -> bool:
    """Whether an instance of a subclass computes x Wᵀ + b in training and in evaluation, and holds nothing else.

    Its code is traced. If it consists of products, sums and transposes only, its result is a polynomial in x, W and b.
    A polynomial of small degree that equals x Wᵀ + b at random points equals it everywhere. So a bound, a dropout or a
    rounding is detected, even if small inputs would not show it.

    >>> class Own(nn.Linear):
    ...     def forward(self, x):
    ...         return x @ self.weight.T + self.bias
    >>> class Bounded(nn.Linear):
    ...     def forward(self, x):
    ...         return super().forward(x).clamp(-100, 100)
    >>> acts_as_linear(Own(2, 2)), acts_as_linear(Bounded(2, 2))
    (True, False)
    """
    own = vars(module)
    if not own.keys() <= _OF_A_LINEAR or module._modules or module._buffers:
        return False
    kind: Any = type(module)
    return _class_acts_as_linear(kind, module._parameters.get("bias") is not None)


@cache
def _class_acts_as_linear(kind: Any, has_bias: bool) -> bool:
    above = kind.__mro__[: kind.__mro__.index(nn.Linear)]
    if any(not vars(each).keys() <= _HARMLESS for each in above):
        return False
    probe = kind.__new__(kind)
    vars(probe).update(vars(nn.Linear(3, 5, has_bias, device="meta")))
    draws = torch.Generator().manual_seed(0)
    for name, parameter in [*probe._parameters.items()]:
        if parameter is not None:
            probe._parameters[name] = nn.Parameter(_random(parameter.shape, draws))
    return all(_is_product(probe.train(mode), _random((2, 4, 3), draws)) for mode in (True, False))


def _random(shape: Sequence[int], draws: torch.Generator) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, device="cpu", generator=draws)


def _is_product(probe: nn.Linear, x: Tensor) -> bool:
    try:
        graph = fx.Tracer().trace(probe)
        if not all(_is_linear(node) for node in graph.nodes):
            return False
        with torch.no_grad():
            return torch.allclose(probe(x), functional.linear(x, probe.weight, probe.bias), rtol=1e-10, atol=1e-12)
    except Exception:  # unknown code may raise anything: it is not known to be a product
        return False


def _is_linear(node: Any) -> bool:
    if node.op == "call_function":
        return node.target in _LINEAR_FUNCTIONS or (node.target is getattr and node.args[1] in _TRANSPOSES)
    return node.op in ("placeholder", "get_attr", "output") or (
        node.op == "call_method" and node.target in _LINEAR_METHODS
    )
