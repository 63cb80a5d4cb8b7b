"""Suggestions of structures for a layer of given dimensions and size, with costs and a recommendation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final, Literal

from einsearch_cli.advice.evidence import Evidence, Finding, matching
from einsearch_cli.errors import EinsearchError, SizeError
from einsearch_cli.layers.plans.machine_profile import MachineProfile
from einsearch_cli.layers.plans.planner import Use, best_route, predicted_ns
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.sizing.generic_rank import certified_rank
from einsearch_cli.structures import Structure, family_of, parse_structure, short_name
from einsearch_cli.structures.record import Record
from einsearch_cli.taxonomy import Bounds, Space, flops_per_token, survivors, taxonomy_of

Prefer = Literal["training", "decoding", "memory"]

LEAST_SHARE: Final = 0.75
"""The share of the wanted size from which on a structure counts as having it."""
_TUNED: Final = (
    "low-rank:r={}", "btt:r={}", "tt:r={}", "monarch:blocks={}", "block-shuffle:blocks={}", "block-dense:blocks=4,r={}",
    "block-dense:blocks=16,r={}",
)  # fmt: skip
"""Families with a parameter that determines the size."""
_FIXED: Final = ("monarch", "kronecker", "monarch:n=3", "kronecker:n=3")
"""Families without such a parameter."""
_GRID: Final = 4
_MOST_ENUMERATED: Final = 6
"""The number of structures from a grid that are suggested in addition to the families: the nearest in size."""
_TRAINED_BYTES: Final = 16
"""Bytes of a parameter in training with AdamW in float32: the number, its gradient and two moments."""
_RATIO: Final = 1.10
"""Predicted times within this factor count as equal, as the cost model is no better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(Record):
    """The statement of one study on a structure, or on another one of its family."""

    text: str
    source: str
    """File from which the evidence was made."""
    task: str
    structure: str
    """The structure that was studied."""
    same: bool
    """Whether the studied structure is the suggested one; if not, it is of the same family with other parameters."""
    gain: float | None
    """The yardstick's training FLOPs divided by the structure's at equal loss."""
    gain_low: float | None
    gain_high: float | None
    """95% interval."""
    confirmed: bool
    """Whether the gain comes from runs that had no part in any decision."""
    budget_flops: float | None
    widest: int
    """Width of the study's widest network."""
    at_this_scale: bool
    """Whether the layer is no wider than the networks of the study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion(Record):
    """A structure that has the wanted size."""

    structure: Structure
    name: str
    family: str
    omega: str
    psi: str
    nu: str
    params: int
    flops_per_token: int
    certified_rank: int
    """A lower bound of the rank of W for almost all factors."""
    rank_bound: int
    """An upper bound of the rank for any choice of factors."""
    training_us: float
    """Predicted time of a forward and backward pass of all tokens."""
    decoding_us: float
    """Predicted time of a forward pass of one token."""
    inference_bytes: int
    """Bytes of the parameters in float32."""
    training_bytes: int
    """Bytes of parameters, gradients, two moments and the activations of all tokens."""
    statements: tuple[Statement, ...] = ()

    @property
    def is_full_rank(self) -> bool:
        """Whether full rank is certified."""
        return self.certified_rank == self.rank_bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice(Record):
    """Suggestions for one layer, the best first, with the reasons."""

    d_in: int
    d_out: int
    wanted: str
    """The requested size, in words."""
    tokens: int
    prefer: str
    cost_model: str
    """Source of the constants behind predicted times."""
    calibrated: bool
    dense: Suggestion
    suggestions: tuple[Suggestion, ...]
    recommendation: str
    """The recommendation in plain words."""
    snippet: str
    """Python code that makes the layer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The size of a layer: parameters, or FLOPs per token."""

    number: float
    of: Literal["params", "flops"]
    words: str

    def size(self, sized: SizedStructure) -> int:
        """The size of a structure in the chosen unit."""
        return sized.params if self.of == "params" else flops_per_token(sized)


def advise(
    d_in: int,
    d_out: int,
    wanted: Wanted,
    evidence: Sequence[Evidence],
    profile: MachineProfile,
    *,
    tokens: int = 512,
    prefer: Prefer = "training",
) -> Advice:
    """Structures of a size with costs and evidence, best first.

    Structures whose certified rank is at least half of the highest one come first. Among these, predicted time or bytes
    decide, as `prefer` says; among practically equal predicted times, the evidence decides.

    Args:
        d_in, d_out: dimensions of the layer.
        wanted: its size.
        evidence: results of studies.
        profile: constants of the cost model.
        tokens: tokens of a training step.
        prefer: the quality that matters most.

    Raises:
        SizeError: no structure has that size; the message names the nearest sizes.
    """
    dense = _suggestion(parse_structure("dense").at(d_in, d_out), tokens, profile)
    found: list[tuple[int, SizedStructure]] = []
    others: list[tuple[int, SizedStructure]] = []
    for sized in _candidates(d_in, d_out, wanted):
        size = wanted.size(sized)
        (found if LEAST_SHARE * wanted.number <= size <= wanted.number else others).append((size, sized))
    if not found:
        raise _nothing(wanted, others, d_in, d_out)
    unique: dict[frozenset[tuple[str, int]], SizedStructure] = {}
    for _, item in found:  # families that are one structure at these sizes are listed once
        unique.setdefault(frozenset((carriers, size) for carriers, size in item.sizes if size > 1), item)
    suggestions = [
        replace(made, statements=tuple(_statements(made, evidence, max(d_in, d_out))))
        for made in (_suggestion(sized, tokens, profile) for sized in unique.values())
    ]
    ordered = _ordered(suggestions, prefer)
    calibrated = "default" not in profile.source
    return Advice(
        d_in=d_in,
        d_out=d_out,
        wanted=wanted.words,
        tokens=tokens,
        prefer=prefer,
        cost_model=profile.source,
        calibrated=calibrated,
        dense=dense,
        suggestions=tuple(ordered),
        recommendation=_recommendation(ordered, dense, prefer, tokens, calibrated),
        snippet=_snippet(ordered[0], d_in, d_out),
    )


def _candidates(d_in: int, d_out: int, wanted: Wanted) -> Iterator[SizedStructure]:
    """Families at the parameter whose size is nearest from below, families without a parameter, and a grid."""
    for text in _TUNED:
        yield from _tuned(text, d_in, d_out, wanted)
    for text in _FIXED:
        yield from _at(parse_structure(text), d_in, d_out)
    families = {parse_structure(text) for text in _FIXED}
    space = Space(_GRID, 2, Bounds(Fraction(1, 2)))
    grid = [(abs(math.log(_rough_size(s, d_in, d_out, wanted) / wanted.number)), s) for s in survivors(space)]
    near = sorted((away, str(s), s) for away, s in grid if s not in families and family_of(s) != "dense")
    for _, _, structure in near[:_MOST_ENUMERATED]:
        yield from _at(structure, d_in, d_out)


def _at(structure: Structure, d_in: int, d_out: int) -> Iterator[SizedStructure]:
    """The structure at these dimensions, if it has sizes without padding."""
    try:
        sized = structure.at(d_in, d_out)
    except EinsearchError:
        return
    if sized.padding is None:
        yield sized


def _rough_size(structure: Structure, d_in: int, d_out: int, wanted: Wanted) -> float:
    """Parameters, or FLOPs, of the exact extents: finding integers would take a hundred times as long."""
    base = {"X": d_in, "Y": d_out}
    sizes = {
        carriers: extent.at(next((base[tensor] for tensor in "XY" if tensor in carriers), min(base.values())))
        for carriers, extent in structure.indices
    }
    params = sum(math.prod(size for carriers, size in sizes.items() if f in carriers) for f in structure.factors)
    return params if wanted.of == "params" else 2 * params


def _tuned(text: str, d_in: int, d_out: int, wanted: Wanted) -> Iterator[SizedStructure]:
    """The family at the parameter with the largest size up to the wanted one, and at the one before; by bisection.

    Parameters fit hardware: all numbers up to 8, then multiples of 8.
    """
    numbers = [*range(1, 8), *range(8, min(d_in, d_out) + 1, 8)]
    if text.startswith("block-dense"):  # blocks divide the rank
        numbers = list(range(16, min(d_in, d_out) + 1, 16))
    if "blocks={}" in text:
        numbers = [n for n in range(2, min(d_in, d_out) + 1) if d_in % n == 0 and d_out % n == 0]
    sized: dict[int, SizedStructure | None] = {}

    def at(place: int) -> SizedStructure | None:
        if place not in sized:
            sized[place] = next(_at(parse_structure(text.format(numbers[place])), d_in, d_out), None)
        return sized[place]

    def size(place: int) -> float:
        found = at(place)
        return math.inf if found is None else wanted.size(found)

    if not numbers:
        return
    if "blocks={}" in text:  # block-shuffle shrinks with the number of blocks; monarch is smallest in the middle
        fitting = [(size(place), place) for place in range(len(numbers))]
        best = max((item for item in fitting if item[0] <= wanted.number), default=None)
        place = min(fitting)[1] if best is None else best[1]
    else:
        low, high = 0, len(numbers) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if size(middle) <= wanted.number else (low, middle - 1)
        place = low
    if (found := at(place)) is not None:
        yield found


def _suggestion(sized: SizedStructure, tokens: int, profile: MachineProfile) -> Suggestion:
    structure, known = sized.structure, taxonomy_of(sized.structure)
    rank, bound = certified_rank(sized)
    training, decoding = (best_route(sized, n, profile, use) for n, use in _calls(tokens))
    (n, use), (one, alone) = _calls(tokens)
    activations = tokens * sum(training.plan.widths[:-1])
    return Suggestion(
        structure=structure,
        name=short_name(structure),
        family=family_of(structure),
        omega=str(known.omega),
        psi=str(known.psi),
        nu=str(known.nu),
        params=sized.params,
        flops_per_token=flops_per_token(sized),
        certified_rank=rank,
        rank_bound=min(bound, sized.d_in, sized.d_out),
        training_us=predicted_ns(sized, training, n, profile, use) / 1e3,
        decoding_us=predicted_ns(sized, decoding, one, profile, alone) / 1e3,
        inference_bytes=4 * sized.params,
        training_bytes=_TRAINED_BYTES * sized.params + 4 * activations,
    )


def _calls(tokens: int) -> tuple[tuple[int, Use], tuple[int, Use]]:
    return (tokens, Use.training), (1, Use.inference)


def _ordered(suggestions: Sequence[Suggestion], prefer: Prefer) -> list[Suggestion]:
    """Suggestions, the best first; see `advise`."""
    highest = max(item.certified_rank for item in suggestions)

    def cost(item: Suggestion) -> float:
        costs = {"training": item.training_us, "decoding": item.decoding_us, "memory": float(item.training_bytes)}
        return costs[prefer]

    first = [item for item in suggestions if 2 * item.certified_rank >= highest]
    rest = [item for item in suggestions if 2 * item.certified_rank < highest]
    first.sort(key=cost)
    rest.sort(key=lambda item: (-item.certified_rank, cost(item)))
    equal = [item for item in first if cost(item) <= _RATIO * cost(first[0])]
    equal.sort(key=lambda item: -_least_gain(item))  # the sort is stable: the cheaper first if nothing is known
    return [*equal, *first[len(equal) :], *rest]


def _least_gain(item: Suggestion) -> float:
    """The highest lower end of the gains measured for this very structure; 0 if there is none."""
    return max((s.gain_low for s in item.statements if s.same and s.gain_low is not None), default=0.0)


def _statements(item: Suggestion, evidence: Sequence[Evidence], width: int) -> Iterator[Statement]:
    """Each study's statement on this very structure, or else on the best one of its family."""
    for study in evidence:
        found = list(matching([study], item.structure))
        if not found:
            continue
        _, finding, same = max(found, key=lambda match: (match[2], _gain_of(match[1])))
        yield _statement(study, finding, same, width)


