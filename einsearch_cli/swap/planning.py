"""Plan a swap: which linear layers are replaced, at what cost, and which stay and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torch import nn

from einsearch_cli.errors import EinsearchError, LayerError
from einsearch_cli.structures import LayerSpec, MixtureOfExperts, parse_layer
from einsearch_cli.swap.finding import DenseLayer, Holders, Site, find_sites, parameter_holders
from einsearch_cli.swap.references import plain_references, unreachable
from einsearch_cli.swap.report import Costs, Kept, Swap, SwapReport
from einsearch_cli.swap.weights import kept_weights
from einsearch_cli.taxonomy import layer_costs

Filter = Callable[[DenseLayer, str], bool]
"""A function of a linear layer and its name that says whether to swap it."""


def plan_swaps(
    model: nn.Module, structure: LayerSpec | str | Mapping[str, LayerSpec], filter: Filter | None = None
) -> SwapReport:
    """Plan what `swap_linear` would do, without doing it; arguments and errors are the same.

    The structure may be a mapping from names of layers; other layers stay unchanged.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> plan = plan_swaps(model, "low-rank:r=8", lambda layer, name: layer.in_features == layer.out_features)
    >>> [swap.name for swap in plan.replaced], plan.skipped
    (['0'], {'2': 'filter said no'})
    """
    several = structure if isinstance(structure, Mapping) else {}
    structure = parse_layer(structure) if isinstance(structure, str) else structure
    if isinstance(structure, Mapping):
        structure = max(several.values(), key=list(several.values()).count, default=parse_layer("dense"))
    if isinstance(structure, MixtureOfExperts) and structure.feed_forward:
        raise LayerError(
            f"{structure} replaces whole feed-forward networks: swap_linear replaces single linear layers",
            remedy=f"use dense-moe:experts={structure.experts},top={structure.top}, or FeedForwardMoE in the model's code",
        )
    sites, head = find_sites(model), _output_layer(model)
    reasons: dict[str, str] = {}
    candidates: dict[Site, Swap] = {}
    for site in sites:
        wanted = several.get(site.name) if several else structure
        reason = site.reason or _filtered(site, filter, head)
        found = reason or ("it stays as it is" if wanted is None else _sized(site, wanted))
        if several and isinstance(found, Swap):
            found = replace(found, structure=wanted)
        if isinstance(found, Swap):
            candidates[site] = found
        else:
            reasons[site.name] = found
    reasons |= _drop_shared_with_others(candidates, parameter_holders(model))
    replaced = _with_ties(candidates)
    skipped = {site.name: reasons[site.name] for site in sites if site.name in reasons}
    kept = _kept(model, {site.name: site for site in sites}, replaced)
    costs = _model_costs(model, structure, replaced, kept)
    return SwapReport(structure, False, replaced, skipped, costs, kept, unreachable(model, plain_references(model)))


def _output_layer(model: nn.Module) -> nn.Module | None:
    """The output layer, according to a model of transformers."""
    name = getattr(model, "get_output_embeddings", None)
    return name() if callable(name) else None


def _filtered(site: Site, filter: Filter | None, head: nn.Module | None) -> str | None:
    if filter is None:  # as adapters and quantisers do
        return "it is the output layer, which only a filter replaces" if site.holder is head else None
    try:
        wanted = filter(site.shown, site.name)
    except Exception as error:
        error.add_note(f"raised by the filter for {site.name}, {site.in_features} -> {site.out_features}")
        raise
    return None if wanted else "filter said no"


def _sized(site: Site, structure: LayerSpec) -> Swap | str:
    """The swap of one layer, or the reason why the structure does not fit it."""
    if site.experts > 1 and isinstance(structure, MixtureOfExperts):
        return "its matrices are experts already, which cannot be mixtures of experts"
    try:
        after = layer_costs(structure, site.in_features, site.out_features)
    except EinsearchError as error:
        return error.problem
    dense = site.in_features * site.out_features * site.experts
    costs = Costs(dense, after.params * site.experts, site.flops, after.flops_per_token * site.top)
    return Swap(
        site.name, site.kind, site.aliases, None, site.in_features, site.out_features, costs, experts=site.experts
    )


def _drop_shared_with_others(candidates: dict[Site, Swap], holders: Holders) -> dict[str, str]:
    """Remove candidates that share a parameter with a module that stays; returns reasons by name."""
    dropped: dict[str, str] = {}
    while found := next(_shared_with_others(candidates, holders), None):
        site, reason = found
        dropped[candidates.pop(site).name] = reason
    return dropped


def _shared_with_others(candidates: dict[Site, Swap], holders: Holders) -> Iterator[tuple[Site, str]]:
    """Candidates with a parameter that another module uses, and will not use in the same way after the swap."""
    converted = {site.holder: site for site in candidates}
    for site in candidates:
        for slot, parameter in site.holder._parameters.items():
            for other, name, other_slot in holders[parameter] if parameter is not None else ():
                twin = converted.get(other)
                # A Conv1D's weight is the transpose of a linear layer's, so the two cannot share factors.
                if twin is None or other_slot != slot or (twin.kind == "Conv1D") != (site.kind == "Conv1D"):
                    yield site, f"{slot} is shared with {name or 'the model itself'}"


def _with_ties(candidates: dict[Site, Swap]) -> tuple[Swap, ...]:
    """The swaps, with `tied_to` set if an earlier layer has the same weight."""
    first: dict[tuple[nn.Parameter | None, str], str] = {}
    swaps = []
    for site, swap in candidates.items():
        # Three projections of an attention lie in one packed weight without being tied.
        part = "" if site.weight_slot == "weight" else site.name
        owner = first.setdefault((site.weight, part), swap.name)
        swaps.append(replace(swap, tied_to=None if owner == swap.name else owner))
    return tuple(swaps)


def _kept(model: nn.Module, sites: dict[str, Site], replaced: tuple[Swap, ...]) -> tuple[Kept, ...]:
    taken: dict[nn.Parameter, int] = defaultdict(int)
    flops_taken: dict[nn.Module, int] = defaultdict(int)
    for swap in replaced:
        site = sites[swap.name]
        flops_taken[site.holder] += swap.costs.flops_before
        if site.weight is not None and swap.tied_to is None:
            taken[site.weight] += swap.costs.params_before
    return kept_weights(model, taken, flops_taken)


def _model_costs(model: nn.Module, structure: LayerSpec, replaced: tuple[Swap, ...], kept: tuple[Kept, ...]) -> Costs:
    params = sum(p.numel() for p in model.parameters() if not nn.parameter.is_lazy(p))
    own = [swap.costs for swap in replaced if swap.tied_to is None]
    mixed = structure.experts if isinstance(structure, MixtureOfExperts) else 1
    gains = sum(swap.experts * mixed for swap in replaced if swap.tied_to is None)
    after = params + gains + sum(costs.params_after - costs.params_before for costs in own)
    return Costs.of_model(params, after, kept, replaced)
