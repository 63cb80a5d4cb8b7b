"""The offline HTML page: sections in order, one style, one script, nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from einsearch_cli.files import write_atomically
from einsearch_cli.reports.looks import Identity, identities
from einsearch_cli.reports.markup import Html, element
from einsearch_cli.reports.script import SCRIPT
from einsearch_cli.reports.study import StudyReport
from einsearch_cli.reports.style import STYLE
from einsearch_cli.structures import LayerSpec


@dataclass(frozen=True)
class Page:
    """What a section is given to write from."""

    study: StudyReport

    @cached_property
    def looks(self) -> dict[LayerSpec, Identity]:
        """How each structure looks, best first."""
        return identities(self.study)


Section = Callable[[Page], Html | None]
"""Returns the inside of a section, or None when it has nothing to show."""

_SECTIONS: dict[str, tuple[str, Section]] = {}


def report_section(name: str, title: str) -> Callable[[Section], Section]:
    """Register a section of the report; sections appear in the order in which they are registered.

    Args:
        name: identifier and link target in the page.
        title: heading shown above the section.
    """

    def register(section: Section) -> Section:
        _SECTIONS[name] = (title, section)
        return section

    return register


def report_sections() -> tuple[tuple[str, str], ...]:
    """(name, title) of every registered section, in the order of the page."""
    return tuple((name, title) for name, (title, _) in _SECTIONS.items())


def render_report(study: StudyReport) -> str:
    """The report as one HTML document that loads nothing from anywhere."""
    page = Page(study)
    sections = []
    for name, (title, section) in _SECTIONS.items():
        inside = section(page)
        if inside is not None:
            sections.append(element("section", element("h2", title), inside, id=f"section-{name}"))
    return html_document(study.title, "einsearch report", sections)


def html_document(title: str, kicker: str, sections: Iterable[Html]) -> str:
    """Sections under a title as one HTML document with the style and the script of all reports."""
    masthead = element("header", element("p", kicker, class_="kicker"), element("h1", title))
    tooltip = element("div", id="tip", role="status", hidden="hidden")
    return "<!DOCTYPE html>\n" + element(
        "html",
        _head(title),
        element("body", element("main", masthead, *sections), tooltip, element("script", Html(SCRIPT))),
        lang="en",
    )


def write_report(path: str | os.PathLike[str], study: StudyReport) -> None:
    """Write the report whole or not at all.

    Raises:
        OutputError: the path cannot be written.
    """
    write_atomically(path, render_report(study) + "\n")


def _head(title: str) -> Html:
    # Even if text from a study ever got into the page as markup, nothing but our own script may run.
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · einsearch"),
        element("style", Html(STYLE)),
    )
