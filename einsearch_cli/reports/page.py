"""The offline HTML pages: sections in order, one style, one script, nothing from the network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from einsearch_cli.register import add_once
from einsearch_cli.reports.looks import Identity, identities
from einsearch_cli.reports.markup import Html, escaped
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Page:
    """The data from which a section on a study is written."""

    study: StudyReport

    @cached_property
    def looks(self) -> dict[LayerSpec, Identity]:
        """How each structure looks, best first."""
        return identities(self.study)


Section = Callable[[Any], Html | None]
"""Returns the inside of a section, or None when it has nothing to show."""

_SECTIONS: dict[str, dict[str, tuple[str, Section]]] = {}


def report_section(name: str, title: str, page: str = "rank") -> Callable[[Section], Section]:
    """Register a section of a page; sections appear in the order in which they are registered.

    Args:
        name: identifier and link target in the page.
        title: heading shown above the section.
        page: the command whose page it is. Sections of 'rank' get a `Page`, those of 'train' a `TrainingReport`,
            those of 'bench' a `SpeedReport`.
    """

    def register(section: Section) -> Section:
        add_once("sections", _SECTIONS.setdefault(page, {}), name, (title, section))
        return section

    return register


def report_sections(page: str = "rank") -> tuple[tuple[str, str], ...]:
    """(name, title) of every registered section, in the order of the page."""
    return tuple((name, title) for name, (title, _) in _SECTIONS[page].items())


def render_page(page: str, title: str, subject: object, command: str | None = None) -> str:
    """One HTML document with all registered sections of a page; it loads nothing from anywhere.

    `command` heads the page, if another one than that of the page wrote it.
    """
    written = ((name, heading, section(subject)) for name, (heading, section) in _SECTIONS[page].items())
    sections = [(name, heading, inside) for name, heading, inside in written if inside is not None]
    script, style = _source("script.js"), _source("style.css")
    # Even if text from a study ever got into the page as markup, nothing but our own script may run.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    kicker = f"einsearch {command or page}"
    return fill("page.html", title=title, kicker=kicker, sections=sections, script=script, style=style, digest=digest)


def fill(template: str, **values: object) -> Html:
    """A template of the folder `templates` with values; all but `Html` is escaped.

    >>> fill("figure.html", drawing=Html("<svg></svg>"), caption="a < b")
    '<svg></svg><p class="caption">a &lt; b</p>'
    """
    return Html(_environment().get_template(template).render(values))


def _source(name: str) -> Html:
    loader, environment = _environment().loader, _environment()
    assert loader is not None
    return Html(loader.get_source(environment, name)[0])


@cache
def _environment() -> Environment:
    # Imported late: commands that write no page start 30 ms earlier.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("einsearch_cli.reports"),
        autoescape=True,
        finalize=escaped,  # also shows control characters, which Jinja lets through
        undefined=StrictUndefined,
    )
