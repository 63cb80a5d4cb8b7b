"""The English of docstrings: whoever reads one line alone, in a tooltip or a schema, must understand it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("einsearch_cli", "tests", "benchmarks", "examples")
LEANING = re.compile(r"\s*(Of|The same|Those|That of|What|Whose|Thereof)\b(?!.*\?)")
"""Beginnings that need the line above, and clauses without a main verb; questions may begin with "What"."""
ODD = re.compile(
    r"\b(anew|beside|thereof|so many|dear(er|est)?|as ever|of before|moreover|hear[ds]|unto|lest"
    r"|for want of|go(es)? by|been told|is told|are told|stands (once|twice)"
    r"|(?<![Tt]here )(is|are) no (?!longer|more|less|\w+er\b))\b"
)
"""Words and turns that readers stumbled over; `.plain-words.txt` has more of them for pages."""


def docstrings(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, name and text of every docstring: of modules, classes, functions, and below fields and constants."""

    def visit(body: list[ast.stmt], name: str) -> Iterator[tuple[int, str, str]]:
        for statement in body:
            match statement:
                case ast.Expr(ast.Constant(str(text))):
                    yield statement.lineno, name, text
                case ast.ClassDef(name=inner) | ast.FunctionDef(name=inner) | ast.AsyncFunctionDef(name=inner):
                    yield from visit(statement.body, inner)
                case ast.If() | ast.With() | ast.Try():
                    yield from visit(statement.body, name)
                case ast.Assign([ast.Name(target), *_]) | ast.AnnAssign(ast.Name(target)):
                    name = target

    yield from visit(ast.parse(source).body, "module")


def faults(source: str) -> list[str]:
    """Oddities in the docstrings of a file; code in them is left out."""
    found = []
    for line, name, text in docstrings(source):
        prose = re.sub(r"`[^`]*`|\"[^\"]*\"|^ *(>>>|\.\.\.).*$", "", text, flags=re.M)
        if LEANING.match(prose.split("\n\n")[0].replace("\n", " ")):
            found.append(f"{line}: {name}: begins with {text.split()[0]!r}")
        found += [f"{line}: {name}: {odd[0]!r}" for odd in ODD.finditer(prose)]
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_stand_on_their_own_in_plain_words(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert [f"{path.relative_to(ROOT)}:{fault}" for path in files for fault in faults(path.read_text())] == []


def test_every_kind_of_docstring_is_checked() -> None:
    source = '''"""Of a module."""
RATE = 1
"""Those of a constant."""
_SEED = 1
"""That of a private constant."""
class Run:
    """The same run."""
    steps: int
    """What a field has."""
    def go(self):
        """Whose method this is."""
        with open("file"):
            x = 1
            """Of what is set in a block."""
    def _go(self):
        """Computed anew, as it is no step."""
class Offer:
    """Offers begin with two such letters; there is no other kind, and it is no longer `beside` the point."""
def what():
    """What does a question ask?"""
'''
    assert faults(source) == [
        "1: module: begins with 'Of'",
        "3: RATE: begins with 'Those'",
        "5: _SEED: begins with 'That'",
        "7: Run: begins with 'The'",
        "9: steps: begins with 'What'",
        "11: go: begins with 'Whose'",
        "14: x: begins with 'Of'",
        "16: _go: 'anew'",
        "16: _go: 'is no '",
    ]
