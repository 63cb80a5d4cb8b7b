"""Files, paths, names and streams that must not be written, read, overwritten or obeyed."""

from __future__ import annotations

import struct

from tests.hostile.case import Case, accepted, refused

RED, RIGHT_TO_LEFT = "\x1b[31mred", "\u202egnp"
SMALL = "enumerate --grid 1"

FORMATS = (
    accepted(f"{SMALL} --out g.yaml"),
    accepted(f"{SMALL} --out g.json --format json"),
    accepted(f"{SMALL} --out list --format csv"),
    accepted("classify monarch --out g.MD"),
    accepted("sample -n 1 --out g.jsonl"),
    refused(f"{SMALL} --out g.yaml --format json", "--format json and --out 'g.yaml'", "says yaml", "--out g.json"),
    refused(f"{SMALL} --out g.json --format table", "says json", "--out g.txt, or leave --format out"),
    refused("sample -n 1 --out g.csv --format jsonl", "the suffix .csv says csv"),
    refused("classify monarch --out g.csv --format markdown", "says csv", "--out g.md"),
    refused("classify monarch --out g.parquet", "says parquet, and this command writes table, json"),
    refused(f"{SMALL} --out g.html", "says html, and this command writes table"),
    refused(f"{SMALL} --count --out g.parquet", "--count with parquet"),
    refused(f"{SMALL} --format parquet", "needs a file"),
    refused("draw monarch --out g.yaml", "must end in .svg, .png or .txt"),
    refused("bench monarch --out g.csv", "must end in .json or .html"),
    refused("export run --to onnx --out g.safetensors", "--to onnx and --out", "says safetensors", "--out g.onnx"),
    refused("export run --to dense --out g.pt2", "says torch-export"),
    refused(
        "project w.safetensors --structure monarch --out g.onnx",
        "the suffix .onnx says onnx",
        files={"w.safetensors": ""},
    ),
)
PATHS = (
    refused(f"{SMALL} --out .", "it is a folder, a file is needed"),
    refused(f"{SMALL} --out ''", "--out is empty"),
    refused(f"{SMALL} --out file/x.yaml", "file' is not a folder", files={"file": ""}),
    refused(f"{SMALL} --out file/a/b.yaml", "file' is not a folder", files={"file": ""}),
    refused((*SMALL.split(), "--out", "x" * 300), "File name too long", "a shorter name"),
    refused("classify monarch --out file/x", "is not a folder", files={"file": ""}),
    refused("draw monarch --out file/x.svg", "is not a folder", files={"file": ""}),
    refused("bench monarch --out file/x.json", "is not a folder", files={"file": ""}),
    refused("export run --to dense --out .", "it is a folder"),
    refused("export run --to dense --out file/x", "is not a folder", files={"file": ""}),
    refused("project w.safetensors --structure monarch --out .", "it is a folder", files={"w.safetensors": ""}),
    accepted(f"{SMALL} --out made/for/you.yaml"),
)
STUDIES = (
    refused(
        "rank monarch --widths 8 --budget 1e9 --seeds 1 --out s",
        "study.db is empty and results.json next to it holds results",
        files={"s/study.db": "", "s/results.json": "{}"},
    ),
    refused(
        "rank monarch --widths 8 --budget 1e9 --seeds 1 --out s",
        "study.db is missing and results.json next to it holds results",
        files={"s/results.json": "{}"},
    ),
    refused("rank monarch --workers 100000 --dry-run", "--workers 100000: this machine has"),
    refused("rank monarch --workers 0 --dry-run", "--workers"),
    refused("bench monarch --threads 100000", "--threads 100000: this machine has"),
    refused("bench --calibrate --threads 100000", "--threads 100000: this machine has"),
)
TOKENS = {"train.bin": struct.pack("<4H", 640, 1, 2, 3), "meta.json": '{"vocabulary": 700}'}
READ = (
    refused("generate . --prompt a", "has no checkpoint", never=("pickle",), files=TOKENS),
    refused("generate train.bin --prompt a", "has no checkpoint", never=("pickle",), files=TOKENS),
    refused("generate . --prompt a", "model.bin is a pickle", files={"model.bin": b"PK\x03\x04rest"}),
    refused("generate m.pt --prompt a", "m.pt is a pickle", files={"m.pt": "x"}),
    refused("classify /dev/null", "/dev/null holds no structure"),
    refused("classify /dev/zero", "more than 1000000 bytes"),
    refused("classify /dev/fd/99", "cannot read /dev/fd/99"),
    refused("classify -", "stdin is not UTF-8 (byte 1)", stdin=b"a\xff"),
    refused("classify -", "stdin has more than 1,000,000 bytes", stdin="monarch\n" * 130_000),
    refused("classify -", "stdin holds no structure", stdin=""),
    refused("classify a.yaml", "is not UTF-8", files={"a.yaml": b"\xff\xfe"}),
    refused("draw -", "stdin is not UTF-8", stdin=b"\x80"),
)
CONTROLS = (
    refused(("rank", f"{RED}.yaml"), "\\u001b[31mred", never=("\x1b",)),
    refused(("classify", f"{RIGHT_TO_LEFT}.yaml"), "\\u202egnp", never=("\u202e",)),
    refused(("export", RED, "--to", "dense", "--out", "x"), "\\u001b[31mred", never=("\x1b",)),
    refused(("generate", "\x9b31m", "--prompt", "a"), "\\u009b31m", never=("\x9b",)),
    refused(
        ("classify", "a.yaml"),
        "'\\x1b[2J'",
        never=("\x1b",),
        files={"a.yaml": '- {indices: {"X\\e": 1}, "\\e[2J": 2}\n'},
    ),
    refused(("frobnicate\x1b[2J",), "frobnicate", never=("\x1b",)),
    accepted((*SMALL.split(), "--out", f"{RED}.yaml"), never=("\x1b",)),
)
BARE = (accepted((), "Usage: einsearch", never=("error: ",)), accepted("--traceback", "Usage: einsearch"))

CASES: tuple[Case, ...] = (*FORMATS, *PATHS, *STUDIES, *READ, *CONTROLS, *BARE)
