"""`einsearch classify`: properties of a structure that need no training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.columns import card
from einsearch_cli.cli.completing import complete
from einsearch_cli.cli.explain_plan import PlanSetting, plan_lines, plan_object, plan_setting
from einsearch_cli.cli.filters import BLOCK_DIAGONAL, FORMAT, token_exponent
from einsearch_cli.cli.formulas import is_symbolic, symbolic_text
from einsearch_cli.cli.options import (
    D_IN,
    D_OUT,
    MAX_SEED,
    MAX_TOKENS,
    OVERWRITE,
    Device,
    Dtype,
    flag,
    out_file,
    refuse_taken,
    whole_option,
)
from einsearch_cli.cli.output import RESULTS, Format, chosen_format, ratio, render
from einsearch_cli.cli.structure_input import dimensions, read_structures
from einsearch_cli.shipped import Kind

if TYPE_CHECKING:
    from fractions import Fraction

    from einsearch_cli.structures import NamedStructure, Structure
    from einsearch_cli.taxonomy import Classification

HELP = """Classify structures: family, ω ψ ν, the cut that limits the rank, parameters, FLOPs, verdict.

SPEC is one of: a family (btt:r=2), carrier sets ('XA XAB=4 YB YAB=4'), a
θ vector ('(0.5|0|0.5|0|0.5|0.5|0)'), an einsum equation with --sizes, a file of
structures, or - for stdin.

For a layer of experts (btt-moe:experts=16,top=2) the structure of one expert is
classified, and the parameters and FLOPs of the layer are added. If exponents are
letters ('XA^a XAB^(1-a) YB AB^r'), results are formulas in these letters.

Examples:

  einsearch classify monarch

  einsearch classify btt-moe:experts=16,top=2

  einsearch classify 'bgn,gnr,gro->bo' --sizes g=4,n=256,r=128,o=1024

  einsearch classify 'XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r'

  einsearch classify 'XA=2 XB=2 XAB YA=3 YB' --d-in 8 --d-out 9 --rank

  einsearch classify btt:r=2 --d-in 4096 --tokens 16 --explain-plan --device cuda --dtype bfloat16

  einsearch classify low-rank:r=64 block-dense:blocks=4,r=512 --d-in 4096 --d-out 1024 --format json
