"""Paths, streams and options that do not end where the user thinks."""

from __future__ import annotations

from tests.hostile.case import Case, accepted, refused

TABLE = "structure    family    ω\n-----------  --------  ---\nXA^1 YA^1    dense     0\n"
MARKDOWN = "| structure   | family   |\n|:------------|:---------|\n| XA^1 YA^1   | dense    |\n"
GRID = "enumerate --grid 2"
MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors write first."""

CASES: tuple[Case, ...] = (
    refused(f"{GRID} --out noext", "does not say the format", ".yaml, .yml", "--out noext.yaml, or add --format table"),
    refused(f"{GRID} --out g.weird", "does not say the format"),
    refused(f"{GRID} --out g.yaml.bak", "does not say the format"),
    refused(f"{GRID} --count --out count", "does not say the format"),
    refused("sample --out x.dat", "does not say the format"),
    refused("classify monarch --out card", "does not say the format"),
    refused("classify 'XA^a YA^a' --allow-block-diagonal --out card", "does not say the format"),
    accepted("classify monarch --out card --format json"),
    accepted("classify dense --out /dev/null"),
    accepted(f"{GRID} --out /dev/null"),
    *(
        refused(f"{command} {name}", f"{name} is a table for people", files={name: text}, never=("no structure or",))
        for command in ("rank", "classify", "draw", "bench")
        for name, text in (("noext", TABLE), ("g.txt", TABLE), ("g.weird", MARKDOWN))
    ),
    refused("classify -", "stdin is a table for people", stdin=TABLE),
    refused("rank mine", "mine is a file", "files of structures end in .yaml", files={"mine": "monarch\n"}),
    accepted("classify monarch --format csv", "1024", files={"monarch": "a file of that name"}),
    refused("rank - --widths 64 --budget 1e3", "leaves 111 training FLOPs", stdin="monarch\nbtt:r=2\n"),
    refused("rank -", "stdin holds no structure"),
    refused("rank -", "stdin:2: no structure or family is named 'nothing'", stdin="monarch\nnothing\n"),
    accepted("classify - --format csv", "monarch", stdin=MARK + b"monarch\n"),
    accepted("classify a.txt --format csv", "monarch", files={"a.txt": MARK + b"monarch\n"}),
    accepted("classify a.csv --format csv", "monarch", files={"a.csv": MARK + b"structure\nmonarch\n"}),
    accepted("classify a.json --format csv", "monarch", files={"a.json": MARK + b'["monarch"]'}),
    *(
        refused((*command.split(), "--out", ""), "--out is empty: a path is needed")
        for command in (
            "rank monarch",
            "train a.yaml",
            "tokenize a.txt",
            "export . --to onnx",
            "project . --structure monarch",
            "draw monarch",
            "classify monarch",
            GRID,
            "bench",
        )
    ),
    refused(("rank", "monarch", "--text", ""), "--text is empty"),
    refused(("tokenize", "", "--out", "a"), "PATH is empty"),
    refused(("generate", "", "--prompt", "a"), "CKPT is empty"),
    *(
        refused(f"{command} --out dirx/", "'dirx/': a / at the end asks for a folder")
        for command in ("export . --to onnx", "draw monarch", "classify monarch", GRID, "bench")
    ),
    *(
        refused(f"{command} --out {name}", f"--out '{name}' is not a folder", files={"a file": "", "full": "content"})
        for command in ("rank monarch", "train a.yaml", "tokenize full")
        for name in ("full", "/dev/full")
    ),
    refused("params s --set layers=null", "layers is null: it has no default", "--set layers=12"),
    refused(
        "train a.yaml",
        "model.layers is null: it has no default",
        files={"a.yaml": "{steps: 2, model: {width: 64, layers: null, heads: 2}}"},
    ),
    refused(f"{GRID} --max-omega 1e-400", "a fraction or a decimal of up to 24 characters, without an exponent"),
    refused(f"{GRID} --max-nu 0.{'1' * 40}", "up to 24 characters"),
    refused(f"{GRID} --family bbt", "--family 'bbt': families are dense", "--family btt", never=("carrier sets",)),
    refused("sample --family XA^1", "families are dense", never=("carrier sets",)),
    refused("rank monarch --workers 0", "from 1 to ", "4 for each core", never=("100,000",)),
    refused("bench --threads 0", "from 1 to ", "4 for each core", never=("10^18",)),
    refused("rank monarch --widths 64 --budget 1e3", "dense at width 64 needs", never=("XA^1 YA^1",)),
    refused("rank monarch --widths 1000000", "training dense at width 1000000", never=("XA^1 YA^1",)),
)