def _gain_of(finding: Finding) -> float:
    return finding.gain[0] if finding.gain else 0.0


def _statement(study: Evidence, finding: Finding, same: bool, width: int) -> Statement:
    """A statement in words and numbers; `width` is the larger dimension of the layer."""
    gain, low, high = finding.gain or (None, None, None)
    subject = f"{short_name(finding.structure)}{'' if same else ' (the family with another parameter)'}"
    against = short_name(study.yardstick)
    if gain is None:
        said = f"{subject}: no gain over {against} was measured, verdict {finding.verdict!r}"
    else:
        interval = (
            f" (95% interval {low:.2f} to {high:.2f})" if low is not None and high is not None else ", no interval"
        )
        kind = "confirmed by new seeds" if finding.confirmed_gain is not None else "not confirmed"
        said = f"{subject}: gain over {against} {gain:.2f} in training FLOPs{interval}, {kind}"
    budget = "" if finding.budget_flops is None else f", {finding.budget_flops:.2g} FLOPs a run"
    fits = width <= study.most_width
    here = "" if fits else f": no evidence at this scale, as this layer is {width:,} wide"
    text = f"{said}; task {study.task}{budget}, widths {study.least_width} to {study.most_width}{here} [{study.source}]"
    return Statement(
        text=text,
        source=study.source,
        task=study.task,
        structure=str(finding.structure),
        same=same,
        gain=gain,
        gain_low=low,
        gain_high=high,
        confirmed=finding.confirmed_gain is not None,
        budget_flops=finding.budget_flops,
        widest=study.most_width,
        at_this_scale=fits,
    )


