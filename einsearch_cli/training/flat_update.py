"""The parameters of one or several runs in one tensor, and the update that clips and steps them there.

Clipping and AdamW over a list of parameters took 0.45 of the 1.8 ms of a step at width 48. Here clipping is four
operations for all runs together, and AdamW is one call per learning rate, for all runs that have it.
"""

# Axes in this file: R runs, P parameters of a run (all numbers of its network, and padding).

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from einsearch_cli.training.groups import Options

ALIGNMENT: Final = 16
"""Numbers in a cache line. Every run starts at a new line, so sums do not depend on its place among the runs."""
EPSILON: Final = 1e-8
"""The number that AdamW adds to the root of the mean square."""


@dataclass(frozen=True)
class FlatLayout:
    """The places of a network's parameters in a row of numbers; those with equal options are neighbours."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    groups: tuple[tuple[int, int], ...]
    """First number, and the number after the last, of each group of equal options."""
    padding: int

    @property
    def first_of_groups(self) -> tuple[int, ...]:
        """The index of the first parameter of each group."""
        starts = [0, *accumulate(shape.numel() for shape in self.shapes)]
        return tuple(starts.index(start) for start, _ in self.groups)

    @staticmethod
    def of(model: nn.Module, options: Mapping[str, Options]) -> FlatLayout:
        """The layout of a model whose parameters have these options, by name."""
        members: dict[tuple[tuple[str, float], ...], list[tuple[str, nn.Parameter]]] = {}
        for name, value in model.named_parameters():
            members.setdefault(tuple(sorted(options[name].items())), []).append((name, value))
        ends = [0, *accumulate(sum(value.numel() for _, value in group) for group in members.values())]
        ordered = [member for group in members.values() for member in group]
        return FlatLayout(
            names=tuple(name for name, _ in ordered),
            shapes=tuple(value.shape for _, value in ordered),
            groups=tuple(pairwise(ends)),
            padding=-ends[-1] % ALIGNMENT,
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of all parameters and of the padding."""
        return (*(shape.numel() for shape in self.shapes), self.padding)

    def split(self, row_P: Tensor) -> dict[str, Tensor]:
        """The parameters by name, as views of a row."""
        parts = row_P.split(self.sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts[:-1], self.shapes, strict=True)}

    @torch.no_grad()
    def show_(self, row_P: Tensor, model: nn.Module) -> None:
        """Make the parameters of a model views of a row."""
        for name, value in self.split(row_P).items():
            model.get_parameter(name).data = value

    def rows(self, models: Iterable[nn.Module]) -> Tensor:
        """The parameters of several models, a row each."""
        rows = []
        for model in models:
            values = dict(model.named_parameters())
            flat = torch.cat([values[name].detach().flatten() for name in self.names])
            rows.append(nn.functional.pad(flat, (0, self.padding)))
        return torch.stack(rows)


