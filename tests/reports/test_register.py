"""The pages of `rank`, `train` and `bench`: one register of sections, and one way from words to HTML."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from einsearch_cli.reports import Page, page as page_module, report_section, report_sections
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.page import fill, render_page
from einsearch_cli.reports.speed_page import SpeedReport, render_speed
from einsearch_cli.reports.training_page import render_training
from tests.reports.test_figures import TRAINED
from tests.reports.test_page import HOSTILE, Checker
from tests.reports.test_speed import RESULT, result_of


@pytest.mark.parametrize("page", ["rank", "train", "bench"])
def test_every_page_grows_by_one_registration(study, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.setattr(page_module, "_SECTIONS", {name: dict(some) for name, some in page_module._SECTIONS.items()})

    @report_section("extra", "Something <new>", page=page)
    def extra(subject: object) -> Html:
        return fill("findings.html", sentences=[f"made from a <{type(subject).__name__}>"])

    assert report_sections(page)[-1] == ("extra", "Something <new>")
    made = study()
    subjects: dict[str, object] = {
        "rank": Page(made),
        "train": TRAINED,
        "bench": SpeedReport(RESULT, "einsearch bench"),
    }
    written = Checker(render_page(page, "A title", subjects[page]))
    assert "Something <new>" in written.text
    assert f"made from a <{type(subjects[page]).__name__}>" in written.text
    for name, title in report_sections(page)[:2]:
        assert title in written.text
        assert ("section", {"id": f"section-{name}"}) in written.seen


def test_hostile_words_of_runs_and_layers_stay_words() -> None:
    run = replace(TRAINED.runs[1], result=replace(TRAINED.runs[1].result, name=HOSTILE, structure=HOSTILE))
    report = replace(TRAINED, title=HOSTILE, runs=(run, *TRAINED.runs), data=HOSTILE, commands=(HOSTILE,))
    layers = result_of(replace(RESULT.measurements[0], name=HOSTILE))
    for html in (render_training(report), render_speed(layers, HOSTILE)):
        page = Checker(html)
        assert (page.count("script"), html.count("<script"), page.count("style")) == (1, 1, 1)
        assert not any(name.startswith("on") for _, attributes in page.seen for name in attributes)
        assert "<script>alert(1)</script>" in page.text
        assert not {"\x00", "\x1b", "\ud800"} & set(html)


def test_the_picture_of_the_readme_shows_sections_that_exist() -> None:
    [short] = re.findall("^SHORT = (.*)$", (Path(__file__).parents[2] / "Makefile").read_text(), flags=re.M)
    shown = re.findall(r"#section-([a-z]+)", short)
    assert shown == ["result", "ranking", "scaling"]
    assert set(shown) <= {name for name, _ in report_sections()}
