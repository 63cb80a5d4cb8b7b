"""The JSON schema of results.json, from the types and docstrings of what is written there.

Run as a program to write docs/reference/schemas/results.schema.json again.
"""

from __future__ import annotations

import ast
import inspect
import json
import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from einsearch_cli.reports.confirmation import Confirmed
from einsearch_cli.scaling import Ranking, RankingEntry
from einsearch_cli.scaling.exponents import ExponentEffects
from einsearch_cli.scaling.ranking import FORMAT
from einsearch_cli.search.outcome import Exploration, Spending, TunedRate
from einsearch_cli.structures import LayerSpec
from einsearch_cli.training.proxy.trial import Trial, TrialResult
from einsearch_cli.training.proxy.width_trends import LayerCoordinates

PATH = Path(__file__).parents[2] / "docs" / "reference" / "schemas" / "results.schema.json"
Schema = dict[str, Any]
_PLAIN = {float: "number", int: "integer", str: "string", bool: "boolean", types.NoneType: "null"}
_STRUCTURE = "A structure in the text notation of einsearch."
_TAXONOMY = {
    "family": {"type": "string", "description": "Name of the family."},
    **{
        name: {"type": "string", "description": f"{symbol} as an exact fraction, such as 1/2."}
        for name, symbol in (("omega", "ω"), ("psi", "ψ"), ("nu", "ν"))
    },
}


_NAMED = {
    "structure": _STRUCTURE,
    "family": "Name of the family.",
    "yardstick": _STRUCTURE,
    "entries": "Every structure, best first.",
    "width": "Width of the network.",
    "seed": "Seed of the network's start and of the order of the data.",
    "stage": "What the run is for.",
    "status": "How the run ended.",
    "params": "Parameters of the network.",
    "steps": "Optimizer steps.",
    "elapsed_s": "Seconds.",
    "error": "Why there is no loss.",
    "tried": "Pairs of a rate, in multiples of the base rate, and the loss, null where the run had none.",
    "last_tried": "Pairs like those of `tried`, from the last rung.",
    "compute": "Training FLOPs; embeddings and head left out.",
    "budget_flops": "Training FLOPs of a run.",
    "loss": "The loss.",
    "gain": "Yardstick's training FLOPs / this structure's for the same loss.",
    "rung": "From 0.",
    "rungs": "Number of rungs.",
    "layer": "Name of the layer in the network.",
    "exponent": "a of the law.",
    **{
        f"{name}_{end}": f"{end.capitalize()} end of the 95% interval of {name}."
        for name in ("floor", "exponent", "scale")
        for end in ("low", "high")
    },
}
"""Descriptions of fields whose names say it all in the code."""