class FlatAdamW:
    """Clipping and AdamW of several runs, each with its own norm and learning rates."""

    def __init__(
        self,
        layout: FlatLayout,
        values_RP: Tensor,
        options: Sequence[Mapping[str, Options]],
        *,
        betas: tuple[float, float],
        clip_norm: float,
    ) -> None:
        """`options` are those of every run, by parameter name; a group of the layout has equal options in a run."""
        self.layout, self.clip_norm = layout, clip_norm
        self.beta1, self.beta2 = betas
        self.values_RP = values_RP
        self.gradients_RP = torch.zeros_like(values_RP)
        self.mean_RP = torch.zeros_like(values_RP)
        self.square_RP = torch.zeros_like(values_RP)
        self.steps = torch.zeros((), device=values_RP.device)
        self._stopped: set[int] = set()
        self._prepare(options)

    def _prepare(self, options: Sequence[Mapping[str, Options]]) -> None:
        """Make the views that the calls of a step use."""
        layout, firsts = self.layout, self._firsts
        everything = (self.values_RP, self.gradients_RP, self.mean_RP, self.square_RP)
        self._parts = [
            (run, [tensor[run, start:end] for tensor in everything], dict(options[run][name]))
            for run in range(len(self.values_RP))
            for name, (start, end) in zip(firsts, layout.groups, strict=True)
        ]
        self._calls = self._grouped()

    @property
    def _firsts(self) -> list[str]:
        """The name of the first parameter of each group."""
        return [self.layout.names[number] for number in self.layout.first_of_groups]

    def stop(self, run: int) -> None:
        """Stop a run: it takes no more steps."""
        self._stopped.add(run)
        self._calls = self._grouped()

    def _grouped(self) -> list[tuple[list[list[Tensor]], list[Tensor], Options]]:
        """Values, gradients and moments that one call updates, with its counts and options; most runs have equal rates."""
        found: dict[tuple[tuple[str, float], ...], list[list[Tensor]]] = {}
        for run, tensors, options in self._parts:
            if run not in self._stopped:
                lists = found.setdefault(tuple(sorted(options.items())), [[], [], [], []])
                for several, tensor in zip(lists, tensors, strict=True):
                    several.append(tensor)
        return [(lists, [self.steps] * len(lists[0]), dict(options)) for options, lists in found.items()]

    def step(self, fraction: float | Tensor) -> Tensor:
        """Clip the gradients in `gradients_RP` and take a step; returns the norm of every run before clipping.

        Args:
            fraction: fraction of the peak learning rates.
        """
        norm_R1 = torch.linalg.vector_norm(self.gradients_RP, dim=1, keepdim=True)
        # as in torch.nn.utils.clip_grad_norm_
        self.gradients_RP.mul_((self.clip_norm / (norm_R1 + 1e-6)).clamp_(max=1.0))
        self.steps += 1
        self._move(fraction)
        norm_R: Tensor = norm_R1[:, 0]
        return norm_R

    def _move(self, fraction: float | Tensor) -> None:
        """Move the values by the clipped gradients."""
        for (values, gradients, means, squares), steps, options in self._calls:
            torch._fused_adamw_(
                values,
                gradients,
                means,
                squares,
                [],
                steps,
                lr=options["lr"] * fraction,
                beta1=self.beta1,
                beta2=self.beta2,
                weight_decay=options["weight_decay"],
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> tuple[Tensor, ...]:
        """All tensors that a step changes, besides gradients."""
        return self.values_RP, self.mean_RP, self.square_RP, self.steps

    def run_state(self, run: int) -> dict[str, Any]:
        """Everything that a run's next step depends on, except gradients; tensors are not copied."""
        return {
            "values": self.values_RP[run],
            "mean": self.mean_RP[run],
            "square": self.square_RP[run],
            "steps": self.steps,
        }

    def load_run_state(self, run: int, state: Mapping[str, Any]) -> None:
        """Continue from a state; views of the values see it. All runs must have taken the same number of steps."""
        self.values_RP[run].copy_(state["values"])
        self.mean_RP[run].copy_(state["mean"])
        self.square_RP[run].copy_(state["square"])
        self.steps.copy_(state["steps"])


class JointAdamW(FlatAdamW):
    """Clipping and AdamW for all runs and groups at once, by a dozen operations over whole tensors, as suits a GPU.

    Nothing in it waits for the device. Besides the tensors of `state`, only the fraction changes from step to step, so
    a CUDA graph can hold a step. A run that has stopped keeps moving; its losses mean nothing.
    """

    def stop(self, run: int) -> None:
        """Do nothing: the step is the same for all runs."""

    def _prepare(self, options: Sequence[Mapping[str, Options]]) -> None:
        """Set rates and decays for every number."""
        layout, firsts = self.layout, self._firsts
        sizes = [end - start for start, end in layout.groups]

        def spread(option: str) -> Tensor:
            """The option of every number of every run; 0 for the padding."""
            values_RG = torch.tensor([[run[name][option] for name in firsts] + [0.0] for run in options])
            counts_G = torch.tensor([*sizes, layout.padding])
            return values_RG.to(self.values_RP).repeat_interleave(counts_G.to(self.values_RP.device), dim=1)

        self.rates_RP = spread("lr")
        self.decays_RP = self.rates_RP * spread("weight_decay")

    def _move(self, fraction: float | Tensor) -> None:
        self.mean_RP.lerp_(self.gradients_RP, 1 - self.beta1)
        self.square_RP.mul_(self.beta2).addcmul_(self.gradients_RP, self.gradients_RP, value=1 - self.beta2)
        root_RP = (self.square_RP / (1 - self.beta2**self.steps)).sqrt_().add_(EPSILON)
        change_RP = (self.mean_RP / root_RP).mul_(self.rates_RP).div_(1 - self.beta1**self.steps)
        change_RP.addcmul_(self.values_RP, self.decays_RP).mul_(fraction)
        self.values_RP.sub_(change_RP)
