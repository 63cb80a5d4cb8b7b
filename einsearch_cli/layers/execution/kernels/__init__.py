"""Triton kernels for small work around the products on a GPU, if they run; torch for CUDA includes Triton.

Figures are in `docs/design/log/2026-11.md`, 2026-11-27.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from einsearch_cli.layers.plans.two_cores import TwoCores

_logger = logging.getLogger(__name__)
_COUNTABLE = (1 << 31) - (1 << 20)
"""The most elements that the kernels count in 32 bits, with room for the step of a loop."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of the kernels; float64 sums are torch's."""


def kernels_for(gain: Tensor, factors: Sequence[Tensor]) -> ModuleType | None:
    """The module `by_triton` for contiguous tensors on the current device and factors of one dtype; else None."""
    if not gain.is_cuda or gain.dtype not in _DTYPES or gain.get_device() != torch.cuda.current_device():
        return None
    dtype = factors[0].dtype
    if dtype not in _DTYPES:
        return None
    for factor in factors:
        if factor.dtype is not dtype or not factor.is_contiguous() or not 0 < factor.numel() < _COUNTABLE:
            return None
    return usable_kernels(gain.get_device())


def add_bias_(y: Tensor, bias: Tensor) -> None:
    """Add the bias to a contiguous y (tokens, features) in place."""
    kernels = kernels_for(bias, (bias,)) if y.numel() else None
    if kernels is None:
        y.add_(bias)
    else:
        kernels.add_bias_(y, bias)


def two_core_kernels(cores: TwoCores, x: Tensor, factors: Sequence[Tensor], bias: Tensor | None) -> ModuleType | None:
    """The kernels of `tensor_train`, which take half precision; None if they cannot take these tensors."""
    tensors = (x, *factors) if bias is None else (x, *factors, bias)
    outputs = x.shape[0] * cores.sizes[2] * cores.sizes[3]
    if x.dtype.itemsize != 2 or outputs >= _COUNTABLE or kernels_for(x, tensors) is None:
        return None
    return _tried_two_cores(x.get_device(), x.dtype, cores)


@lru_cache(maxsize=64)
def _tried_two_cores(device: int, dtype: torch.dtype, cores: TwoCores) -> ModuleType | None:
    """The kernels if they run; the cores may not fit on the chip of this device."""
    from einsearch_cli.layers.execution.kernels import tensor_train

    p, q, m, n, r = cores.sizes
    shapes = (1, p * q), (1, m * n), (1, p, m * r), (1, q * r, n), (m * n,)
    x, y, first, second, bias = (
        torch.zeros(shape, dtype=dtype, device=torch.device("cuda", device)) for shape in shapes
    )
    try:
        tensor_train.multiply(cores, x, y, 1.0, bias, (first, second))
        tensor_train.multiply(cores.transposed, y, x, 1.0, None, (first, second))
        tensor_train.gradients(cores, y, x, (first, second), wants_bias=True)
    except Exception as error:  # whatever is wrong, torch's products do the same
        _log(f"the fused kernels for {cores.sizes}", error)
        return None
    return tensor_train


@lru_cache(maxsize=64)
def usable_kernels(device: int) -> ModuleType | None:
    """The kernels if they run; Triton may be missing, or unable to compile because there is no C compiler."""
    if find_spec("triton") is None:
        return None
    try:
        from einsearch_cli.layers.execution.kernels import by_triton

        ones = torch.ones(1, 16, device=torch.device("cuda", device))
        by_triton.add_bias_(ones.clone(), ones[0])
    except Exception as error:  # whatever is wrong with Triton, torch does the same
        _log("Triton's kernels", error)
        return None
    return by_triton


def _log(kernels: str, error: Exception) -> None:
    """Log that kernels do not run; once per device, as this is tested once."""
    _logger.warning("%s do not run here, torch's operations take their place: %s", kernels, error, exc_info=True)
