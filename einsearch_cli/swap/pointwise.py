"""Convolutions of kernel size 1: linear layers over the channels of each position."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn

KINDS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONVOLUTIONS: Final = (*KINDS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def is_pointwise(module: nn.Module) -> bool:
    """Whether a convolution only multiplies the channels of each position by one matrix."""
    return (
        isinstance(module, KINDS)
        and module.groups == 1
        and all(size == 1 for size in (*module.kernel_size, *module.stride))
        and (
            isinstance(module.padding, str) or not any(module.padding)
        )  # 0 may be given as text for a kernel of size 1
    )


class PointwiseConv(nn.Module):
    """A linear layer applied to the channels of each position, in place of a convolution of kernel size 1.

    The input is (N, in_channels, …) or (in_channels, …), with as many axes of positions as the convolution has. The
    memory format of the input is kept, as convolutions keep it.

    Args:
        linear: a layer from (…, in_features) to (…, out_features).
        convolution: the convolution to replace, which gives the number of axes of positions.

    >>> import torch
    >>> convolution = nn.Conv2d(3, 5, 1)
    >>> linear = nn.Linear(3, 5)
    >>> _ = linear.load_state_dict({"weight": convolution.weight[:, :, 0, 0], "bias": convolution.bias})
    >>> x = torch.randn(2, 3, 4, 4)
    >>> torch.allclose(PointwiseConv(linear, convolution)(x), convolution(x), atol=1e-5)
    True
    """

    def __init__(self, linear: nn.Module, convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.linear = linear
        self.in_channels, self.out_channels = convolution.in_channels, convolution.out_channels
        self.kernel_size, self.stride, self.padding = convolution.kernel_size, convolution.stride, convolution.padding
        self.dilation, self.groups, self.padding_mode = convolution.dilation, 1, convolution.padding_mode
        self.kind: Any = type(convolution)
        self.train(convolution.training)

    @property
    def weight(self) -> Tensor:
        """The matrix as a kernel, (out_channels, in_channels, 1, …), computed at each access."""
        weight: Tensor = self.linear.weight  # type: ignore[assignment]
        return weight.reshape(*weight.shape, *self.kernel_size)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the linear layer."""
        return self.linear.bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, …) to (N, out_channels, …)."""
        channels = -1 - len(self.kernel_size)
        y: Tensor = self.linear(x.movedim(channels, -1)).movedim(-1, channels)
        return y.contiguous() if x.is_contiguous() else y

    def convolution(self, weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Module:
        """A convolution like the replaced one, with this matrix (out_channels, in_channels)."""
        made = self.kind(
            self.in_channels, self.out_channels, self.kernel_size, padding=self.padding, bias=False, device="meta"
        )
        made.weight = nn.Parameter(weight.detach().reshape(*weight.shape, *self.kernel_size), weight.requires_grad)
        made.bias = bias
        return made.train(self.training)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The widths, in the form of a convolution."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
