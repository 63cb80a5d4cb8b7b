"""Modules whose parameters are the factors of a structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError, SizeError
from einsearch_cli.layers.factors import FACTORS, FactorMatrix, Factors, matrices_of, parameter_name
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.planner import stored_plan
from einsearch_cli.layers.torch_private import is_replica, is_traced_by_module
from einsearch_cli.layers.tracing import is_traced
from einsearch_cli.machine import memory_bytes
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import Structure

_VIEW: Final = "_view"
"""Attribute in which a module keeps the view of its factors."""


class FactoredModule(nn.Module):
    """A module made of a structure's factors.

    Factors are parameters of the module itself, named `factors.A`, `factors.B`, …, so whatever moves a module's own
    parameters before a call also moves them. Names with a dot come from earlier versions, in which the factors had a
    separate module; `factors` answers wherever torch looks for that module.
    """

    in_features: int
    out_features: int
    structure: Structure
    sized: SizedStructure
    plan: Plan
    gain: Tensor

    def _hold(
        self,
        sized: SizedStructure,
        device: torch.device | str | int | None,
        dtype: torch.dtype,
        experts: tuple[int, ...] = (),
    ) -> None:
        """Create factors (*experts, batch, fan_in, fan_out) without values, if the device has the memory."""
        self.in_features, self.out_features, self.structure = sized.d_in, sized.d_out, sized.structure
        self.sized = sized
        _check_allocation(sized, device, dtype, *experts)
        self.plan = stored_plan(sized)
        shapes = {step.factor: step.weight_shape for step in self.plan.steps}
        # One axis, since sharding (`fully_shard`) does not accept parameters without axes.
        self.gain = nn.Parameter(torch.empty(experts or 1, device=device, dtype=dtype))
        self.factors = {
            name: torch.empty(*experts, *shapes[name], device=device, dtype=dtype) for name in sorted(shapes)
        }
        self._note_factors()

    @property
    def factors(self) -> nn.ParameterDict:
        """The factors by name, each (batch, fan_in, fan_out): the parameters themselves.

        Assigning those of another layer, or a dictionary, makes these the parameters of this layer; they are not copied.
        """
        if FACTORS in self._modules:
            self._take_factors_back()
            apart = self._modules.get(FACTORS)
            if isinstance(apart, nn.ParameterDict):
                return apart
        attributes = vars(self)
        if self._names[0] in attributes:  # a view of these is not kept, as it would keep the layer alive
            return Factors(self, attributes)
        view: Factors | None = attributes.get(_VIEW)
        if view is None or not view.is_view_of(self._parameters):
            view = attributes[_VIEW] = Factors(self, self._parameters)
        return view

    @factors.setter
    def factors(self, values: Mapping[str, Tensor] | nn.ParameterDict) -> None:
        if isinstance(values, nn.Module) and (values._buffers or values._modules or is_replica(values)):
            self._modules[FACTORS] = values
            return
        found = dict(values.items())
        self._check_assigned(found)
        self._modules.pop(FACTORS, None)
        for name, value in found.items():
            self._parameters.pop(parameter_name(name), None)  # to be the last ones, as they always were
            parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
            self.register_parameter(parameter_name(name), parameter)
        vars(self).pop(_VIEW, None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == FACTORS:  # nn.Module would treat it as a module, without asking the property
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter; factors get it under another name first, as torch refuses the dot in theirs."""
        allowed = name.replace(".", "_") if name.startswith(parameter_name("")) else name
        # By torch's own method, which tools watch or replace, for example to build models on the meta device.
        super().register_parameter(allowed, param)
        if allowed != name:
            self._parameters[name] = self._parameters.pop(allowed)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules inside: none, unless a tool keeps factors in one."""
        # `torch.jit.trace` finds parameters by the parts of their names, and asks here before it looks at them.
        if is_traced_by_module() and FACTORS not in self._modules and isinstance(self.factors, Factors):
            self.factors.become_module()
        self._take_factors_back()
        return super().named_children()

    def named_modules(self, *words: Any, **named: Any) -> Iterator[tuple[str, nn.Module]]:
        """The layer itself, and the modules inside it, as for every module."""
        self._take_factors_back()
        return super().named_modules(*words, **named)  # type: ignore[no-any-return]

    def named_parameters(self, *words: Any, **named: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters by name, as for every module."""
        self._take_factors_back()
        return super().named_parameters(*words, **named)

    def _take_factors_back(self) -> None:
        """Hold the factors again, once a tool that kept them in a module has left nothing else there."""
        apart = self._modules.get(FACTORS)
        if isinstance(apart, Factors) and apart.is_plain and not (is_traced() or is_traced_by_module()):
            for name in sorted(apart):
                self._parameters[parameter_name(name)] = apart._parameters[name]
            if not apart.is_view:
                apart.become_view(self, self._parameters)
                vars(self)[_VIEW] = apart
            self._modules.pop(FACTORS, None)

    def _check_assigned(self, factors: Mapping[str, Any]) -> None:
        """Raise LayerError for factors of other names or shapes than the layer's."""
        shapes = {step.factor: step.weight_shape for step in self.plan.steps}
        for name, value in factors.items():
            held = self._parameters.get(parameter_name(name))
            wanted = shapes.get(name) if held is None else tuple(held.shape)
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            if wanted is None or found[-len(wanted) :] != wanted:
                known = ", ".join(f"{factor} {shapes[factor]}" for factor in sorted(shapes))
                raise LayerError(
                    f"factor {name!r}, {found}: the layer's factors are {known}",
                    remedy="assign tensors of these names and shapes, or build a layer of the other structure",
                )

    def factor_matrices(self) -> dict[str, tuple[FactorMatrix, ...]]:
        """The matrices of every factor, by parameter name, as parameters of two axes (fan_out, fan_in).

        These are for optimizers that take only matrices, such as `torch.optim.Muon`. They are views of the factors, and
        their gradients are views of the factors' gradients. Make them together with the optimizer, after moves to a
        device or dtype: a step of a matrix whose factor was moved or replaced raises LayerError.

        Raises:
            LayerError: for a factor that is sharded or parametrized.

        >>> from einsearch_cli import EinsumLinear
        >>> layer = EinsumLinear(64, 64, "btt:r=2")
        >>> matrices = layer.factor_matrices()
        >>> {name: (len(found), *found[0].shape) for name, found in matrices.items()}
        {'factors.A': (8, 16, 8), 'factors.B': (8, 8, 16)}
        >>> optimizer = torch.optim.SGD([matrix for found in matrices.values() for matrix in found], lr=0.1)
        """
        return {
            parameter_name(name): matrices_of(self, parameter_name(name), factor)
            for name, factor in self.factors.items()
        }

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new factors; every gain becomes one.

        A factor's standard deviation is sqrt(min(fan_in, fan_out) / fan_in²): Qiu et al. 2024 (arXiv 2406.06248).
        """
        for role in self.plan.roles:
            nn.init.normal_(self.factors[role.factor], std=role.init_std)
        nn.init.ones_(self.gain)

    @torch.no_grad()
    def zero_last_factor_(self) -> None:
        """Make W zero by setting the factor that meets last to zero, for the last layer of a residual block.

        >>> from einsearch_cli import EinsumLinear
        >>> layer = EinsumLinear(16, 16, "btt:r=2")
        >>> layer.zero_last_factor_()
        >>> layer.to_dense().abs().max().item()
        0.0
        """
        nn.init.zeros_(self.factors[self.plan.steps[-1].factor])

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Adam learning rates of the factors relative to the muP rate of a dense layer.

        The value is (in_features / fan_in) / number of factors, by parameter name. Gain and bias are not listed, as
        they train at the base rate itself, without the dense layer's muP multiplier. Source: Potapczynski et al. 2024
        (arXiv 2410.02117).

        >>> from einsearch_cli import EinsumLinear
        >>> EinsumLinear(64, 64, "btt:r=2").learning_rate_multipliers()
        {'factors.A': 4.0, 'factors.B': 2.0}
        """
        return {
            parameter_name(role.factor): self.in_features / role.fan_in / len(self.plan.roles)
            for role in sorted(self.plan.roles, key=lambda role: role.factor)
        }

    def _note_factors(self) -> None:
        """Store the names of the factors in the order in which they meet."""
        self._names = tuple(parameter_name(step.factor) for step in self.plan.steps)

    def _factors(self) -> list[Tensor]:
        """The factors in the order in which they meet."""
        parameters: Any = self._parameters
        try:
            return [parameters[name] for name in self._names]
        except KeyError:
            return self._factors_elsewhere()

    def _factors_elsewhere(self) -> list[Tensor]:
        """Factors that are not the layer's own parameters, or no longer.

        Replicas of `nn.DataParallel` and layers in FSDP have tensors as attributes; pruning and parametrizations keep
        their parameters in a module.
        """
        attributes: Any = vars(self)
        if all(name in attributes for name in self._names):
            return [attributes[name] for name in self._names]
        factors = self.factors
        for hook in tuple(factors._forward_pre_hooks.values()):  # those of pruning; the module itself is never called
            hook(factors, ())
        found: list[Any] = [getattr(factors, step.factor, None) for step in self.plan.steps]
        self._refuse_missing(found)
        return found

    def _refuse_missing(self, factors: Sequence[Any]) -> None:
        """Raise LayerError if a factor was deleted or set to None."""
        for step, factor in zip(self.plan.steps, factors, strict=True):
            if not isinstance(factor, Tensor):
                raise LayerError(
                    f"factor {step.factor!r} is missing: the layer multiplies by all its factors",
                    remedy=f"layer.factors[{step.factor!r}] = nn.Parameter(…), of shape {step.weight_shape}",
                )

    def __getstate__(self) -> dict[str, Any]:
        """The state of copies and pickles, without the plan, which all layers of one structure share."""
        state = {**self.__dict__, "plan": None}
        state.pop(_VIEW, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "plan": stored_plan(state["sized"])})  # type: ignore[no-untyped-call]
        self._note_factors()
        if FACTORS in self._modules:  # a version that had a module for them
            self.factors = self.factors

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self._take_factors_back()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *others: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *others)
        # torch looks for a module where a name has a dot
        *_, unexpected, _ = others
        own = {prefix + name for name in self._parameters}
        unexpected[:] = [key for key in unexpected if key not in own]


def _check_allocation(
    sized: SizedStructure, device: torch.device | str | int | None, dtype: torch.dtype, copies: int = 1
) -> None:
    """Raise SizeError if the factors of `copies` layers need more bytes than the device has; `meta` holds anything."""
    place = torch.empty(0, device=device).device
    available = memory_bytes(place)
    params = copies * sized.params
    needed = params * dtype.itemsize
    if available is not None and needed > available:
        raise SizeError(
            f"{f'{copies} × ' if copies > 1 else ''}{sized.structure} at {sized.d_in} × {sized.d_out} has {params:,} "
            f"parameters = {needed:,} bytes as {dtype}: device {place} has {available:,} bytes",
            remedy="choose smaller dimensions, a smaller rank or a narrower dtype, or build it on device='meta'",
        )
