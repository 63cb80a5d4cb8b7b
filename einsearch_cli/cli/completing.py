"""Completion of arguments by the Tab key; where nothing fits, the shell offers files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from einsearch_cli.shipped import Kind, names_of

Offers = list[tuple[str, str]]
"""Words with their meanings, which zsh and fish show."""


def complete(*kinds: Kind, structures: bool = True) -> Callable[[str], Offers]:
    """Offers the words that a structure begins with, and the names of specs of some kinds."""

    def offers(incomplete: str) -> Offers:
        specs = [(name, f"{kind} that comes with einsearch") for kind in kinds for name in names_of(kind)]
        words = [*_structures()] if structures else []
        return [(word, text) for word, text in (*words, *specs) if word.startswith(incomplete)]

    return offers


def complete_family(incomplete: str) -> list[str]:
    """The families whose names begin with the typed text."""
    from einsearch_cli.structures import FAMILIES

    return [name for name in FAMILIES if name.startswith(incomplete)]


def complete_task(incomplete: str) -> list[str]:
    """The proxy tasks whose names begin with the typed text."""
    from einsearch_cli.tasks import task_names

    return [name for name in task_names() if name.startswith(incomplete)]


def _structures() -> Iterator[tuple[str, str]]:
    """Every family, with the least parameters that it needs, then layers of experts of it."""
    from einsearch_cli.structures import FAMILIES

    texts = {name: _least(name) for name in FAMILIES}
    yield from ((text, FAMILIES[name].carriers) for name, text in texts.items())
    for name, text in texts.items():
        parameters = text.partition(":")[2]
        yield (
            f"{name}-moe:{parameters}{',' * bool(parameters)}experts=8,top=2",
            f"8 experts of {name}, of which a token uses 2",
        )
    yield "ffn-moe:experts=8,top=2", "8 feed-forward networks, of which a token uses 2"


def _least(name: str) -> str:
    from einsearch_cli.structures import FAMILIES

    needed = [key for key, default in FAMILIES[name].parameters.items() if default is None]
    return name + ":" * bool(needed) + ",".join(f"{key}=16" for key in needed)
