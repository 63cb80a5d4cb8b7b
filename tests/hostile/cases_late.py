"""Errors that are found before data are prepared; the message names what to change."""

from __future__ import annotations

from tests.hostile.case import Case, accepted, refused

LATE = ("preparing",)

CASES: tuple[Case, ...] = (
    refused("rank monarch --widths 64 --budget 1e3", "leaves 111 training FLOPs", "for 10 steps", never=LATE),
    refused("rank monarch --widths 64 --budget 1e3 --dry-run", "leaves 111 training FLOPs", never=LATE),
    refused("rank monarch --widths 1000000", "bytes for parameters", "this machine has", never=LATE),
    refused("rank monarch --task text --widths 65", "a proxy transformer of width 65", "use 68", never=LATE),
    refused("rank monarch --text nothing.txt", "text nothing.txt does not exist", never=LATE),
    refused("rank ffn-moe:experts=4,top=2 --widths 64", "is not a transformer", never=LATE),
    refused("rank monarch --widths 64 --out here", "here", files={"here": "a file"}, never=LATE),
    refused("rank monarch --widths 64 --out here", "study.db", files={"here/study.db": "no database"}, never=LATE),
    refused("rank nothing.yaml", "cannot read nothing.yaml", never=LATE),
    refused("train nothing.yaml", "cannot read nothing.yaml", never=LATE),
    refused(
        "train a.yaml", "text nothing.txt does not exist", files={"a.yaml": "{steps: 2, data: {text: nothing.txt}}"}
    ),
    refused("train a.yaml", "tokens nothing do not exist", files={"a.yaml": "{steps: 2, data: {tokens: nothing}}"}),
    refused("train a.yaml --gpu h1000", "no accelerator 'h1000'", files={"a.yaml": "steps: 2"}),
    refused("generate nothing --prompt a", "nothing has no checkpoint"),
    refused("export nothing --to onnx --out a.onnx", "nothing has no checkpoint"),
    refused("project nothing --structure monarch --out a", "nothing: no such file or folder"),
    refused(
        "project a.safetensors --structure monarch --out b.safetensors",
        "a.safetensors cannot be read as safetensors",
        files={"a.safetensors": "no tensors"},
    ),
    accepted("params s --structure monarch --format csv", "ffn,"),
    accepted("tasks --format csv", "teacher,input_size,8"),
)
