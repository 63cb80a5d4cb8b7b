"""The blocks of a page of Markdown, run from top to bottom as a reader would run them, and compared with what it shows.

- `console`: every command after `$ ` runs, and its stdout is compared with the lines below it. `...` stands for any text
  within a line, or on a line of its own for any number of lines.
- `python`: a first line `# NAME.py` makes it a file that later commands read. Any other block runs with the names of the
  blocks above it, and what it prints stands in the `text` block below it.
- `yaml`, `toml`, `json`: the settings are checked. A first line `# NAME` makes it a file that later commands read.

`<!-- decimals within a tenth -->` above a block of losses lets other processors end with other digits.
`<!-- not run: REASON -->` leaves a block out; `<!-- checked by TEST -->` says which test compares it instead.
`<!-- planned alone: REASON -->` makes the plans of the block's studies (`--dry-run`), and trains nothing.
Of `pip install` only the extras are checked.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from pydantic import TypeAdapter

from einsearch_cli.cli.main import main
from einsearch_cli.files import write_atomically
from einsearch_cli.reports import StudyReport
from einsearch_cli.reports.stored import read_study
from einsearch_cli.search.owner import Owner, utc_now
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.status import STATUS, Cost, RunCounts, StudyStatus
from einsearch_cli.structures.safe_yaml import load_yaml
from einsearch_cli.training.full.train_spec import TrainSpec

ROOT = Path(__file__).parents[2]
GENERATED = {"cli.md", "spec-keys.md", "results.md", "speed.md", "claims.md"}
"""Pages of docs that programs write, with tests of their own."""
PAGES = [
    ROOT / "README.md",
    *sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if path.name not in GENERATED and "log" not in path.parts and "python" not in path.parts
    ),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
"""Pages that people write."""
REST = "..."
NEAR = "decimals within a tenth"
HERE = "--engine-option executor=local"
"""Lets Slurm's tasks be processes of this machine, as a plan asks for the cluster."""
LEAST_LETTERS = 20
"""Least letters and digits that are shown of an output; of a shorter output, at least half of them."""
_FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^>]+) -->\n+)?^(?P<fence>```+)(?P<kind>\S*)\n(?P<text>.*?)^(?P=fence)$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    note: str
    """The comment above the block."""
    shown: str
    """The `text` block below a `python` block."""

    @property
    def reason(self) -> str:
        """Why the block is not run."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else ""

    @property
    def is_planned_alone(self) -> bool:
        return self.note.startswith("planned alone: ")


def blocks(page: str) -> list[Block]:
    """All blocks of code of a page.

    >>> [block] = blocks("```python\\nprint(1)\\n```\\n\\n```text\\n1\\n```\\n")
    >>> block.text, block.shown
    ('print(1)\\n', '1\\n')
    """
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(page):
        note = match["note"] or ""
        is_below = found and found[-1].kind == "python" and not page[end : match.start()].strip() and not note
        if match["kind"] == "text" and is_below:
            found[-1] = Block("python", found[-1].text, found[-1].note, match["text"])
        else:
            found.append(Block(match["kind"], match["text"], note, ""))
        end = match.end()
    return found


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Commands of a console with what is shown below each.

    >>> list(commands("$ a \\\\\\n    b\\n1\\n$ c  # why\\n"))
    [('a b', '1\\n'), ('c', '')]
    """
    text = re.sub(r" *\\\n *", " ", text)
    for command, shown in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", text, re.M):
        yield re.sub(r"\s+# .*$", "", command), shown


def pattern_of(shown: str, near: bool = False) -> re.Pattern[str]:
    """The pattern that an output has to match in full; with `near`, its decimals are groups that may be any number.

    >>> bool(pattern_of("a ... c\\n...\\nz\\n").fullmatch("a b c\\n1\\n2\\nz\\n"))
    True
    >>> bool(pattern_of("a\\n").fullmatch("a\\nb\\n"))
    False
    """
    lines = []
    for line in shown.splitlines():
        text = re.escape(line.rstrip()).replace(re.escape(REST), ".*")
        if near:
            text = re.sub(r"\d+\\\.\d+", r"(\\d+\\.\\d+)", text)
            text = re.sub(r"(?:\\ )+", r" +", text)  # a number of other length moves the columns
        lines.append("(?:.*\\n)*?" if line.strip() == REST else text + " *\\n")
    return re.compile("".join(lines))


def holes(shown: str) -> list[str]:
    """Lines of a table with a gap before their end: all that follows it would seem to belong to another column.

    >>> holes("a    b    c\\n1 ... 3\\n1    2 ...\\n3 seeds; ... workers\\n")
    ['1 ... 3']
    """
    return [line for line in shown.splitlines() if re.search(r"[^\s,;:] +\.\.\. +\S", line)]


def compare(shown: str, found: str, what: str, near: bool = False) -> None:
    """Fail unless the output is what is shown, and enough of it is shown.

    With `near`, decimals may differ by a tenth of them, and percentages, which are differences of losses, by 2.

    >>> compare("the loss after some steps is 2.50\\n", "the loss after some steps is 2.51\\n", "it", near=True)
    >>> compare("the loss after some steps is 2.50\\n", "the loss after some steps is 3.10\\n", "it", near=True)
    Traceback (most recent call last):
    ...
    AssertionError: it: 3.1 is more than a tenth from 2.5
    """
    match = pattern_of(shown, near).fullmatch(found)
    assert match, f"{what}\nshown:\n{shown}\nfound:\n{found}"
    numbers = re.findall(r"(\d+\.\d+)(%?)", shown) if near else ()
    for there, (here, percent) in zip(match.groups(), numbers, strict=True):
        limit = max(0.1 * float(here), 2 if percent else 0.02)
        assert abs(float(there) - float(here)) <= limit, (
            f"{what}: {float(there)} is more than a tenth from {float(here)}"
        )
    letters = _letters(found)
    assert _letters(shown.replace(REST, "")) >= min(LEAST_LETTERS, letters / 2), f"{what}: too little is compared"


def _letters(text: str) -> int:
    return sum(char.isalnum() for char in text)


class Reader:
    """Somebody who follows a page, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        program = folder / "bin" / "einsearch"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m einsearch_cli "$@"\n', encoding="utf-8")
        program.chmod(0o755)

    def run(self, block: Block) -> None:
        match block.kind:
            case "console" if block.is_planned_alone:
                for command, _ in commands(block.text):
                    if command.startswith("einsearch rank "):
                        self.output_of(f"{command} --dry-run {HERE}")
            case "console":
                for command, shown in commands(block.text):
                    compare(shown, self.output_of(command), command, block.note == NEAR)
            case "python" if re.match(r"# [\w./-]+\.py\n", block.text):
                self.save(block.text)
            case "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(block.text, "block", "exec"), self.names)  # noqa: S102
                compare(block.shown, printed.getvalue(), block.text)
            case "yaml":
                self.save(block.text)
                check_settings(load_yaml(block.text, "block").data)
            case "json":
                json.loads(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "bibtex":
                assert block.text.startswith("@")
            case other:
                raise AssertionError(f"a block of {other or 'no kind'} is not run:\n{block.text}")

    def save(self, text: str) -> None:
        if name := re.match(r"# ([\w./-]+\.\w+)\n", text):
            path = self.folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def output_of(self, command: str) -> str:
        """The stdout of a command; einsearch alone runs in this process, which does not load torch again."""
        words = shlex.split(command)
        if words[:2] == ["pip", "install"]:
            assert [word for word in words[2:] if not is_installable(word)] == []
            return ""
        if words[0] == "einsearch" and not {"|", "<", ">", "&&"} & set(words) and "<(" not in command:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(words[1:])
            assert code == 0, f"{command}\n{err.getvalue()}"
            return out.getvalue()
        path = f"{self.folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=self.folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def is_installable(word: str) -> bool:
    """Whether it is an option of pip, this folder, or einsearch with extras that it has.

    >>> is_installable("einsearch[onnx,ray]"), is_installable("einsearch[onyx]")
    (True, False)
    """
    extras = re.fullmatch(r"einsearch\[(.+)\]", word)
    return word in {"-e", "."} or bool(extras and EXTRAS.keys() >= set(extras[1].split(",")))


def check_settings(settings: dict[str, Any]) -> None:
    """Fail unless every key is one of a study or of a training file, with a value that it takes."""
    for spec in (StudySpec, TrainSpec):
        if settings.keys() <= spec.model_fields.keys():
            for key, value in settings.items():
                TypeAdapter(spec.model_fields[key].annotation).validate_python(value)
            return
    raise AssertionError(f"neither a study nor a training file has all of these keys: {', '.join(settings)}")


TINY = {
    "model": {"width": 64, "layers": 2, "heads": 2, "context": 32},
    "data": {"text": "books"},
    "batch": 4,
    "steps": 2,
}


def prepare_books(folder: Path) -> None:
    """Write some texts, the only files that the tutorials presuppose; their names are the reader's own choice."""
    (folder / "books").mkdir()
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")  # a text that never changes
    for number, name in enumerate(("alpha", "my book", "notes", "tales")):
        (folder / "books" / f"{name}.txt").write_text(text[number * 1000 :] + text, encoding="utf-8")


def prepare(folder: Path) -> None:
    """Put into a folder what the pages presuppose: specs, examples, texts, a photo, the demo, a trained transformer."""
    for name in ("specs", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    prepare_books(folder)
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photos" / "lake.png")
    demo = shutil.copytree(ROOT / "examples" / "demo", folder / "runs" / "demo")
    write_atomically(demo / STATUS, json.dumps(status_of(read_study(demo)).to_json()))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["train", str(folder / "tiny.yaml"), "--out", str(folder / "runs" / "dense")]) == 0


def status_of(study: StudyReport) -> StudyStatus:
    """The status that a finished study leaves; the committed ones are stored without it."""
    runs = study.all_runs
    spent = sum(run.train_flops for run in runs), sum(run.total_flops for run in runs)
    return StudyStatus(
        study=study.title,
        task=study.task,
        state="finished",
        process=Owner.here(),
        updated=utc_now(),
        engine="local",
        workers=2,
        runs=RunCounts(expected=len(runs), ok=len(runs)),
        cost=Cost(*spent, sum(run.elapsed_s for run in runs) / 3600),
    )
