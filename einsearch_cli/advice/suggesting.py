"""Suggestions of structures for a layer of given dimensions and size, with costs and a recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from einsearch_cli.advice.candidates import Wanted, structures_of_size
from einsearch_cli.advice.evidence import Evidence
from einsearch_cli.advice.statements import Statement, statements_on
from einsearch_cli.layers.plans.machine_profile import MachineProfile
from einsearch_cli.layers.plans.planner import Use, best_route, predicted_ns
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.sizing.generic_rank import certified_rank
from einsearch_cli.structures import Structure, family_of, parse_structure, short_name
from einsearch_cli.structures.record import Record
from einsearch_cli.taxonomy import flops_per_token, taxonomy_of

Prefer = Literal["training", "decoding", "memory"]

_TRAINED_BYTES: Final = 16
"""Bytes of a parameter in training with AdamW in float32: the number, its gradient and two moments."""
_RATIO: Final = 1.10
"""Predicted times within this factor count as equal, as the cost model is no better."""


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
    decide, as `prefer` says; among practically equal ones, the evidence decides.

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
    suggestions = [
        replace(made, statements=tuple(statements_on(made.structure, evidence, d_in, d_out)))
        for made in (_suggestion(sized, tokens, profile) for sized in structures_of_size(d_in, d_out, wanted))
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
    equal.sort(key=_doubts)  # the sort is stable: the cheaper first if nothing is known
    return [*equal, *first[len(equal) :], *rest]


def _doubts(item: Suggestion) -> tuple[bool, float]:
    """Sort key by the studies of this very structure: without intervals below 1 first, then by the lower end."""
    own = [s for s in item.statements if s.same]
    return any(s.is_contrary for s in own), -min((s.gain_low for s in own if s.gain_low is not None), default=0.0)


def _recommendation(
    ordered: Sequence[Suggestion], dense: Suggestion, prefer: Prefer, tokens: int, calibrated: bool
) -> str:
    best = ordered[0]
    if best.certified_rank == dense.certified_rank:
        rank = "full rank"
    else:
        rank = "rank" if best.is_full_rank else f"a rank of at most {best.rank_bound:,} and certified at least"
    take = (
        f"{best.name}: {rank} {best.certified_rank:,}, {best.params / dense.params:.1%} of the parameters of a dense "
        f"layer and {best.flops_per_token / dense.flops_per_token:.1%} of its FLOPs."
    )
    what = "a forward pass of one token" if prefer == "decoding" else f"a training step of {tokens:,} tokens"
    times = [
        round(s.decoding_us / dense.decoding_us if prefer == "decoding" else s.training_us / dense.training_us, 2)
        for s in ordered
    ]
    time = f"{times[0]:.2f} times dense's time{': slower than dense' if times[0] > 1 else ''}."
    if prefer == "memory":
        memory = round(best.training_bytes / dense.training_bytes, 2)
        sentences = [
            f"Take {take}",
            f"Of the structures of this size and rank it is best at the memory of training on {tokens:,} tokens: "
            f"{memory:.2f} times dense's memory{': more than dense' if memory > 1 else ''}.",
            f"It is predicted to take {time}",
        ]
    else:
        keep = f"Keep dense: no structure of this size is predicted to be faster at {what}. For fewer parameters take "
        sentences = [
            f"{keep if min(times) >= 1 else 'Take '}{take}",
            f"Of the structures of this size and rank it is predicted to be best at {what}: {time}",
        ]
    if not calibrated:
        sentences.append(
            "Times are those of the default cost model: `einsearch bench --calibrate` measures this machine."
        )
    return " ".join((*sentences, *_studies(best)))


def _studies(best: Suggestion) -> list[str]:
    """Sentences on the studies of the structure, or of its family; at this scale, or else at other ones."""
    measured = [s for s in best.statements if s.gain is not None]
    own = [s for s in measured if s.same]
    near = [s for s in own or measured if s.at_this_scale]
    if not own:
        said = "No study here has measured this structure."
    elif near:
        said = "Studies at this scale are listed with it."
    else:
        widths = f"widths {min(s.narrowest for s in own):,} to {max(s.widest for s in own):,}"
        said = f"There is no evidence at this scale: the networks that were studied have {widths}."
    studies = near or own or measured
    contrary = [s for s in studies if s.is_contrary]
    if not contrary:
        return [said]
    whose = "its gain" if own else "the gain of the nearest structure of its family"
    return [
        said,
        f"Evidence speaks against it: the interval of {whose} lies below 1 in {len(contrary)} of {len(studies)} studies "
        f"at {'this scale' if near else 'other scales'}, so the yardstick reached the same loss with fewer training "
        f"FLOPs; {sum(s.verdict == 'worse' for s in contrary)} of them call it worse.",
    ]


def _snippet(best: Suggestion, d_in: int, d_out: int) -> str:
    return f'from einsearch_cli import EinsumLinear\n\nlayer = EinsumLinear({d_in}, {d_out}, "{best.name}")'


def to_plain(advice: Advice) -> dict[str, Any]:
    """Plain values for JSON; structures as text."""
    document = advice.to_json()
    for row, item in zip(
        (document["dense"], *document["suggestions"]), (advice.dense, *advice.suggestions), strict=True
    ):
        row["structure"] = str(item.structure)
    return document
