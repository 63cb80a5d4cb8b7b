"""Accelerators from their makers' data sheets, and estimates of a training run's memory and time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from einsearch_cli.errors import SpecError, near_name
from einsearch_cli.layers.plans.plan import factor_roles
from einsearch_cli.models.counts import TRAINING_TO_FORWARD
from einsearch_cli.models.transformer.accounting import matrices, transformer_count
from einsearch_cli.models.transformer.config import TransformerConfig
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import MixtureOfExperts
from einsearch_cli.taxonomy import meeting_order

Precision = Literal["float32", "bfloat16"]
"""float32 everywhere, or matrix products in bfloat16 (autocast) with float32 weights."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """An accelerator with its memory and peak speed."""

    name: str
    bfloat16_flops: float
    """Peak FLOP/s of dense matrix products in bfloat16, summed in float32, without structured sparsity."""
    float32_flops: float
    """Peak FLOP/s in full float32, as torch computes by default (not TensorFloat-32)."""
    memory_bytes: float

    def peak_flops(self, precision: Precision) -> float:
        """Peak FLOP/s in this precision."""
        return self.bfloat16_flops if precision == "bfloat16" else self.float32_flops


_TERA, _GB = 1e12, 1e9

ACCELERATORS: Final = {
    key: Accelerator(name, bfloat16 * _TERA, float32 * _TERA, memory * _GB)
    for key, name, bfloat16, float32, memory in (
        ("a100", "NVIDIA A100 SXM 80 GB", 312, 19.5, 80),
        ("a100-40gb", "NVIDIA A100 SXM 40 GB", 312, 19.5, 40),
        ("h100", "NVIDIA H100 SXM", 989, 67, 80),
        ("h200", "NVIDIA H200 SXM", 989, 67, 141),
        ("l4", "NVIDIA L4", 121, 30.3, 24),
        ("l40s", "NVIDIA L40S", 362, 91.6, 48),
        ("rtx4090", "NVIDIA GeForce RTX 4090", 165, 82.6, 24),
        ("mi300x", "AMD Instinct MI300X", 1307, 163, 192),
    )
}


def accelerator(name: str) -> Accelerator:
    """The accelerator of this name.

    Raises:
        SpecError: not in the table.

    >>> accelerator("h100").peak_flops("bfloat16")
    989000000000000.0
    >>> accelerator("h1000")
    Traceback (most recent call last):
    ...
    einsearch_cli.errors.SpecError: no accelerator 'h1000' in the table
    try: use 'h100'; all are a100, a100-40gb, h100, h200, l4, l40s, rtx4090, mi300x
    """
    if name in ACCELERATORS:
        return ACCELERATORS[name]
    near = near_name(name, ACCELERATORS)
    known = f"all are {', '.join(ACCELERATORS)}"
    raise SpecError(f"no accelerator {name[:40]!r} in the table", remedy=f"use {near!r}; {known}" if near else known)


UTILISATION: Final = 0.4
"""Assumed share of the peak FLOP/s that training reaches; published runs of dense models reached 0.21 to 0.46
(Chowdhery et al. 2022, arXiv 2204.02311, table 3)."""

_FLOAT, _HALF = 4, 2
_ADAMW_STATE: Final = 2 * _FLOAT
"""Bytes of AdamW's two moments, for each parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes and seconds of one device, without the allocator's gaps and the library's scratch memory."""

    weights_bytes: int
    """The weights in float32, plus the copies that autocast makes of them in bfloat16."""
    gradients_bytes: int
    moments_bytes: int
    """The optimizer's state."""
    activations_bytes: int
    """Activations kept for the backward pass at the end of the forward pass of one batch, logits included."""
    device_bytes: float
    flops: float
    """FLOPs of the whole run, on all devices."""
    utilisation: float
    seconds: float

    @property
    def total_bytes(self) -> int:
        """All memory together."""
        return self.weights_bytes + self.gradients_bytes + self.moments_bytes + self.activations_bytes

    @property
    def fits(self) -> bool:
        """Whether the memory of the device is enough."""
        return self.total_bytes <= self.device_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain data, with sums."""
        return {**asdict(self), "total_bytes": self.total_bytes, "fits": self.fits}


def estimate(
    config: TransformerConfig,
    device: Accelerator,
    *,
    tokens: float,
    batch: int,
    precision: Precision = "bfloat16",
    recompute: bool = False,
    devices: int = 1,
    shards: int = 1,
    extra_params: int = 0,
    state_bytes: int | None = None,
    flops: float | None = None,
    utilisation: float = UTILISATION,
) -> Estimate:
    """Estimate the memory per device and the duration of a training run.

    Args:
        config: the transformer's config.
        device: the accelerator.
        tokens: tokens of the whole run.
        batch: rows of `config.context` tokens that one device holds at once; of gradient
            accumulation, one part.
        precision: precision of the matrix products.
        recompute: whether activations inside blocks are computed again in the backward pass.
        devices: number of devices that share the tokens.
        shards: number of devices that share weights, gradients and moments (FSDP).
        extra_params: further trained parameters, such as a guide's.
        state_bytes: the optimizer's state for all parameters; by default the two moments of AdamW.
        flops: training FLOPs of the run, where they are not 3 × forward (4 × for recomputed blocks).
        utilisation: assumed share of the peak FLOP/s.

    Raises:
        SpecError: a utilisation outside (0, 1], or a number below 1.

    >>> from einsearch_cli.models.transformer.resources import accelerator
    >>> from einsearch_cli.models.transformer.presets import preset
    >>> found = estimate(preset("xl"), accelerator("h100"), tokens=26e9, batch=4)
    >>> round(found.seconds / 3600), found.fits
    (151, True)
    """
    if not 0 < utilisation <= 1:
        raise SpecError(
            f"a utilisation of {utilisation:g}: it is a share of the peak, above 0 and at most 1",
            remedy=f"give {UTILISATION} or a measured share",
        )
    for name, number in (("batch", batch), ("devices", devices), ("shards", shards), ("tokens", tokens)):
        if not number >= 1:
            raise SpecError(f"{name} {number}: at least 1 is needed", remedy=f"give a positive number of {name}")
    count = transformer_count(config)
    trained = count.params + extra_params
    params, state = (
        -(-number // shards) for number in (trained, _ADAMW_STATE * trained if state_bytes is None else state_bytes)
    )
    copies = _HALF if precision == "bfloat16" else 0
    of_token = TRAINING_TO_FORWARD * count.flops.total + recompute * count.flops.body
    run_flops = tokens * of_token if flops is None else flops
    return Estimate(
        weights_bytes=params * (_FLOAT + copies),
        gradients_bytes=params * _FLOAT,
        moments_bytes=state,
        activations_bytes=_activation_bytes(config, batch * config.context, precision, recompute),
        device_bytes=device.memory_bytes,
        flops=run_flops,
        utilisation=utilisation,
        seconds=run_flops / (device.peak_flops(precision) * utilisation * devices),
    )


def _activation_bytes(config: TransformerConfig, tokens: int, precision: Precision, recompute: bool) -> int:
    """Bytes of the activations that are alive when the backward pass starts.

    Per block: the input of both norms, in float32. In the precision of the products: the inputs of all linear layers,
    queries, keys and values after the rotation, what the activation function needs, and the intermediates of structured
    layers, which a GPU keeps. With recomputation: the input of every block, and one block in full.
    """
    itemsize = _HALF if precision == "bfloat16" else _FLOAT
    hidden_tensors = 4 if config.activation == "swiglu" else 2
    products = 2 * config.width + 2 * config.attention_width + 2 * config.kv_width + hidden_tensors * config.hidden
    between = _intermediates(config) // config.layers
    block = 2 * config.width * _FLOAT + (products + between) * itemsize
    blocks = config.layers * config.width * _FLOAT + block if recompute else config.layers * block
    # logits, their logarithms and their gradient
    logits = config.vocabulary * (itemsize + 2 * _FLOAT)
    return tokens * (blocks + logits + config.width * (_FLOAT + itemsize))


def _intermediates(config: TransformerConfig) -> int:
    """Numbers per token between the factors of structured layers; experts keep none."""
    return sum(
        _between(matrix.layer.at(matrix.d_in, matrix.d_out))
        for _, matrix in matrices(config)
        if matrix.layer is not None and not isinstance(matrix.layer, MixtureOfExperts)
    )


def _between(sized: SizedStructure) -> int:
    """The sum of the activation's widths after every factor but the last."""
    roles = factor_roles(sized, meeting_order(sized))[:-1]
    return sum(math.prod(map(sized.size, (*role.batch, *role.kept, *role.new))) for role in roles)
