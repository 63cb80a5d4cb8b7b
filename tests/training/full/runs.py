"""Runs small enough to train within a test."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from einsearch_cli.data.tokens import BytesTokenizer, TokenData
from einsearch_cli.training.full import RunResult, Silent, StepMetrics, TrainSpec, World, read_metrics, train_full
from einsearch_cli.training.full.checkpoint import checkpoints_of

CPU = World(torch.device("cpu"))

TINY = {"width": 32, "layers": 2, "heads": 2, "context": 16, "structure": "low-rank:r=4"}

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "self-guided": {"guidance": {"mode": "stochastic", "ratio": 0.5}},
    "accumulation": {"accumulation": 4},
}
"""The kinds of run that must be resumed exactly."""


def tiny_spec(**changes: Any) -> TrainSpec:
    """Twelve steps of 8 x 16 tokens; `model` is merged into the tiny one."""
    given = {
        "batch": 8,
        "steps": 12,
        "optimizer": {"learning_rate": 1e-2},
        "validation": {"points": 3, "blocks": 5},
        "checkpoint": {"every": 3},
    } | changes
    given["model"] = TINY | changes.get("model", {})
    return TrainSpec.model_validate(given)


def tiny_data(seed: int = 0) -> TokenData:
    """A second-order pattern over 256 tokens with noise, so that there is something to learn."""
    draws = np.random.default_rng(seed)
    tokens = np.cumsum(draws.integers(0, 3, size=4000)).astype(np.uint16) % 256
    return TokenData(tokens[:3500], tokens[3500:], 256, BytesTokenizer(), f"digest-{seed}", "a pattern")


def run_tiny(folder: Path, data: TokenData | None = None, **changes: Any) -> RunResult:
    """Train in this process until the end."""
    return train_full(tiny_spec(**changes), data or tiny_data(), folder, CPU)


class Told(Silent):
    """A listener that keeps all messages, and interrupts as Ctrl-C does after a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.said: list[str] = []

    def on_step(self, metrics: StepMetrics, steps: int) -> None:  # noqa: ARG002
        if metrics.step == self.stop_at:
            signal.raise_signal(signal.SIGINT)

    def say(self, text: str) -> None:
        self.said.append(text)


def curve(folder: Path) -> list[dict[str, Any]]:
    """All metrics except times."""
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in read_metrics(folder)]


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and moments of the newest checkpoint."""
    newest = checkpoints_of(folder)[-1]
    return load_file(newest / "model.safetensors") | load_file(newest / "optimizer.safetensors")


def assert_same_run(folder: Path, other: Path) -> None:
    """Loss curve and final weights are equal to the last bit."""
    assert curve(folder) == curve(other)
    mine, theirs = final_tensors(folder), final_tensors(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name
