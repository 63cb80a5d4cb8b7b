"""Speed of layers of experts on one thread, compared with running and masking all experts, and with bare products.

    python benchmarks/moe_speed.py [--quick] [--rounds 9] [--width 512] [--tokens 4096] [--top 2]

Candidates run in turn, round after round; processor time, medians, milliseconds.

  moe      StructuredMoE, router included
  all      every expert on every token (each one a chunked contraction), gates zero where not chosen
  single   the ungated structure on tokens · top rows: the experts' own arithmetic
  products its matrix products alone, on contiguous operands

Targets: moe grows by at most 1.35 from 4 to 32 experts; forward + backward is at most 0.45 of all at 8 experts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.moe import StructuredMoE

EXPERTS = (4, 8, 16, 32)
EXPERT_STRUCTURES = ("btt:r=1", "btt:r=2", "low-rank", "kronecker")


class AllExperts(nn.Module):
    """The masked computation: a layer that runs every expert on every token."""

    def __init__(self, layer: StructuredMoE) -> None:
        super().__init__()
        self.router = layer.router
        self.all = nn.ModuleList(
            EinsumLinear(layer.in_features, layer.out_features, layer.mixture.structure, bias=False)
            for _ in range(layer.mixture.experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        routing = self.router(x)
        gates = torch.zeros(x.shape[0], len(self.all)).scatter(1, routing.experts_TK, routing.gates_TK)
        y: Tensor = gates[:, :1] * self.all[0](x)
        for number in range(1, len(self.all)):
            y = torch.addcmul(y, gates[:, number : number + 1], self.all[number](x))
        return y


def step(layer: nn.Module, x: Tensor, backward: bool) -> Callable[[], None]:
    """A pass that makes new gradients, or none."""
    x = x.clone().requires_grad_(backward)
    y_grad = torch.randn_like(x)

    def run() -> None:
        if not backward:
            with torch.no_grad():
                layer(x)
            return
        x.grad = None
        layer.zero_grad(set_to_none=True)
        layer(x).backward(y_grad)

    return run


def products(layer: EinsumLinear, rows: int, backward: bool) -> Callable[[], None]:
    """The matrix products of a pass alone: B batch, R rows, K contracted, N new."""
    operands = []
    for part in layer.plan.steps:
        b, r, k, n = part.extents(rows)
        rows_BRK, weight_BKN, grad_BRN = torch.randn(b, r, k), torch.randn(b, k, n), torch.randn(b, r, n)
        operands.append((rows_BRK, weight_BKN))
        if backward:
            operands += [(grad_BRN, weight_BKN.transpose(1, 2)), (rows_BRK.transpose(1, 2), grad_BRN)]

    def run() -> None:
        for left, right in operands:
            torch.bmm(left, right)

    return run


def median_ms(candidates: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median processor time of each candidate over interleaved rounds, after a warm-up round."""
    times_ms: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            started_s = time.process_time()
            run()
            if number:
                times_ms[name].append(1e3 * (time.process_time() - started_s))
    return {name: statistics.median(values) for name, values in times_ms.items()}


def main() -> None:
    """Measure every structure and print one row for each number of experts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds")
    parser.add_argument("--width", type=int, default=512, help="input and output width")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a call")
    parser.add_argument("--top", type=int, default=2, help="experts of a token")
    parser.add_argument("--structures", nargs="*", default=EXPERT_STRUCTURES, help="structures of the experts")
    parser.add_argument("--quick", action="store_true", help="three rounds of one structure")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.structures = 3, EXPERT_STRUCTURES[:1]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(options.tokens, options.width)
    print(f"width {options.width}, {options.tokens} tokens, top {options.top}, torch {torch.__version__}, one thread")
    for structure in options.structures:
        for backward in (False, True):
            measure(structure, x, options.top, backward, options.rounds)


def measure(structure: str, x: Tensor, top: int, backward: bool, rounds: int) -> None:
    """One structure, forward or forward + backward."""
    single = EinsumLinear(x.shape[1], x.shape[1], structure, bias=False)
    many = x.repeat(top, 1)
    candidates = {"single": step(single, many, backward), "products": products(single, many.shape[0], backward)}
    for experts in EXPERTS:
        layer = StructuredMoE(x.shape[1], x.shape[1], f"{single.structure} moe:experts={experts},top={top}", bias=False)
        nn.init.normal_(layer.router.weight, std=x.shape[1] ** -0.5)
        candidates[f"moe {experts}"] = step(layer, x, backward)
        if experts == 8:
            candidates["all 8"] = step(AllExperts(layer), x, backward)
    ms = median_ms(candidates, rounds)
    what = "forward + backward" if backward else "forward"
    row = "  ".join(f"{name} {value:.1f}" for name, value in ms.items())
    print(
        f"{structure:<10} {what:<18} {row}  | 32/4 {ms['moe 32'] / ms['moe 4']:.2f}  "
        f"moe/all at 8 {ms['moe 8'] / ms['all 8']:.2f}  products/all {ms['products'] / ms['all 8']:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