def _recommendation(
    ordered: Sequence[Suggestion], dense: Suggestion, prefer: Prefer, tokens: int, calibrated: bool
) -> str:
    best = ordered[0]
    if best.certified_rank == dense.certified_rank:
        rank = "full rank"
    else:
        rank = "rank" if best.is_full_rank else f"at most {best.rank_bound:,} and certified at least"
        rank = rank if best.is_full_rank else f"a rank of {rank}"
    sentences = [
        f"Take {best.name}: {rank} {best.certified_rank:,}, {best.params / dense.params:.1%} of the parameters of a dense layer "
        f"and {best.flops_per_token / dense.flops_per_token:.1%} of its FLOPs."
    ]
    measured = {
        "training": (best.training_us, dense.training_us, f"a training step of {tokens:,} tokens"),
        "decoding": (best.decoding_us, dense.decoding_us, "a forward pass of one token"),
        "memory": (best.training_bytes, dense.training_bytes, f"the memory of training on {tokens:,} tokens"),
    }
    ours, theirs, what = measured[prefer]
    sentences.append(
        f"Of the structures of this size and rank it is predicted to be best at {what}: {ours / theirs:.2f} of dense's."
    )
    if prefer != "memory" and not calibrated:
        sentences.append(
            "Times are those of the default cost model: `einsearch bench --calibrate` measures this machine."
        )
    own = [s for s in best.statements if s.same and s.gain is not None]
    if not own:
        sentences.append("No study here has measured this structure.")
    elif not any(s.at_this_scale for s in own):
        widest = max(s.widest for s in own)
        sentences.append(f"There is no evidence at this scale: the widest network that was studied has width {widest}.")
    else:
        sentences.append("Studies at this scale are listed with it.")
    return " ".join(sentences)


