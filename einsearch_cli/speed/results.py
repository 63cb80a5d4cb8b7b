"""The measurements of a benchmark as plain values, and the figures derived from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from einsearch_cli.showing import Tabular
from einsearch_cli.speed.cases import Case


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Median and quartiles of one value per round.

        >>> Spread.of([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    @classmethod
    def of_ratios(cls, values: Sequence[float], others: Sequence[float]) -> Self:
        """Spread of the ratio in each round; a round that slows both down leaves the ratio unchanged.

        >>> Spread.of_ratios([1.0, 2.0, 30.0], [2.0, 4.0, 60.0]).median
        0.5
        """
        return cls.of([value / other for value, other in zip(values, others, strict=True)])


@dataclass(frozen=True, slots=True)
class Measurement:
    """One layer in one case, compared with `nn.Linear` and with its own bare matrix products.

    Times are seconds of one call; ratios are taken round by round.
    """

    name: str
    structure: str
    case: Case
    rounds: int
    params: int
    """Parameters of the factors; the dense layer's matrix has width²."""
    flops: int
    """FLOPs of the matrix products of one call, factor by factor: 2 × multiply-adds, three times that in training."""
    layer_s: Spread
    dense_s: Spread
    bare_s: Spread
    einsum_s: Spread | None
    vs_dense: Spread
    """Time of the layer divided by that of `nn.Linear`."""
    vs_bare: Spread
    """Time of the layer divided by that of its bare products."""
    vs_einsum: Spread | None
    """Time of the layer divided by that of one `torch.einsum` after another; measured only in decoding."""
    peak_bytes: int
    """Bytes of parameters and input, plus the most that a call holds in addition."""
    dense_peak_bytes: int

    @property
    def dense_flops(self) -> int:
        return 2 * self.case.mode.passes * self.case.tokens * self.case.width**2

    @property
    def theoretical_speedup(self) -> float:
        """FLOPs of the dense layer divided by those of this one."""
        return self.dense_flops / self.flops

    @property
    def speedup(self) -> float:
        """Time of the dense layer divided by that of this one."""
        return 1 / self.vs_dense.median

    @property
    def realised(self) -> float:
        """Speed-up as a share of the theoretical one."""
        return self.speedup / self.theoretical_speedup

    @property
    def gflops_per_s(self) -> float:
        """FLOPs along the factors divided by the median time, whatever route the layer took."""
        return self.flops / self.layer_s.median / 1e9

    def to_json(self) -> dict[str, Any]:
        """Measured and derived values as plain data."""
        fields = asdict(self)
        return {
            **{key: fields.pop(key) for key in ("name", "structure")},
            **fields.pop("case"),
            **fields,
            "dense_flops": self.dense_flops,
            "theoretical_speedup": self.theoretical_speedup,
            "speedup": self.speedup,
            "realised": self.realised,
            "gflops_per_s": self.gflops_per_s,
        }


@dataclass(frozen=True, kw_only=True)
class BenchResult(Tabular):
    """All measurements of one run."""

    measurements: tuple[Measurement, ...]
    settings: dict[str, Any]
    machine: dict[str, Any]
    elapsed_s: float
    complete: bool
    """False if the run was stopped before its last case."""

    def records(self) -> list[dict[str, Any]]:
        """One row per measurement: medians under their name, quartiles next to them."""
        rows = []
        for item in self.measurements:
            row: dict[str, Any] = {}
            for key, value in item.to_json().items():
                if isinstance(value, dict):
                    row |= {key: value["median"], f"{key}_low": value["low"], f"{key}_high": value["high"]}
                else:
                    row[key] = str(value) if isinstance(value, str) else value  # the mode is an enumeration
            rows.append(row)
        names = {name: None for row in rows for name in row}  # einsum is measured in decoding only
        return [names | row for row in rows]

    def to_json(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return {
            "machine": self.machine,
            "settings": self.settings,
            "elapsed_s": round(self.elapsed_s, 1),
            "complete": self.complete,
            "measurements": [item.to_json() for item in self.measurements],
        }