def results_schema() -> Schema:
    """The schema of the whole document."""
    definitions: dict[str, Schema] = {}
    run = _object(TrialResult, definitions, without={"trial"})
    trial = _object(Trial, definitions)
    run["properties"] = trial["properties"] | _TAXONOMY | run["properties"]
    run["properties"]["curve"]["items"]["prefixItems"][1] = {"type": ["number", "null"]}  # null where it is not finite
    run["required"] = sorted(run["properties"])
    run["description"] = "One training run."
    entry = _object(RankingEntry, definitions)
    ranked = {**entry, "properties": entry["properties"] | _TAXONOMY}
    ranked["required"] = sorted(ranked["properties"])
    rate = _object(TunedRate, definitions)
    rate["properties"] |= {
        "structure": {"type": "string", "description": _STRUCTURE},
        "learning_rate": {"type": "number", "description": "Learning rate of the last rung at the task's base width."},
    }
    rate["required"] = sorted(rate["properties"])
    whole = _object(Ranking, definitions, without={"entries"})
    comparison = {
        **whole,
        "properties": whole["properties"] | {"entries": _list("#/$defs/entry", _NAMED["entries"]), **_format()},
    }
    comparison["required"] = sorted(comparison["properties"])
    coordinates = _object(LayerCoordinates, definitions)
    definitions |= {
        "run": run,
        "coordinates": coordinates,
        "entry": entry,
        "ranked": ranked,
        "rate": rate,
        "comparison": comparison,
    }
    properties = {
        "title": {"type": "string", "description": "Name of the study."},
        "task": {"type": "string", "description": "Proxy task."},
        "loss_name": {"type": "string", "description": "What the loss is, with its unit."},
        "budget_flops": {
            "type": "number",
            "description": "Training FLOPs of a run of the last rung; embeddings and head left out.",
        },
        "run_time_s": {"type": "number", "description": "Seconds of all runs together; copies count once."},
        **_format(),
        **whole["properties"],
        "results": _list(
            "#/$defs/run", "Runs of the ranking: seeds at the best widths, and runs that looked for these."
        ),
        "confirmation": _list("#/$defs/run", "The best and the yardstick from seeds that decided nothing before."),
        "confirmed": {
            "type": "array",
            "description": "What the confirmation's runs say, best first: means, and runs far from the others.",
            "items": _type(Confirmed, definitions),
        },
        "tuning": _list("#/$defs/run", "Runs that only looked for learning rates."),
        "unbalanced": _list("#/$defs/run", "Runs with experts, once more without the loss that balances their load."),
        "explored": _list("#/$defs/run", "Runs that searched for candidates; none is in the ranking."),
        "exploration": _type(Exploration | None, definitions)
        | {"description": "The search for candidates; null where these were given."},
        "rates": _list("#/$defs/rate", "The learning rate of each structure; empty where rates are fixed."),
        "spending": _type(Spending | None, definitions)
        | {"description": "What was planned, and how seeds were added; null where there was no plan."},
        "exponents": _type(ExponentEffects | None, definitions)
        | {"description": "Whether ω, ψ, ν and bonds predict the loss; null with fewer than ten structures."},
        "coordinates": _list("#/$defs/coordinates", "Every layer of the coordinate check; empty where none was made."),
        "step_seconds": {
            "type": "array",
            "description": "Seconds of a training step, timed in a race of all networks on one machine.",
            "items": {
                "type": "object",
                "properties": {
                    "structure": {"type": "string"},
                    "width": {"type": "integer"},
                    "seconds": {"type": "number"},
                },
                "required": ["seconds", "structure", "width"],
            },
        },
        "controls": {
            "type": "array",
            "description": "Structures that the study added, and the candidates that brought each.",
            "items": {
                "type": "object",
                "properties": {"structure": {"type": "string"}, "of": {"type": "array", "items": {"type": "string"}}},
                "required": ["of", "structure"],
            },
        },
        "ranking": _list("#/$defs/ranked", "Every structure, best first."),
        "comparisons": _list("#/$defs/comparison", "The study's runs ranked against every baseline."),
        "setup": {
            "type": "object",
            "description": "What was trained on what and how: name of a fact -> a sentence.",
            "additionalProperties": {"type": "string"},
        },
        "spec": {"type": "object", "description": "All settings, as a study file has them: they repeat the study."},
        "environment": {
            "type": "object",
            "description": "Versions and processor.",
            "additionalProperties": {"type": "string"},
        },
        "commands": {"type": "array", "description": "What repeats the study.", "items": {"type": "string"}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "results.json of einsearch rank",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": sorted(
            properties.keys() - {"confirmed", "exponents", "explored", "exploration", "setup", "spec"}
        ),  # files of before have none
        "$defs": dict(sorted(definitions.items())),
    }


def _format() -> Schema:
    refused = "Format of the file; another number is refused by `einsearch report`."
    return {"format": {"const": FORMAT, "description": refused}}


def _list(reference: str, description: str = "") -> Schema:
    found: Schema = {"type": "array", "items": {"$ref": reference}}
    return found | ({"description": description} if description else {})


def _object(kind: type, definitions: dict[str, Schema], without: frozenset[str] | set[str] = frozenset()) -> Schema:
    """The fields of a dataclass with their types and docstrings."""
    names = [field.name for field in fields(kind) if field.name not in without]
    hints = get_type_hints(kind)
    said = _docstrings(kind)
    properties = {}
    for name in names:
        properties[name] = _type(hints[name], definitions) | {"description": said.get(name) or _NAMED[name]}
    description = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": properties,
        "required": sorted(properties),
    }


def _docstrings(kind: type) -> dict[str, str]:
    """Text under each attribute; one text stands for all attributes above it that have none, such as both ends."""
    (tree,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    open_names: list[str] = []
    for part in tree.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            open_names.append(part.target.id)
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and open_names:
            text = " ".join(str(part.value.value).split())
            last = open_names[-1]
            stem = last.removesuffix("_high").removesuffix("_adjusted").removesuffix("_high")
            ends = (f"{stem}_low", f"{stem}_high")
            found |= {
                name: text
                for name in open_names
                if name in (last, stem) or name.startswith(ends) or {name, last} == {"low", "high"}
            }
            open_names = []
    return found


def _type(hint: Any, definitions: dict[str, Schema]) -> Schema:
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint == LayerSpec or hint in get_args(LayerSpec):
        return {"type": "string"}
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        if set(get_args(LayerSpec)) <= set(inner):
            rest = [item for item in inner if item not in get_args(LayerSpec)]
            parts = [{"type": "string"}, *(_type(item, definitions) for item in rest)]
        else:
            parts = [_type(item, definitions) for item in inner]
        plain = [part["type"] for part in parts if set(part) == {"type"}]
        return {"type": plain} if len(plain) == len(parts) else {"anyOf": parts}
    if origin is tuple and inner[-1] is Ellipsis:
        return {"type": "array", "items": _type(inner[0], definitions)}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_type(item, definitions) for item in inner], "items": False}
    if is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}
            definitions[hint.__name__] = _object(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    raise TypeError(f"no JSON type for {hint!r}")


def schema_text() -> str:
    return json.dumps(results_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(schema_text())
