"""What layers run on, as options of commands name it."""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """Types of the tensors."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


class Device(StrEnum):
    """Where the layers run."""

    cpu = "cpu"
    cuda = "cuda"
