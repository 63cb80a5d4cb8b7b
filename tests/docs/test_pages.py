"""README and docs show real outputs, and their lines, paragraphs and lists keep within the limits."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from einsearch_cli.cli import rank, search
from tests.docs.pages import PAGES, ROOT, Reader, blocks, commands, holes, prepare, prepare_books

RUN = [page for page in PAGES if blocks(page.read_text(encoding="utf-8"))]
REASONS = {
    "needs a cluster",
    "needs a GPU",
    "needs the network",
    "takes hours",
    "takes minutes",
    "sets up an environment",
}
"""Why a block may not be run; minutes are 10 or more, and are named."""
MOST_NOT_RUN = 13
TRAINING = "einsearch (rank|search|train) "
TOUR = ROOT / "examples" / "tour.ipynb"
WIDTH = 120
LINES = 5
"""Most lines of a paragraph."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages presuppose."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def texts_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who follows the tutorials: each one leaves there what it makes."""
    folder = tmp_path_factory.mktemp("tutorials")
    prepare_books(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # other libraries warn about each other
@pytest.mark.usefixtures("registers")
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_is_what_happens(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.parent.name == "tutorial":
        folder = request.getfixturevalue("texts_alone")
    else:
        folder = shutil.copytree(request.getfixturevalue("prepared"), tmp_path / "einsearch")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    monkeypatch.setenv("COLUMNS", "120")
    reader = Reader(folder)
    for block in blocks(page.read_text(encoding="utf-8")):
        if not block.note.startswith(("not run: ", "checked by ")):
            reader.run(block)


def test_blocks_that_are_not_run_are_few_and_say_why() -> None:
    left_out = [(page, block) for page in PAGES for block in blocks(page.read_text(encoding="utf-8")) if block.reason]
    listed = "".join(
        f"\n{page.relative_to(ROOT)}: {block.reason}: {block.text.splitlines()[0]}" for page, block in left_out
    )
    assert {block.reason.split(":")[0] for _, block in left_out} <= REASONS, listed
    assert len(left_out) <= MOST_NOT_RUN, listed


def test_blocks_that_other_tests_check_are_checked_there() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8")):
            if block.note.startswith("checked by "):
                assert f"def {block.note.removeprefix('checked by ')}(" in tests


def test_commands_on_pages_of_examples_made_their_results() -> None:
    checked = 0
    for page in sorted((ROOT / "examples").glob("*/README.md")):
        stored = [json.loads(path.read_text(encoding="utf-8")) for path in page.parent.rglob("results.json")]
        made = {without_folder(command) for results in stored for command in results["commands"]}
        for block in blocks(page.read_text(encoding="utf-8")):
            if block.note == "checked by test_commands_on_pages_of_examples_made_their_results":
                trained = [command for command, _ in commands(block.text) if re.match(TRAINING, command)]
                assert trained
                assert [command for command in trained if without_folder(command) not in made] == []
                checked += 1
    assert checked >= 5


def without_folder(command: str) -> str:
    return re.sub(r" --out \S+", "", command)


EXTRA_OF = {
    "cmaes": r"cma-es",
    "datasets": r"dataset:",
    "images": r"--images (?!\S+\.npy)",
    "onnx": r"--to onnx|save_onnx",
    "pandas": r"to_pandas",
    "png": r"--out \S+\.png",
    "ray": r"--engine ray",
    "slurm": r"--engine slurm",
    "tiktoken": r"tiktoken:",
    "tokenizers": r"bpe:|huggingface:",
    "transformers": r"import transformers|from transformers|--to hf",
}
"""Text in a command, a program or a setting that needs an extra."""


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_extras_are_named_before_they_are_needed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for extra, use in EXTRA_OF.items():
        for block in re.finditer(r"^```.*?^```$", text, re.M | re.S):
            if found := re.search(use, block[0]):
                before = text[: block.start() + found.start()]
                assert re.search(rf"pip install 'einsearch\[[^]]*\b{extra}\b", before), f"{extra}: {block[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    """A command in an indented block, or in one of another kind, would be run by nobody."""
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"^ {4}(?:\$ )?(?:einsearch|make|python|pip|ray|squeue) .*", text, re.M)
    for block in blocks(text):
        if block.kind == "console":
            assert list(commands(block.text)), block.text


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_row_leaves_out_its_middle(page: Path) -> None:
    """A number behind a gap would seem to belong to another column."""
    for block in blocks(page.read_text(encoding="utf-8")):
        assert holes(block.shown if block.kind == "python" else block.text) == []


def test_studies_have_three_widths_or_none() -> None:
    """With fewer no verdict is possible."""
    texts = [*(page.read_text(encoding="utf-8") for page in PAGES), rank.HELP, search.HELP]
    texts.append(TOUR.read_text(encoding="utf-8"))
    widths = re.findall(r"einsearch (?:rank|search) .*--widths (\S+)|widths: \[(.*)\]", "\n".join(texts))
    named = [option or key for option, key in widths]
    assert len(named) >= 4
    assert [text for text in named if text.count(",") < 2] == []


WRITTEN = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "docs" / "explanation" / "claims.md"]
"""Pages that people write, or a part of which they write."""


def written(page: Path) -> str:
    """The part of a page that people write, without the generated blocks (`<!-- begin NAME -->`)."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^<!-- begin (\w+) -->\n.*?^<!-- end \1 -->$", "", text, flags=re.M | re.S)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short(page: Path) -> None:
    assert [line for line in written(page).splitlines() if len(line) > WIDTH] == []


def paragraphs(text: str) -> list[str]:
    """Paragraphs of prose and points of lists: no code, tables, headings and comments.

    >>> paragraphs("# A\\n\\nb\\nc\\n\\n```\\ncode\\n```\\n\\n- d\\n  e\\n1. f\\n\\n`g`, `h`\\n")
    ['b\\nc', '- d\\n  e', '1. f']
    """
    text = re.sub(r"^(```+).*?^\1$|<!--.*?-->", "", text, flags=re.M | re.S)
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) |#)", text)
    names = re.compile(r"(`[^`]+`,?\s*)+")
    return [part.strip() for part in parts if part.strip() and not re.match("[#|]", part) and not names.fullmatch(part)]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_paragraphs_are_short(page: Path) -> None:
    assert [text for text in paragraphs(written(page)) if len(text.splitlines()) > LINES] == []


def test_the_readme_has_two_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200


def test_every_entry_of_the_log_is_in_its_index_once() -> None:
    folder = ROOT / "docs" / "design" / "log"
    index = " ".join((folder / "index.md").read_text(encoding="utf-8").split())
    named = Counter(re.findall(r"- (\d{4}-\d\d-\d\d: )\[(.+?)\]\((.+?\.md)#", index))
    entries: Counter[tuple[str, str, str]] = Counter()
    for page in sorted(folder.glob("20*.md")):
        for day, title in re.findall(r"^## (\d{4}-\d\d-\d\d: )(.+)$", page.read_text(encoding="utf-8"), re.M):
            entries[day, title, page.name] += 1
        days = re.findall(r"^## (\d{4}-\d\d-\d\d): ", page.read_text(encoding="utf-8"), re.M)
        assert days == sorted(days, reverse=True), "newest first"
    assert entries
    assert named == entries
