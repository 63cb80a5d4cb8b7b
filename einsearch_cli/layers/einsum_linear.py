"""`EinsumLinear`: a drop-in for `nn.Linear` whose matrix is a product of factors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.chunked import contract_in_chunks
from einsearch_cli.layers.contraction import contract
from einsearch_cli.layers.layout import plan_for
from einsearch_cli.layers.memory import check_allocation
from einsearch_cli.layers.rms_scale import fast_rms_scale, rms_scale
from einsearch_cli.structures import Structure, parse_structure
from einsearch_cli.taxonomy import meeting_order


class EinsumLinear(nn.Module):
    """y = W x + b, where W is the einsum of a structure's factors.

    Input (..., in_features), output (..., out_features), for any leading shape.
    Each factor is stored as a batch of matrices, (batch, fan_in, fan_out), and
    meets the activation in one batched matrix product. The order
    in which features are read as index axes is the layer's own (`plan`), chosen
    for speed. Where a dimension has no fitting divisors the input is padded
    with zeros and the output is cut.

    Stability, from Qiu et al. 2024 (arXiv 2406.06248), and
    Potapczynski et al. 2024 (arXiv 2410.02117): every factor is
    divided by max(1, rms / init std), and the product has a learnable gain.
    All these numbers are folded into one (`rms_scale`).

    Args:
        in_features: width of the input.
        out_features: width of the output.
        structure: a `Structure`, or any text that `parse_structure` reads.
        bias: whether to add a learnable bias, zero at start.
        device: where the parameters live; `meta` allocates nothing.
        dtype: a floating dtype, torch's default one if None.

    Raises:
        StructureError: if the text is not a structure.
        SizeError: if the structure does not fit the widths, or its parameters
            do not fit the memory of the device.
        LayerError: if the dtype is not a floating one.

    >>> layer = EinsumLinear(64, 64, "monarch")
    >>> layer(torch.ones(2, 3, 64)).shape
    torch.Size([2, 3, 64])
    >>> {name: tuple(p.shape) for name, p in layer.named_parameters()}
    {'gain': (), 'bias': (64,), 'factors.A': (8, 8, 8), 'factors.B': (8, 8, 8)}
    """

    bias: Tensor | None
    gain: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        structure: Structure | str,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dtype = dtype or torch.get_default_dtype()
        if not dtype.is_floating_point:
            raise LayerError(
                f"dtype {dtype}: parameters are trained by gradients and must be of a floating dtype",
                remedy="use torch.float32, torch.bfloat16, torch.float16 or torch.float64",
            )
        self.in_features = in_features
        self.out_features = out_features
        self.structure = parse_structure(structure) if isinstance(structure, str) else structure
        self.sized = self.structure.at(in_features, out_features)
        check_allocation(self.sized, device, dtype)
        self.plan = plan_for(self.sized, tuple(meeting_order(self.sized)))
        self.factors = nn.ParameterDict(
            {
                step.factor: nn.Parameter(torch.empty(step.weight_shape, device=device, dtype=dtype))
                for step in sorted(self.plan.steps, key=lambda step: step.factor)
            }
        )
        self._stds = tuple(role.init_std for role in self.plan.roles)
        self.gain = nn.Parameter(torch.empty((), device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the factors anew; gain one, bias zero.

        A factor's standard deviation is sqrt(min(fan_in, fan_out) / fan_in²):
        Qiu et al. 2024 (arXiv 2406.06248).
        """
        for role in self.plan.roles:
            nn.init.normal_(self.factors[role.factor], std=role.init_std)
        nn.init.ones_(self.gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @torch.no_grad()
    def zero_last_factor_(self) -> None:
        """Make W zero by the factor that meets last, for the last layer of a residual block.

        >>> layer = EinsumLinear(16, 16, "btt:r=2")
        >>> layer.zero_last_factor_()
        >>> layer.to_dense().abs().max().item()
        0.0
        """
        nn.init.zeros_(self.factors[self.plan.steps[-1].factor])

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Adam learning rates of the factors relative to the muP rate of a dense layer.

        (in_features / fan_in) / number of factors, by parameter name; gain and
        bias are not listed, as they train at the base rate itself, without
        the dense layer's muP multiplier. Potapczynski et al. 2024
        (arXiv 2410.02117).

        >>> EinsumLinear(64, 64, "btt:r=2").learning_rate_multipliers()
        {'factors.A': 4.0, 'factors.B': 2.0}
        """
        return {
            f"factors.{role.factor}": self.in_features / role.fan_in / len(self.plan.roles)
            for role in sorted(self.plan.roles, key=lambda role: role.factor)
        }

    @property
    def flops_per_token(self) -> int:
        """2 × multiply-adds of one forward pass per token; bias and scaling are not counted."""
        return self.plan.flops_per_token

    @property
    def weight(self) -> Tensor:
        """The dense matrix, computed anew, for code that reads the weight of a linear layer."""
        return self.to_dense()

    def to_dense(self) -> Tensor:
        """W as one tensor of shape (out_features, in_features), scaling included; differentiable.

        >>> layer = EinsumLinear(12, 8, "low-rank:r=2", bias=False)
        >>> x = torch.ones(12)
        >>> torch.allclose(layer(x), layer.to_dense() @ x, atol=1e-5)
        True
        """
        with _without_autocast(self.gain.device.type):
            identity = torch.eye(self.in_features, device=self.gain.device, dtype=self.gain.dtype)
            *factors, last = self._factors()
            weight = contract(
                self.plan, self._padded(identity), [*factors, last * rms_scale(self.gain, [*factors, last], self._stds)]
            )
            return weight[:, : self.out_features].T

    def factor_tensor(self, factor: str) -> Tensor:
        """One factor, unscaled, with an axis for every index in the order of `sized.carriers_of(factor)`.

        >>> EinsumLinear(64, 64, "btt:r=2").factor_tensor("A").shape  # XA, XAB, YAB, AB
        torch.Size([8, 8, 8, 2])
        """
        step = next(step for step in self.plan.steps if step.factor == factor)
        stored = [carriers for group in step.weight_axes for carriers in group]
        carried = self.sized.carriers_of(factor)
        axes = [stored.index(carriers) for carriers in carried if carriers in stored]
        tensor: Tensor = self.factors[factor].reshape([self.sized.size(carriers) for carriers in stored])
        return tensor.permute(axes).reshape([self.sized.size(carriers) for carriers in carried])

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features).

        Raises:
            LayerError: for another input width or an input that is not floating.
        """
        self._check_input(x)
        leading = x.shape[:-1]
        y = self._multiply(x.reshape(-1, self.in_features))
        return y.reshape(*leading, self.out_features)

    def extra_repr(self) -> str:
        """The arguments that made the layer, as `nn.Linear` shows them."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"structure={str(self.structure)!r}, bias={self.bias is not None}"
        )

    def _multiply(self, x: Tensor) -> Tensor:
        """(tokens, in_features) to (tokens, out_features)."""
        factors = self._factors()
        dtype = _autocast_dtype(x)
        if _is_eager(x) and x.device.type == "cpu":
            scale = fast_rms_scale(self.gain, factors, self._stds)
            x, bias, *factors = _cast(dtype, self._padded(x), self._padded_bias(), *factors)
            return self._cut(contract_in_chunks(self.plan, x, scale, bias, factors))
        *factors, last = factors
        last = (last * rms_scale(self.gain, [*factors, last], self._stds)).to(last.dtype)
        x, bias, *factors = _cast(dtype, self._padded(x), self._padded_bias(), *factors, last)
        y = contract(self.plan, x, factors)
        return self._cut(y if bias is None else y + bias)

    def _factors(self) -> list[Tensor]:
        """In the order in which they meet."""
        return [self.factors[step.factor] for step in self.plan.steps]

    def _padded(self, x: Tensor) -> Tensor:
        padding = self.sized.padded_in - self.in_features
        return functional.pad(x, (0, padding)) if padding else x

    def _padded_bias(self) -> Tensor | None:
        padding = self.sized.padded_out - self.out_features
        return functional.pad(self.bias, (0, padding)) if padding and self.bias is not None else self.bias

    def _cut(self, y: Tensor) -> Tensor:
        return y[:, : self.out_features].contiguous() if self.sized.padded_out > self.out_features else y

    def _check_input(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise LayerError(
                f"input of shape {tuple(x.shape)}: the last dimension must be in_features = {self.in_features}",
                remedy="bring the features to the last dimension, or build the layer with that width",
            )
        if not x.is_floating_point():
            raise LayerError(
                f"input of dtype {x.dtype}: the layer takes floating tensors",
                remedy=f"convert it with .to({self.gain.dtype})",
            )


def _without_autocast(kind: str) -> AbstractContextManager[object]:
    """Turns autocast off; device types that have none, such as meta, need nothing."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _is_eager(x: Tensor) -> bool:
    """Whether operations run as they are called, on plain tensors, rather than being recorded or transformed."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return type(x) in (Tensor, nn.Parameter) and not recorded and not transformed


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype to which autocast casts the operands of a matrix product; None outside of it."""
    kind = x.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return None
    return torch.get_autocast_dtype(kind)


def _cast(dtype: torch.dtype | None, *tensors: Tensor | None) -> list[Any]:
    """As autocast does it: float64 stays."""
    if dtype is None:
        return list(tensors)
    return [t if t is None or t.dtype is torch.float64 else t.to(dtype) for t in tensors]
