"""The choice of the executor for a plan in a call; no other place chooses one.

Some calls need none: merged layers multiply by the dense matrix that they keep (`merged`), compilers, tracers and
function transforms get operators or the reference (`EinsumLinear._record`), and experts have their own (`moe.grouped`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from einsearch_cli.layers.execution.cpu import CpuExecutor
from einsearch_cli.layers.execution.dense import DenseExecutor
from einsearch_cli.layers.execution.executor import Executor
from einsearch_cli.layers.execution.gpu import GpuExecutor
from einsearch_cli.layers.plans.machine_profile import profile_for
from einsearch_cli.layers.plans.plan import Call, Plan
from einsearch_cli.layers.plans.planner import Route

_num_threads = torch.get_num_threads


@lru_cache(maxsize=4096)
def executor_for(plan: Plan, call: Call, stored: Plan | None = None) -> Executor:
    """The executor of a plan for calls of this kind.

    With `stored`, the layer's own plan, the executor may take the factors of that plan instead of those of `plan`, which
    are products of them; its `takes_stored` says so. On a CPU, such an executor forms the dense matrix.
    """
    if stored is not None and plan.is_dense and call.is_cpu:
        return _dense_executor(stored, plan)
    # The first such call decides: chunks suit one core, whatever number of threads there is later.
    profile = profile_for(call.device, _num_threads(), call.dtype)
    plan = plan.at(call.tokens, profile.token_major)
    return CpuExecutor(plan, call.tokens, profile.chunks) if call.is_cpu else GpuExecutor(plan, call.tokens)


_dense_executor = lru_cache(maxsize=1024)(DenseExecutor)
"""The dense executor, which serves all numbers of tokens."""


class Resolved(NamedTuple):
    """The decisions of a layer at a call, for the next inputs of the same shape; nothing here is made from values."""

    shape: torch.Size
    """The shape of the input, before padding."""
    is_cpu: bool
    threads: int
    autocast: torch.dtype | None
    route: Route
    is_own: bool
    """Whether the executor takes the layer's own factors, and scales them itself."""
    is_plain: bool
    """Whether it also takes input, bias and factors unchanged, without padding or casts."""
    executor: Executor

    def serves(self, x: Tensor, autocast: torch.dtype | None) -> bool:
        """Whether the decisions also hold for this input: nothing that matters has changed."""
        return (
            x.shape == self.shape
            and x.is_cpu is self.is_cpu
            and self.threads == _num_threads()
            and self.autocast is autocast
        )


def resolved(x: Tensor, call: Call, own: Plan, route: Route, autocast: torch.dtype | None) -> Resolved:
    """The decisions for inputs like `x` (..., in_features) of a layer whose plan is `own`."""
    sized, executor = own.sized, executor_for(route.plan, call, own)
    is_own = route.is_own or executor.takes_stored
    is_plain = is_own and autocast is None and (own.padded_in, own.padded_out) == (sized.d_in, sized.d_out)
    return Resolved(x.shape, x.is_cpu, _num_threads(), autocast, route, is_own, is_plain, executor)
