"""Whether a layer is really called, or examined by a compiler, a tracer or a function transform."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from einsearch_cli.layers.torch_private import are_transforms_active, is_exporting, is_forward_mode, tracing_state

# Looked up once, because every attribute of a module costs 0.05 µs of the 8 µs of a small layer.
_is_compiling = torch.compiler.is_compiling
_PLAIN = (Tensor, nn.Parameter)


def is_plain(x: Tensor) -> bool:
    """Whether operations run at once on plain tensors, rather than being compiled, traced or transformed."""
    return not (
        type(x) not in _PLAIN
        or are_transforms_active()
        or is_forward_mode()
        or _is_compiling()
        or tracing_state() is not None
    )


def is_transformed() -> bool:
    """Whether a transform of torch.func is active, or forward-mode derivatives run."""
    return are_transforms_active() or is_forward_mode()


def is_traced() -> bool:
    """Whether operations are recorded for a program rather than run."""
    return _is_compiling() or tracing_state() is not None


def is_plain_type(tensor: Tensor) -> bool:
    """Whether this is one of torch's own tensors: not sharded, quantised or otherwise wrapped."""
    return type(tensor) in _PLAIN


def calls_operators() -> bool:
    """Whether compiled code may call operators; an exported program must consist of torch's own."""
    return _is_compiling() and not is_exporting() and not are_transforms_active()