def _snippet(best: Suggestion, d_in: int, d_out: int) -> str:
    return f'from einsearch_cli import EinsumLinear\n\nlayer = EinsumLinear({d_in}, {d_out}, "{best.name}")'


def _nothing(wanted: Wanted, others: Sequence[tuple[int, SizedStructure]], d_in: int, d_out: int) -> SizeError:
    below = max((item for item in others if item[0] <= wanted.number), key=lambda item: item[0], default=None)
    above = min((item for item in others if item[0] > wanted.number), key=lambda item: item[0], default=None)
    near = [f"{short_name(item[1].structure)} has {item[0]:,}" for item in (below, above) if item is not None]
    unit = "parameters" if wanted.of == "params" else "FLOPs per token"
    option = "--params" if wanted.of == "params" else "--flops"
    nearest = below or above
    return SizeError(
        f"no structure of {d_in} × {d_out} has {wanted.words}, or down to {LEAST_SHARE:.0%} of it; in {unit}, "
        f"{' and '.join(near) or 'none fits without padding'}",
        remedy="give dimensions with more divisors" if nearest is None else f"{option} {nearest[0]}",
    )


def to_plain(advice: Advice) -> dict[str, Any]:
    """Plain values for JSON; structures as text."""
    document = advice.to_json()
    for row, item in zip(
        (document["dense"], *document["suggestions"]), (advice.dense, *advice.suggestions), strict=True
    ):
        row["structure"] = str(item.structure)
    return document
