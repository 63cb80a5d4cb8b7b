"""The glossary is in alphabetical order, short, and its links lead to pages and headings that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "glossary.md"
ENTRY = re.compile(r"^- \*\*(.+?)\*\*: (.+?)(?=\n- |\Z)", re.M | re.S)
ENTRIES = {term: " ".join(text.split()) for term, text in ENTRY.findall(PAGE.read_text(encoding="utf-8").rstrip())}
EXPLAINED = (
    "bootstrap", "btt-moe, low-rank-moe, dense-moe", "certified rank", "compute gain", "confirmation", "ffn-moe", "guide",
    "Holm correction", "learning rate multiplier", "margin", "merged layer", "permutation test", "rung",
    "self-guided training", "standard mixture", "successive halving", "token-major",
)  # fmt: skip
"""Terms whose entries lead to a page."""


def anchors(page: str) -> set[str]:
    """Anchors of the headings of a page, as the site and GitHub make them.

    >>> sorted(anchors("# A page\\n\\n## Where tokens come from: one way\\n"))
    ['a-page', 'where-tokens-come-from-one-way']
    """
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_terms_are_in_alphabetical_order() -> None:
    order = [re.sub(r"^. \((.+)\)$", r"\1", term).lower() for term in ENTRIES]
    assert order == sorted(order)


def test_every_line_belongs_to_an_entry() -> None:
    assert len(ENTRIES) == PAGE.read_text(encoding="utf-8").count("\n- ")


@pytest.mark.parametrize("term", EXPLAINED)
def test_entries_lead_to_a_page_that_says_more(term: str) -> None:
    assert re.findall(r"\]\((.+?)\)", ENTRIES[term])


@pytest.mark.parametrize("term", ENTRIES)
def test_links_lead_to_headings(term: str) -> None:
    for target in re.findall(r"\]\((.+?)\)", ENTRIES[term]):
        name, _, anchor = target.partition("#")
        page = (PAGE.parent / name).resolve()
        assert page.is_file()
        assert not anchor or anchor in anchors(page.read_text(encoding="utf-8"))
