"""The English of docstrings: whoever reads one line alone, in a tooltip or a schema, must understand it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "einsearch_cli"
LEANING = ("Of", "The same", "Those")
"""Beginnings that lean on the line above."""


def leaning(body: list[ast.stmt], name: str = "module") -> Iterator[tuple[str, int]]:
    """Name and line of public docstrings, at the beginning of a body or under a field, that lean on another line."""
    for statement in body:
        match statement:
            case ast.Expr(ast.Constant(str(text))):
                if not name.startswith("_") and any(text.lstrip().startswith(f"{words} ") for words in LEANING):
                    yield name, statement.lineno
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() if not statement.name.startswith("_"):
                yield from leaning(statement.body, statement.name)
            case ast.Assign([ast.Name(target), *_]) | ast.AnnAssign(ast.Name(target)):
                name = target


def test_docstrings_stand_on_their_own() -> None:
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, line in leaning(ast.parse(path.read_text()).body)
    ]
    assert found == []


def test_every_kind_of_docstring_is_looked_at() -> None:
    source = '''"""Of a module."""
RATE = 1
"""Those of a constant."""
_SEED = 1
"""Of what is private."""
class Run:
    """The same run."""
    steps: int
    """Of a field."""
    def go(self):
        """Those of a method."""
    def _go(self):
        """Of what is private."""
class Offer:
    """Offers begin with two such letters."""
'''
    places = [("module", 1), ("RATE", 3), ("Run", 7), ("steps", 9), ("go", 11)]
    assert list(leaning(ast.parse(source).body)) == places
