"""Muon: matrices move along orthogonalised momentum, everything else uses AdamW.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); Liu et al. 2025 (arXiv 2502.16982, "Moonlight").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from einsearch_cli.guided.layer import SelfGuidedLinear
from einsearch_cli.layers.factored_module import FactoredModule
from einsearch_cli.models import StructuredNetwork
from einsearch_cli.training.groups import Group, Options
from einsearch_cli.training.optimizers import OptimizerKind, UpdateSettings, find_optimizer, register

# Axes in this file: B matrices of a batch, M rows, N columns.

MOMENTUM: Final = 0.95
COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients of X and its next two odd powers: Jordan et al. 2024.

Singular values end between 0.7 and 1.2, which is close enough to 1.
"""
ITERATIONS: Final = 5
SMALLEST_NORM: Final = 1e-7
"""Norm below which matrices keep their direction and lose length."""
ADAMW_RMS: Final = 0.2
"""Root mean square of an AdamW update at learning rate 1: Liu et al. 2025, section 2.2."""


class Muon(Optimizer):
    """Groups with an `adjustment` above 0 are batches of matrices, (..., rows, columns); other groups use AdamW.

    All matrices of a batch are orthogonalised separately, in one Newton–Schulz iteration. A matrix first shrinks by lr
    · weight_decay, then moves by lr · adjustment along the result.

    Args:
        params: parameters, or groups with options.
        lr: learning rate, for both kinds of groups.
        weight_decay: decoupled weight decay, for both kinds.
        adjustment: factor on the length of a step; 0.2 · sqrt(max(rows, columns)) suits a rate chosen for AdamW.
        betas: decays of AdamW's two running means.
        eps: added to AdamW's denominator.

    >>> from einsearch_cli import EinsumLinear
    >>> layer = EinsumLinear(64, 64, "btt:r=2")
    >>> factors = {"params": layer.factors.parameters(), "adjustment": 0.2 * 8**0.5}
    >>> optimizer = Muon([factors, {"params": [layer.gain, layer.bias], "weight_decay": 0.0}], lr=1e-3)
    >>> layer(torch.ones(3, 64)).square().mean().backward()
    >>> optimizer.step()
    >>> list(optimizer.state[layer.factors["A"]]), list(optimizer.state[layer.gain])
    (['momentum_buffer'], ['step', 'exp_avg', 'exp_avg_sq'])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        adjustment: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "adjustment": adjustment, "betas": betas, "eps": eps}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the result of the closure, which computes gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            values = [value for value in group["params"] if value.grad is not None]
            if group["adjustment"]:
                for value in values:
                    self._move_matrices(value, group)
            else:
                self._move_by_adamw(values, group)
        return loss

    def _move_matrices(self, value: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[value], value.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        direction = _orthogonal_as(gradient.lerp(momentum, MOMENTUM))  # Nesterov's momentum
        value.mul_(1 - group["lr"] * group["weight_decay"])
        value.add_(direction, alpha=-group["lr"] * group["adjustment"])

    def _move_by_adamw(self, values: list[Tensor], group: dict[str, Any]) -> None:
        if not values:
            return
        states = [self.state[value] for value in values]
        for state, value in zip(states, values, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=value.device)
                state["exp_avg"] = torch.zeros_like(value, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(value, memory_format=torch.preserve_format)
        beta1, beta2 = group["betas"]
        adamw(
            values,
            [value.grad for value in values if value.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _orthogonal_as(direction: Tensor) -> Tensor:
    """`orthogonalised`, with the sharding of `direction`: a matrix cannot be orthogonalised in pieces."""
    if isinstance(direction, DTensor):
        whole = orthogonalised(direction.full_tensor())
        return distribute_tensor(whole, direction.device_mesh, direction.placements, src_data_rank=None)
    return orthogonalised(direction)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Move the singular values of every matrix of a batch, (..., M, N), close to 1.

    An odd polynomial of X acts on its singular values alone and keeps the singular vectors. Five rounds of aX + b(XXᵀ)X
    + c(XXᵀ)²X bring every singular value that is not tiny close to 1. At the start they have to be at most 1, which
    dividing by the Frobenius norm ensures. On a GPU it runs in bfloat16, which is precise enough (Jordan et al. 2024).

    >>> found = orthogonalised(torch.eye(4).expand(3, 2, 4, 4))
    >>> found.shape, bool((torch.linalg.matrix_norm(found, 2) - 1).abs().max() < 0.3)
    (torch.Size([3, 2, 4, 4]), True)
    """
    work = torch.promote_types(matrices.dtype, torch.float32)
    x_BMN = matrices.to(work).reshape(-1, *matrices.shape[-2:])
    is_tall = x_BMN.shape[1] > x_BMN.shape[2]
    if is_tall:  # so that XXᵀ is the smaller of the two products
        x_BMN = x_BMN.mT
    x_BMN = x_BMN / torch.linalg.matrix_norm(x_BMN, keepdim=True).clamp(min=SMALLEST_NORM)
    if x_BMN.is_cuda:
        x_BMN = x_BMN.bfloat16()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram_BMM = x_BMN @ x_BMN.mT
        powers_BMM = torch.baddbmm(gram_BMM, gram_BMM, gram_BMM, beta=b, alpha=c)
        x_BMN = torch.baddbmm(x_BMN, powers_BMM, x_BMN, beta=a)
    if is_tall:
        x_BMN = x_BMN.mT
    return x_BMN.reshape(matrices.shape).to(matrices.dtype)