"""
MAX_ORDERS = 15
"""Contraction orders shown to people: all of those of three factors."""


def classify_command(
    specs: list[str] = typer.Argument(
        None,
        metavar="SPEC",
        autocompletion=complete(Kind.structures),
        help="Structures, files of structures, or - for stdin.",
        show_default="-, standard input",
    ),
    sizes: str | None = typer.Option(
        None, metavar="SIZES", help="Sizes of the letters of an einsum equation: g=4,n=256 or g=4,n=rest."
    ),
    d_in: int | None = D_IN,
    d_out: int | None = D_OUT,
    tokens: int = whole_option(
        "--tokens",
        default=1024,
        within=(1, MAX_TOKENS),
        help="Tokens per call, for the cost of the contraction orders.",
    ),
    trees: str | None = typer.Option(
        None,
        metavar="TAU",
        help="ν and ω also over trees that multiply factors first, for calls of d^TAU tokens, such as 1 or 1/2.",
    ),
    explain_plan: bool = flag(
        "--explain-plan",
        "The routes that a layer can take with --tokens tokens, with FLOPs, bytes and predicted time; starts torch.",
    ),
    device: Device | None = typer.Option(None, help="Where the layer of --explain-plan runs.", show_default="cpu"),
    dtype: Dtype | None = typer.Option(None, help="Type of its tensors.", show_default="float32"),
    rank: bool = flag(
        "--rank", "Compute the generic rank with random factors: exactly mod a prime, numerically beyond 8192 × 8192."
    ),
    seed: int = whole_option("--seed", default=0, within=(0, MAX_SEED), help="Seed of the random factors of --rank."),
    allow_block_diagonal: bool = BLOCK_DIAGONAL,
    given: Format | None = FORMAT,
    out: Path | None = out_file(help="Write to this file.", shown="standard output"),
    overwrite: bool = OVERWRITE,
) -> None:
    from einsearch_cli.taxonomy import classify

    output = chosen_format(given, out, Format.table, RESULTS)
    refuse_taken(out, overwrite)
    room = console.width() if out is None else None
    if is_symbolic(specs or []):
        sized = {"--sizes": sizes, "--d-in": d_in, "--d-out": d_out, "--trees": trees, "--rank": rank or None}
        sized |= {"--explain-plan": explain_plan or None, "--device": device, "--dtype": dtype}
        refused = [name for name, given in sized.items() if given is not None]
        console.data(symbolic_text(specs, output, refused, allow_block_diagonal, room), out)
        return
    tau, plan = token_exponent(trees), plan_setting(explain_plan, device, dtype)
    found = []
    for named in read_structures(specs or ["-"], sizes, allow_block_diagonal):
        _refuse_experts(named, explain_plan)
        side_in, side_out = dimensions(named, d_in, d_out)
        wanted = seed if rank else None
        item = classify(named.structure, side_in, side_out, rank_seed=wanted, on_slow=console.talk)
        found.append((named, item))
    if output in (Format.json, Format.jsonl):
        objects = [_object(named, item, tokens, tau, plan) for named, item in found]
        single = len(objects) == 1 and output is Format.json
        text = json.dumps(objects[0], indent=2, ensure_ascii=False) if single else render([], objects, output)
    elif output is Format.table:
        cards = [_card(_object(named, item, tokens, tau, plan), _stored_lines(item)) for named, item in found]
        text = "\n\n".join(card(lines, room) for lines in cards)
    else:
        has_experts = any(named.mixture for named, _ in found)
        text = render([_row(named, item, has_experts) for named, item in found], [], output)
    console.data(text, out)


def _object(
    named: NamedStructure, item: Classification, tokens: int, tau: Fraction | None, plan: PlanSetting | None
) -> dict[str, Any]:
    from einsearch_cli.structures import notations
    from einsearch_cli.taxonomy import contraction_orders, formula_texts

    structure = item.structure
    sized = structure.at(item.d_in, item.d_out)
    params_text, flops_text = formula_texts(structure)
    return {
        "name": named.name,
        **item.to_json(),
        "notations": notations(structure, item.d_in, item.d_out),
        "params_formula": params_text,
        "flops_formula": flops_text,
        "params_ratio": item.params / item.dense_params,
        "flops_ratio": item.flops_per_token / item.dense_flops_per_token,
        "tokens": tokens,
        **_trees_object(structure, tau),
        **_mixture(named, item),
        "orders": [{"order": order.tree, "flops": order.flops(tokens)} for order in contraction_orders(sized, tokens)],
        **plan_object(sized, tokens, plan),
    }


def _mixture(named: NamedStructure, item: Classification) -> dict[str, Any]:
    """All parameters of a layer and those that a token uses; empty without experts."""
    from einsearch_cli.taxonomy import layer_costs

    mixture = named.mixture
    if mixture is None:
        return {}
    costs = layer_costs(mixture, item.d_in, item.d_out)
    return {
        "mixture": {
            "layer": mixture.short_text,
            "experts": mixture.experts,
            "top": mixture.top,
            "params": costs.params,
            "active_params": costs.active_params,
            "active_flops_per_token": costs.flops_per_token,
        }
    }


def _refuse_experts(named: NamedStructure, explain_plan: bool) -> None:
    """Raise an error for experts that have no single matrix to classify, or no route to choose."""
    from einsearch_cli.errors import SpecError, StructureError

    mixture = named.mixture
    if mixture is None:
        return
    if mixture.feed_forward:
        raise StructureError(
            f"{mixture} replaces whole feed-forward networks: it has no single matrix to classify",
            remedy=f"einsearch classify dense-moe:experts={mixture.experts},top={mixture.top}",
        )
    if explain_plan:
        raise SpecError(
            f"--explain-plan with {mixture}: experts always meet their factors one after another, without a choice",
            remedy=f"einsearch classify '{mixture.structure}' --explain-plan, or leave --explain-plan out",
        )


def _row(named: NamedStructure, item: Classification, has_experts: bool) -> dict[str, Any]:
    from einsearch_cli.structures import layer_family
    from einsearch_cli.taxonomy import layer_costs

    costs = layer_costs(named.layer, item.d_in, item.d_out)
    return {
        "structure": str(named.layer),
        "family": layer_family(named.layer),
        "ω": str(item.omega),
        "ψ": str(item.psi),
        "ν": str(item.nu),
        "params": costs.params,
        **({"active params": costs.active_params} if has_experts else {}),
        "FLOPs/token": costs.flops_per_token,
        "rank": "" if item.rank is None else item.rank,
        "rank ≤": item.rank_bound,
        "kept": "yes" if item.kept else "no",
    }


def _card(item: dict[str, Any], stored: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """One structure for people; `stored` are the lines on the factors of a layer."""
    from einsearch_cli.taxonomy import readable_formula

    dense = item["dense_flops_per_token"] * item["tokens"]
    params_text, flops_text = (readable_formula(item[f"{cost}_formula"]) for cost in ("params", "flops"))
    notation = item["notations"]
    return [
        ("structure", notation["carriers"] + (f"   ({item['name']})" if item["name"] else "")),
        ("family", item["family"]),
        ("", ""),
        ("ω  sharing", f"{item['omega']:<6} FLOPs per parameter grow as d^ω"),
        ("ψ  rank", f"{item['psi']:<6} rank grows as d^ψ; 1 is full rank"),
        ("ν  compute", f"{item['nu']:<6} FLOPs grow as d^(1+ν); dense is 1"),
        *_trees_lines(item),
        ("", ""),
        ("at", f"d_in {item['d_in']}, d_out {item['d_out']}" + (f"; {item['padding']}" if item["padding"] else "")),
        ("sizes", "  ".join(f"{carriers} {size}" for carriers, size in item["sizes"].items())),
        (
            "params",
            f"{item['params']:,} = {ratio(item['params'], item['dense_params'])} dense   {params_text}",
        ),
        (
            "FLOPs/token",
            f"{item['flops_per_token']:,} = {ratio(item['flops_per_token'], item['dense_flops_per_token'])} dense"
            f"   {flops_text}",
        ),
        ("rank", _rank(item)),
        *_mixture_lines(item),
        *([("", item["why_below_bound"])] if item["why_below_bound"] else []),
        ("", ""),
        *((f"as {key}", value) for key, value in notation.items() if value and key != "carriers"),
        *stored,
        ("", ""),
        (f"orders, {item['tokens']} tokens", ""),
        *(
            (f"  {o['order']}", f"{o['flops']:.4g} FLOPs = {ratio(o['flops'], dense)} dense")
            for o in item["orders"][:MAX_ORDERS]
        ),
        *([("", f"and {more} more, all costlier")] if (more := len(item["orders"]) - MAX_ORDERS) > 0 else []),
        *plan_lines(item),
        ("", ""),
        ("verdict", "kept" if item["kept"] else "pruned: " + "; ".join(item["reasons"])),
    ]


def _stored_lines(item: Classification) -> list[tuple[str, str]]:
    """How `EinsumLinear` orders its features and stores its factors, in the letters of the einsum."""
    from einsearch_cli.errors import LayerError
    from einsearch_cli.layers.plans.planner import stored_plan

    sized = item.structure.at(item.d_in, item.d_out)
    letters = sized.letters
    try:
        plan = stored_plan(sized)
    except LayerError:  # the order of the equation is one that no layer reads
        return []

    def text(axes: Iterable[str]) -> str:
        return "".join(letters[carriers] for carriers in axes) or "1"

    steps = sorted(plan.steps, key=lambda step: step.factor)
    factors = [(step.factor, ", ".join(map(text, step.weight_axes)), step.weight_shape) for step in steps]
    return [
        ("", ""),
        ("in a layer", f"features ...{text(plan.input_order)}->...{text(plan.output_order)}"),
        ("", "each factor is stored as (batch, fan_in, fan_out), in letters of the einsum:"),
        *((f"  factors.{factor}", f"({axes}) = {shape}") for factor, axes, shape in factors),
    ]


def _mixture_lines(item: dict[str, Any]) -> list[tuple[str, str]]:
    """The layer whose expert the card is about."""
    mixture = item.get("mixture")
    if mixture is None:
        return []
    dense_params, dense_flops = item["dense_params"], item["dense_flops_per_token"]
    flops = mixture["active_flops_per_token"]
    return [
        ("", ""),
        ("layer", f"{mixture['layer']}: the above is one expert, below are router and experts"),
        ("params, all", f"{mixture['params']:,} = {ratio(mixture['params'], dense_params)} dense"),
        ("params, active", f"{mixture['active_params']:,} = {ratio(mixture['active_params'], dense_params)} dense"),
        ("FLOPs/token", f"{flops:,} = {ratio(flops, dense_flops)} dense"),
    ]


def _rank(item: dict[str, Any]) -> str:
    bound = f"at most {item['rank_bound']:,}, by the cut {item['cut']}"
    if item["rank"] is None:
        return bound
    certificate = item["rank_certificate"]
    how = item["rank_method"]
    if certificate["prime"]:
        how = how.replace("mod p", f"mod {certificate['prime']}, seed {certificate['seed']}")
    if certificate["singular_values"]:
        how += " {:.1e} | {:.1e} of the largest, seed {}".format(*certificate["singular_values"], certificate["seed"])
    return f"{item['rank']:,} {how}; {bound}"


def _trees_object(structure: Structure, tau: Fraction | None) -> dict[str, Any]:
    """The entry of the result, empty without the option."""
    if tau is None:
        return {}
    from einsearch_cli.taxonomy.trees import tree_taxonomy

    return {"trees": tree_taxonomy(structure, tau).to_json()}


def _trees_lines(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of the card."""
    if "trees" not in item:
        return []
    found = item["trees"]
    calls = f"for calls of d^{found['token_exponent']} tokens, by the tree {found['tree']}"
    below = "below 0: W is cheaper to apply than its factors are to read" if found["omega"].startswith("-") else ""
    return [("", ""), ("ν  of trees", f"{found['nu']:<6} {calls}"), ("ω  of trees", f"{found['omega']:<6} {below}")]
