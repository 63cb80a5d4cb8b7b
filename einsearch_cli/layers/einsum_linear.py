"""`EinsumLinear`: a drop-in for `nn.Linear` whose matrix is a product of factors."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.autocast import autocast_dtype, cast, cast_dtype, without_autocast
from einsearch_cli.layers.computed_weight import BuffersWithoutWeight, WithoutWeight, computed_weight, refuse_write
from einsearch_cli.layers.execution.autograd import execute, register_plan, structured_linear
from einsearch_cli.layers.execution.choose import Resolved, resolved
from einsearch_cli.layers.execution.merged import KeptWeights, Merging, merged_weights
from einsearch_cli.layers.execution.reference import contract
from einsearch_cli.layers.execution.scaling import is_first_order, reference_scaled, scaled
from einsearch_cli.layers.explanation import LayerExplanation, checked_call, checked_use, explanation
from einsearch_cli.layers.feature_orders import OrderedModule, sized_for
from einsearch_cli.layers.inputs import check_dtype, check_input, check_parameters, check_width, output_for
from einsearch_cli.layers.learning_rates import StructuredLayer
from einsearch_cli.layers.plans.machine_profile import profile_for
from einsearch_cli.layers.plans.plan import Call
from einsearch_cli.layers.plans.planner import Route, RouteTable, Use, dense_route, route_table, routes
from einsearch_cli.layers.torch_private import is_any_autocast, unwrap_if_dead
from einsearch_cli.layers.tracing import calls_operators, is_plain
from einsearch_cli.structures import FeatureOrder, Structure, parse_structure

# Looked up once: a small layer takes 8 µs, and every attribute of a module costs 0.05 of these.
_is_grad_enabled = torch.is_grad_enabled
_linear, _addmm = functional.linear, torch.addmm
_num_threads = torch.get_num_threads


class EinsumLinear(OrderedModule, StructuredLayer):
    """A linear layer y = W x + b, where W is the einsum of a structure's factors.

    Input (..., in_features), output (..., out_features), for any leading shape. Each factor is stored as a batch of
    matrices, (batch, fan_in, fan_out), and meets the activation in one batched matrix product. The features are read as
    index axes in the order of the equation, if the structure is given as one; otherwise in an order chosen for speed.
    `order` sets another. Where a dimension has no fitting divisors, the input is padded with zeros and the output is
    cut.

    For stability, following Qiu et al. 2024 (arXiv 2406.06248) and Potapczynski et al. 2024 (arXiv 2410.02117), every
    factor is divided by max(1, rms / init std), and the product has a learnable gain. All these numbers are folded into
    one (`rms_scale`).

    Args:
        in_features: width of the input.
        out_features: width of the output.
        structure: a `Structure`, or any text that `parse_structure` reads.
        bias: whether to add a learnable bias, zero at start.
        device: device of the parameters; `meta` allocates nothing.
        dtype: a floating-point dtype; None means torch's default.
        order: which index counts slowest along the features. None: as an equation is written, else `fast`.
            `fast`: chosen for speed, for layers that are trained from scratch. `standard`: the documented order of
            the family (`docs/reference/families.md`), so that a Kronecker product is `torch.kron(A, B)`. Or a
            `FeatureOrder`, or its text, such as `XB,XA/YA,YB`, or the `order` of another layer.

    Raises:
        StructureError: if the text is not a structure, or the order one of other indices.
        SizeError: if the structure does not fit the widths, or its parameters do not fit the memory of the device.
        LayerError: if the dtype is not a floating-point one.

    >>> layer = EinsumLinear(64, 64, "monarch")
    >>> layer(torch.ones(2, 3, 64)).shape
    torch.Size([2, 3, 64])
    >>> {name: tuple(p.shape) for name, p in layer.named_parameters()}
    {'gain': (1,), 'bias': (64,), 'factors.A': (8, 8, 8), 'factors.B': (8, 8, 8)}
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        structure: Structure | str,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        order: FeatureOrder | str | None = None,
    ) -> None:
        super().__init__()
        self._parameters, self._buffers = WithoutWeight(), BuffersWithoutWeight()
        dtype = dtype or torch.get_default_dtype()
        check_dtype(dtype)
        structure = parse_structure(structure) if isinstance(structure, str) else structure
        self._hold(sized_for(structure, in_features, out_features, order), device, dtype)
        self._route: Route | None = None
        self._merging: Merging | None = None
        self._order_changed()
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        # Behind the bias, since optimizers of old checkpoints count the parameters in this order.
        self.factors = self.factors
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new factors; the gain becomes one and the bias zero."""
        super().reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def route(self) -> str | None:
        """The fixed way in which the layer multiplies, such as `(xA)B`; None, the default, lets the planner choose.

        With `x(AB)`, a call multiplies the factors with each other first; a merged layer keeps that product (see
        `merge`). A merged layer whose route is the factors' own sequence keeps no matrix, only its scale.

        >>> layer = EinsumLinear(64, 64, "monarch")
        >>> layer.route = "(xA)B"
        >>> layer.route = "x(BA)"
        Traceback (most recent call last):
        ...
        einsearch_cli.errors.LayerError: route 'x(BA)': this layer's are (xA)B, x(AB)
        try: one of these, or None for the fastest
        """
        return None if self._route is None else self._route.text

    @route.setter
    def route(self, text: str | None) -> None:
        known = {} if text is None else {route.text: route for route in routes(self.sized)}
        if text is not None and text not in known:
            raise LayerError(
                f"route {text!r}: this layer's are {', '.join(known)}", remedy="one of these, or None for the fastest"
            )
        self._route = None if text is None else known[text]
        # Decisions for earlier calls, without gradients and with them.
        self._calls: list[Resolved | None] = [None, None]
        if self._merging is not None:
            self._merging.weights = None

    @property
    def is_merged(self) -> bool:
        """Whether calls without gradients may use what earlier calls kept; see `merge`."""
        return self._merging is not None and self._merging.is_current(self._parameters)

    @property
    def flops_per_token(self) -> int:
        """2 × multiply-adds of one forward pass per token; bias and scaling are not counted."""
        return self.plan.flops_per_token

    @property
    def weight(self) -> Tensor:
        """The dense matrix, computed at each access, for code that reads the weight of a linear layer.

        Raises:
            LayerError: at every attempt to write or replace it, as the change would be lost.
        """
        return computed_weight(lambda: self.to_dense().contiguous())

    @weight.setter
    def weight(self, _: Any) -> NoReturn:
        refuse_write()

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter; a `weight`, or what tools store instead of it, is refused."""
        if name.startswith("weight"):  # `weight_orig`, `weight_g`
            refuse_write()
        super().register_parameter(name, param)

    def to_dense(self) -> Tensor:
        """W as one tensor of shape (out_features, in_features), with its scale; differentiable.

        >>> layer = EinsumLinear(12, 8, "low-rank:r=2", bias=False)
        >>> x = torch.ones(12)
        >>> torch.allclose(layer(x), layer.to_dense() @ x, atol=1e-5)
        True
        """
        route = dense_route(self.sized)
        with without_autocast(self.gain.device.type):
            if route is None:  # W is block-diagonal: one column after another
                identity = torch.eye(self.in_features, device=self.gain.device, dtype=self.gain.dtype)
                columns = contract(self.plan, self.padded(identity), self._scaled_factors())
                return columns[:, : self.out_features].T
            (weight,) = merged_weights(self.plan, route.plan, self._scaled_factors())
            return weight[0, : self.in_features, : self.out_features].T

    def explain(
        self,
        tokens: int,
        use: Use | str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> LayerExplanation:
        """Explain how a call of this many tokens is computed: its route, products, chunks and executor.

        Compiled, traced and transformed calls use the factors' own sequence, or the route that is set.

        Args:
            tokens: rows of the input, all leading axes together.
            use: `training`, `inference` or `merged`; None means the use of a call made now.
            device: kind of device; None means that of the parameters.
            dtype: dtype of the products; None means that of the parameters, or of autocast.

        Raises:
            LayerError: for a number of tokens that is not whole, or an unknown use, device or dtype.

        >>> print(EinsumLinear(64, 64, "monarch").explain(1000, "training", device="cuda", dtype=torch.bfloat16))
        ... # doctest: +ELLIPSIS
        XA^1/2 XAB^1/2 YB^1/2 YAB^1/2, 64 → 64: training, 1,000 tokens, bfloat16 on cuda
        route     (xA)B: 2,048 FLOPs per token, dense 8,192
        executor  gpu, in one piece
        step 1    A: 8 × (1,000 × 8) · (8 × 8)
        step 2    B: 8 × (1,000 × 8) · (8 × 8)
        predicted (xA)B ... µs, x(AB) ... µs
        """
        if use is None:
            unmerged = Use.training if torch.is_grad_enabled() else Use.inference
            use = Use.merged if unmerged is Use.inference and self.is_merged else unmerged
        use, call = checked_use(use), checked_call(self.gain, tokens, device, dtype)
        return explanation(self.plan, self._route_table(call, use).at(tokens), use, call)

    def factor_tensor(self, factor: str) -> Tensor:
        """One factor, unscaled, with an axis for every index in the order of `sized.carriers_of(factor)`.

        >>> EinsumLinear(64, 64, "btt:r=2").factor_tensor("A").shape  # XA, XAB, YAB, AB
        torch.Size([8, 8, 8, 2])
        """
        step = next(step for step in self.plan.steps if step.factor == factor)
        stored = step.axes
        carried = self.sized.carriers_of(factor)
        axes = [stored.index(carriers) for carriers in carried if carriers in stored]
        tensor: Tensor = self.factors[factor].reshape([self.sized.size(carriers) for carriers in stored])
        return tensor.permute(axes).reshape([self.sized.size(carriers) for carriers in carried])

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features).

        Raises:
            LayerError: for another input width, dtype or device, or an input that is not floating-point.
        """
        if not is_plain(x):
            other = output_for(self, x, self.in_features)
            if other is not None:
                return other
            check_input(x, self.in_features, self.gain.dtype)
            return self._record(x)
        try:
            merging, has_grad = self._merging, _is_grad_enabled()
            if merging is None or has_grad:
                return self._contract(x, has_grad)
            kept = merging.weights
            # Not `self.bias`: nn.Module finds it only after a search of up to 1 µs.
            parameters = self._parameters
            if kept is None or is_any_autocast() or not merging.is_current(parameters):
                return self._infer_merged(x, merging)
            if "bias" in parameters:
                bias = parameters["bias"]
                if x.numel() <= kept.dense_limit:
                    if x.ndim == 2 and bias is not None:
                        return _addmm(bias, x, kept.transposed)
                    return _linear(x, kept.weight, bias)
                if kept.is_plain and x.ndim == 2 and x.shape[1] == self.in_features and not x.is_meta:
                    return kept.multiply(x, bias)
            return self._infer_merged(x, merging)
        except (RuntimeError, TypeError, AttributeError):
            nested = output_for(self, x, self.in_features)
            if nested is not None:
                return nested
            self._refuse_missing(self._factors())
            check_input(x, self.in_features, self.gain.dtype)
            check_parameters(x, self)
            raise

    def train(self, mode: bool = True) -> EinsumLinear:
        """Set the mode like any module; training ends what `merge` began, evaluation does not."""
        if mode:
            self._merging = None
        return super().train(mode)

    def extra_repr(self) -> str:
        """The arguments that made the layer, as `nn.Linear` shows them.

        >>> EinsumLinear(64, 64, "monarch")
        EinsumLinear(in_features=64, out_features=64, structure='XA^1/2 XAB^1/2 YB^1/2 YAB^1/2', bias=True)
        >>> EinsumLinear(64, 64, "dense", order="standard")
        EinsumLinear(in_features=64, out_features=64, structure='XA^1 YA^1', bias=True, order='XA/YA')
        """
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"structure={self._structure_text!r}, bias={self.bias is not None}{self._order_text}"
        )

    def _infer_merged(self, x: Tensor, merging: Merging) -> Tensor:
        """Compute without gradients as a merged layer, unless its parameters have changed since."""
        if not self.is_merged:
            self._merging = None
        if self._merging is not merging or x.is_meta:  # a scale on meta has no value
            return self._contract(x, has_grad=False)
        check_width(x, self.in_features)  # rows of another width may be reshaped, and there may be none
        autocast, kept = autocast_dtype(x), merging.weights
        if kept is None or kept.autocast is not autocast:
            call = Call(x.device.type, cast_dtype(self.gain, autocast), x.numel() // self.in_features)
            kept = KeptWeights(self.plan, self._factors(), self.gain, autocast, self._route_table(call, Use.merged))
            merging.weights = kept
        x, bias = cast(autocast, x, self._padded_bias(self.bias))
        y = kept.multiply(self.padded(x.reshape(-1, self.in_features)), bias)
        return self.cut(y).reshape(*x.shape[:-1], self.out_features)

    def _record(self, x: Tensor) -> Tensor:
        """The path of compilers, tracers and function transforms: the factors' own sequence unless a route is fixed."""
        dtype, route = autocast_dtype(x), self._route
        is_own = route is None or route.is_own
        is_operator = is_own and calls_operators() and not self.plan.is_dense
        factors = self._factors() if is_operator else self._scaled_factors()
        plan = self.plan if route is None else route.plan
        if not is_own:
            factors = merged_weights(self.plan, plan, factors)
        rows = self.padded(x.reshape(-1, self.in_features))
        rows, bias, *factors = cast(dtype, rows, self._padded_bias(self.bias), *factors)
        if is_operator:
            check_parameters(x, self)  # the compiler does not trace into an operator
            y = structured_linear(rows, self.gain, bias, factors, self._operator_name, _is_grad_enabled())[0]
        else:
            y = contract(plan, rows, factors)
            y = y if bias is None else y + bias
        return self.cut(y).reshape(*x.shape[:-1], self.out_features)

    def _contract(self, x: Tensor, has_grad: bool) -> Tensor:
        """Compute from the factors as they are now."""
        call, autocast = self._calls[has_grad], autocast_dtype(x) if is_any_autocast() else None
        if call is None or not call.serves(x, autocast):
            call = self._calls[has_grad] = self._resolve(x, autocast, has_grad)
        parameters, factors = self._parameters, self._factors()
        gain: Any
        bias: Any
        try:
            gain, bias = parameters["gain"], parameters["bias"]
        except KeyError:  # parametrized, pruned or sharded: computed from other parameters
            gain, bias = self.gain, self.bias
        x = unwrap_if_dead(x)
        if not call.is_plain:
            if not call.is_own:
                factors = scaled(gain, factors, self.plan.limits)
                factors, gain = merged_weights(self.plan, call.route.plan, factors), None
            x, bias = cast(autocast, self.padded(x), self._padded_bias(bias))
            if call.route.is_own or not call.is_own:  # a matrix that the executor forms is cast after that
                factors = cast(autocast, *factors)
        executor = call.executor
        y: Tensor = (
            execute(executor, x, gain, bias, *factors) if has_grad else executor.forward(x, gain, bias, factors)[0]
        )
        return y if call.is_plain else self.cut(y)

    def _resolve(self, x: Tensor, autocast: torch.dtype | None, has_grad: bool) -> Resolved:
        """Decide how inputs of this shape are computed."""
        check_width(x, self.in_features)
        call = Call(x.device.type, cast_dtype(self.gain, autocast), x.numel() // self.in_features)
        table = self._route_table(call, Use.training if has_grad else Use.inference)
        return resolved(x, call, self.plan, table.at(call.tokens), autocast)

    def _route_table(self, call: Call, use: Use) -> RouteTable:
        if self._route is not None:
            return RouteTable((1,), (self._route,))
        return route_table(self.sized, profile_for(call.device, _num_threads(), call.dtype), use)

    def _order_changed(self) -> None:
        """Derive everything that follows from the plan, and drop decisions of an earlier one."""
        # These are made beforehand, as compilers cannot follow their making.
        self._structure_text, self._order_text = str(self.structure), self._order_shown()
        self._operator_name = register_plan(self.plan)
        self.route = self.route

    def _scaled_factors(self) -> list[Tensor]:
        """The factors in the order in which they meet, the last one multiplied by the scale."""
        scale = scaled if is_first_order() else reference_scaled
        return scale(self.gain, self._factors(), self.plan.limits)

    def _apply(self, fn: Any, recurse: bool = True) -> EinsumLinear:
        """Move to another device or dtype; merged matrices and decisions are dropped."""
        self._merging, self._calls = None, [None, None]
        return super()._apply(fn, recurse)  # type: ignore[no-any-return,no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """The state of copies and pickles: not merged, and without what can be made again."""
        return {**super().__getstate__(), "_merging": None, "_calls": [None, None], "_route": self.route}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read pickles of versions without orders: their layers stay in the fast order, in which they were written."""
        parameters, buffers = WithoutWeight(state["_parameters"]), BuffersWithoutWeight(state["_buffers"])
        kept = {**state, "_route": None, "_merging": None, "_parameters": parameters, "_buffers": buffers}
        super().__setstate__(kept)
        self._order_changed()
        self.route = state["_route"]
