"""Data, network and optimizer of runs of `einsearch train`, in words and as settings, from what the runs stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from einsearch_cli.errors import EinsearchError
from einsearch_cli.models.transformer import TransformerConfig
from einsearch_cli.reports.training import TrainingReport
from einsearch_cli.training.full import RunResult, TrainSpec
from einsearch_cli.training.optimizer_words import update_words

_PLACES = {
    "ffn": "The feed-forward networks; attention, embeddings and head are dense",
    "attn": "The attention projections; feed-forward networks, embeddings and head are dense",
    "all": "All linear layers but the head",
}


def training_setup(report: TrainingReport) -> dict[str, str]:
    """Facts as sentences by name; where runs differ, each value follows the names of its runs."""
    known = [(run.result, spec) for run in report.runs if (spec := _spec_of(run.result)) is not None]
    facts: dict[str, Callable[[RunResult, TrainSpec], str]] = {
        "Network": lambda _, spec: _network(spec.model),
        "Structured": lambda _, spec: _PLACES[spec.model.structured],
        "Context": lambda _, spec: f"{spec.context:,} tokens",
        "Batch": lambda _, spec: f"{spec.batch:,} rows, {spec.tokens_per_step:,} tokens, a step",
        "Steps": lambda result, _: f"{result.steps:,} optimizer steps, {result.tokens:,} tokens",
        "Guides": lambda _, spec: _guides(spec),
        "Optimizer": lambda _, spec: f"{update_words(spec.optimizer)}; {_schedule(spec)}; {spec.precision}",
        "Learning rate": lambda _, spec: _rate(spec),
        "Seed": lambda _, spec: f"{spec.seed}, which draws the network's start and the order of the data",
    }
    said = {
        name: _together([(result.name, words(result, spec)) for result, spec in known]) for name, words in facts.items()
    }
    return {
        "Task": "Language modelling: predict the next token. The loss is the cross-entropy of held-out tokens, in nats.",
        "Data": f"{report.data[:1].upper()}{report.data[1:]}.",
        **{name: words for name, words in said.items() if words},
    }


def _spec_of(result: RunResult) -> TrainSpec | None:
    """The settings of a run; None where an earlier version kept others."""
    try:
        return TrainSpec.model_validate(_as_given(result.spec))
    except (ValidationError, EinsearchError):
        return None


def _together(named: Sequence[tuple[str, str]]) -> str:
    """One sentence for all runs, or one for each value that some of them have."""
    groups: dict[str, list[str]] = {}
    for name, words in named:
        groups.setdefault(words, []).append(name)
    if len(groups) <= 1:
        return "".join(f"{words}." for words in groups if words)
    return " ".join(f"{', '.join(names)}: {words}." for words, names in groups.items() if words)


def _network(model: TransformerConfig) -> str:
    groups = "" if model.kv_heads == model.heads else f" ({model.kv_heads} of keys and values)"
    first = ", the first of them dense" if model.first_ffn_dense else ""
    norm = {"layer": "LayerNorm", "rms": "RMSNorm"}[model.norm]
    return (
        f"A decoder-only transformer of {model.layers} blocks, {model.width:,} wide, with {model.heads} heads{groups} of "
        f"{model.head_size}, feed-forward networks of {model.hidden:,} ({model.activation}){first}, rotary positions and {norm}"
    )


def _schedule(spec: TrainSpec) -> str:
    shape = {"cosine": "a cosine", "constant": "constant", "wsd": "constant, and down over the last fifth"}
    end = "" if spec.schedule.shape == "constant" else f" to {spec.schedule.final:.0%}"
    return f"{spec.schedule.warmup:.0%} of the steps warm-up, then {shape[spec.schedule.shape]}{end}"


def _rate(spec: TrainSpec) -> str:
    base = spec.optimizer.base_width or spec.model.width
    return (
        f"{spec.optimizer.learning_rate:g} at width {base:,} is the base rate; muP multiplies it for other widths and "
        "for factors; not tuned here"
    )


def _guides(spec: TrainSpec) -> str:
    if spec.guidance is None:
        return ""
    extent = (
        "as many steps as the FLOPs of dense pay for"
        if spec.guidance.flop_matched
        else f"{spec.guidance.ratio:.0%} of the steps"
    )
    return f"dense matrices lead the structured layers for {extent} ({spec.guidance.mode})"


def settings_of_runs(report: TrainingReport) -> dict[str, Any]:
    """The settings that decide what was trained, as a training file has them: common ones, then those of each run."""
    specs = [_as_given(run.result.spec) for run in report.runs]
    common = {key: value for key, value in specs[0].items() if all(spec.get(key) == value for spec in specs)}
    runs = [
        {"name": run.result.name, **{key: value for key, value in spec.items() if key not in common}}
        for run, spec in zip(report.runs, specs, strict=True)
    ]
    return {**common, "runs": runs}


def _as_given(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a training file may hold: without what is null, and without the share that a matched guide finds itself."""
    kept = {key: value for key, value in spec.items() if value is not None}
    if kept.get("guidance", {}).get("flop_matched"):
        kept["guidance"] = {key: value for key, value in kept["guidance"].items() if key != "ratio"}
    return kept