class MuonKind(OptimizerKind):
    """Muon for factors, guides and hidden dense layers; AdamW for embedding, input layer, head, routers and vectors.

    A rate that suits AdamW at the base width w is converted for every matrix: lr · 0.2 · sqrt(w) · sqrt(fan_out /
    fan_in) / number of factors. At width w, a square matrix then has the rate of Liu et al. 2025 (arXiv 2502.16982),
    0.2 · sqrt(max(rows, columns)). The spectral condition (Yang et al. 2023, arXiv 2310.17813) gives the dependence on
    the shape: a change of spectral norm sqrt(fan_out / fan_in) changes features equally at every width. The number of
    factors enters as with AdamW (Potapczynski et al. 2024, arXiv 2410.02117), since their changes add up in the
    product. Weight decay is not adjusted.
    """

    name = "muon"
    state_names = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")
    least_state_bytes = 4

    def options(
        self, model: StructuredNetwork, *, base_width: int, learning_rate: float, weight_decay: float
    ) -> dict[str, Options]:
        """Options of matrices as above; those of everything else as with AdamW."""
        rest = find_optimizer("adamw").options(
            model, base_width=base_width, learning_rate=learning_rate, weight_decay=weight_decay
        )
        shapes = _spectral_norms(model)
        return {
            name: options
            if name not in shapes
            else {
                "lr": learning_rate,
                "weight_decay": weight_decay,
                "adjustment": ADAMW_RMS * math.sqrt(base_width) * shapes[name],
            }
            for name, options in rest.items()
        }

    def make(self, groups: Sequence[Group], settings: UpdateSettings) -> Optimizer:
        """`Muon` with these groups."""
        return Muon(groups, betas=(settings.beta1, settings.beta2))

    def state_bytes(self, options: Options) -> int:
        """Bytes of one running mean for matrices, and of two for the rest."""
        return 4 if "adjustment" in options else 8


def _spectral_norms(model: StructuredNetwork) -> dict[str, float]:
    """sqrt(fan_out / fan_in) of every matrix that Muon moves, by parameter name; factors share that of their layer."""
    found: dict[str, float] = {}
    for layer, module in model.named_modules():
        if isinstance(module, FactoredModule):
            matrices = module.factor_matrices()
            for name, (first, *_) in matrices.items():
                fan_out, fan_in = first.shape
                found[f"{layer}.{name}"] = math.sqrt(fan_out / fan_in) / len(matrices)
        if isinstance(module, SelfGuidedLinear):
            found[f"{layer}.guide"] = math.sqrt(module.out_features / module.in_features)
        if isinstance(module, nn.Linear) and module is not model.head and model.fan_in_scales(layer):
            found[f"{layer}.weight"] = math.sqrt(module.out_features / module.in_features)
    return found


register(MuonKind())
