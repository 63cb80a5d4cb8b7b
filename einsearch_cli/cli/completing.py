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


def offer(*words: str) -> Callable[[str], list[str]]:
    """Offers those of some words that begin with the typed text; others may be given too."""

    def offers(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return offers


def one_of(*words: str) -> Callable[[str], list[str]]:
    """Offers the only words that an option takes, which its help and its refusals list (`help_page.choices_of`)."""
    offers = offer(*words)
    vars(offers)["choices"] = words
    return offers


def complete_card(incomplete: str) -> list[str]:
    """The accelerators whose names begin with the typed text."""
    from einsearch_cli.models.transformer.resources import ACCELERATORS

    return offer(*ACCELERATORS)(incomplete)


def complete_family(incomplete: str) -> list[str]:
    """The families whose names begin with the typed text."""
    from einsearch_cli.structures import FAMILIES

    return offer(*FAMILIES)(incomplete)


def complete_task(incomplete: str) -> list[str]:
    """The proxy tasks whose names begin with the typed text."""
    from einsearch_cli.tasks import task_names

    return offer(*task_names())(incomplete)


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
