"""Pages in a browser: readable names, and tables that fit; needs Chromium."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest

from einsearch_cli.reports import render_report
from einsearch_cli.reports.speed_page import render_speed
from einsearch_cli.reports.stored import read_study, read_training
from einsearch_cli.reports.training_page import render_training
from einsearch_cli.speed import Case, Mode
from tests.reports.test_confirmation import confirmed
from tests.reports.test_experts import with_experts
from tests.reports.test_figures import TEXTS, noisy
from tests.reports.test_script import pytestmark as pytestmark, result_in_browser
from tests.reports.test_speed import measured, result_of
from tests.reports.test_stored import whole

LEAST_CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3."""

SPEED = result_of(
    *(
        measured(name, Case(mode, width, 256), time * width * 1e-6)
        for (name, time), mode, width in product(
            [("monarch", 2), ("btt:r=4", 8), ("low-rank", 4)], [Mode.training, Mode.decode], [256, 1024]
        )
    )
)


SHARES = [("monarch", 0.1), ("btt:r=4", 0.12), ("low-rank", 0.18), ("kronecker", 0.2), ("dense", 0.21)]
ONE_WIDTH = result_of(*(measured(name, Case(Mode.decode, 4096, 256), 1e-3, share) for name, share in SHARES))
"""A narrow range of FLOPs, whose ticks have long labels."""
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(params=["ranking", "experts", "speed", "speed of one width", "training"])
def page(request: pytest.FixtureRequest, study) -> str:
    if request.param.startswith("speed"):
        return render_speed(SPEED if request.param == "speed" else ONE_WIDTH, "einsearch bench")
    if request.param == "training":
        report = read_training(EXAMPLES / "structured_ffn")
        assert report is not None
        return render_training(report)
    return render_report(
        noisy(study(texts=TEXTS, rungs=3))
        if request.param == "ranking"
        else with_experts(study(), (0.2, 0.9), (0.0, 0.3))
    )


def test_texts_of_drawings_lie_apart_and_within(page: str, tmp_path) -> None:
    code = """var wrong = [];
    document.querySelectorAll("svg.plot").forEach(function (plot) {
      var frame = plot.getBoundingClientRect(), boxes = [];
      plot.querySelectorAll("text:not(.badge-text)").forEach(function (text) {
        var box = text.getBoundingClientRect();
        var leaves = box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
        if (leaves) wrong.push(text.textContent);
        boxes.forEach(function (other) {
          if (Math.min(box.right, other[0].right) - Math.max(box.left, other[0].left) > 1 &&
              Math.min(box.bottom, other[0].bottom) - Math.max(box.top, other[0].top) > 4)
            wrong.push(text.textContent + " on " + other[1]);
        });
        boxes.push([box, text.textContent]);
      });
    });
    return wrong;"""
    assert result_in_browser(page, tmp_path, code) == []


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_words_of_drawings_stand_out_from_what_is_behind_them(page: str, tmp_path, is_dark: bool) -> None:
    code = """function parts(text) {
      return text.match(/[\\d.]+/g).slice(0, 3).map(function (part) { return part * (/^color/.test(text) ? 1 : 1 / 255); });
    }
    function light(text) {
      var linear = parts(text).map(function (v) { return v <= 0.04045 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); });
      return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05;
    }
    var card = getComputedStyle(document.querySelector(".figure")).backgroundColor, least = 99, count = 0;
    document.querySelectorAll("svg.plot text").forEach(function (text) {
      var behind = text.classList.contains("badge-text") ? getComputedStyle(text.previousElementSibling).fill : card;
      var one = light(getComputedStyle(text).fill), other = light(behind);
      least = Math.min(least, Math.max(one / other, other / one));
      count += 1;
    });
    return [least, count, light(card)];"""
    if is_dark:
        page = page.replace("(prefers-color-scheme: dark)", "(min-width: 1px)")
    least, count, card = result_in_browser(page, tmp_path, code)
    assert (card < 0.2) is is_dark
    assert count > 10
    assert least >= LEAST_CONTRAST


def test_the_widest_ranking_fits_a_laptop(study, tmp_path) -> None:
    page = render_report(whole(study))
    code = """var box = document.querySelector("#section-ranking .scroll");
    return [box.scrollWidth - box.clientWidth, box.querySelectorAll("th").length];"""
    beyond, columns = result_in_browser(page, tmp_path, code, width=1265)
    assert columns == 15
    assert beyond == 0


def test_exponents_with_large_denominators_fit_a_laptop(tmp_path) -> None:
    page = render_report(read_study(EXAMPLES / "search"))
    code = """var box = document.querySelector("#section-ranking .scroll");
    return [box.scrollWidth - box.clientWidth, box.textContent.indexOf("571/720") > 0];"""
    assert result_in_browser(page, tmp_path, code, width=1265) == [0, True]


@pytest.mark.parametrize("inside", [703, 1031], ids=["A4 portrait", "A4 landscape"])
def test_a_printed_page_has_all_columns_rows_and_folded_parts(study, tmp_path, inside: int) -> None:
    """At the width that is left of A4 between margins of 12 mm, by the rules of print, nothing is cut off or scrolls."""
    page = render_report(whole(study)).replace("@media print", "@media all")
    code = """window.dispatchEvent(new Event("beforeprint"));
    var wrong = [], main = document.querySelector("main");
    main.style.width = "%dpx";
    document.querySelectorAll(".scroll, .setup, .structure, .figure, .facts, .drawing").forEach(function (box) {
      if (box.scrollWidth > box.clientWidth + 1) wrong.push(box.className + " " + box.scrollWidth + " of " + box.clientWidth);
    });
    var folded = Array.from(document.querySelectorAll("details")).filter(function (item) { return !item.open; });
    return [wrong, folded.length, document.querySelectorAll("table button").length, main.clientWidth];"""
    wrong, folded, buttons, width = result_in_browser(page, tmp_path, code % inside)
    assert width == inside
    assert wrong == []
    assert folded == 0
    assert buttons == 0, "buttons are blank in a head that is repeated on the next page"


@pytest.mark.parametrize("inside", [703, 1031], ids=["A4 portrait", "A4 landscape"])
def test_two_dozen_seeds_fit_on_paper(study, tmp_path, inside: int) -> None:
    texts = ("dense", "monarch", "XA^89/120 XAB^31/120 YB^3/20 YAB^17/20")
    page = render_report(confirmed(study, 24, texts=texts)).replace("@media print", "@media all")
    code = """document.querySelector("main").style.width = "%dpx";
    var box = document.querySelector("#section-confirmation .scroll");
    return [box.scrollWidth - box.clientWidth, box.textContent.split("1023:").length - 1, box.clientWidth];"""
    beyond, last_seeds, width = result_in_browser(page, tmp_path, code % inside)
    assert beyond <= 0
    assert last_seeds == 9, "every width of three structures has its last seed"
    assert 0.9 * inside < width < inside


def test_a_phone_scrolls_tables_and_not_the_page(page: str, tmp_path) -> None:
    code = """var frame = document.createElement("iframe");
    frame.style.cssText = "width: 390px; height: 800px; border: 0";
    document.body.appendChild(frame);
    var inside = frame.contentDocument;
    inside.open(); inside.write(%s); inside.close();
    var root = inside.documentElement, cards = inside.querySelectorAll(".structure .network").length;
    return [frame.contentWindow.innerWidth, root.scrollWidth - root.clientWidth, cards];"""
    text = json.dumps(_without_script(page)).replace("</", r"<\/")  # no end of the script that writes it
    inner, beyond, cards = result_in_browser("<html><body></body></html>", tmp_path, code % text)
    assert (inner, beyond) == (390, 0)
    assert cards >= 2, "the page was not written"


def test_names_at_the_ends_of_lines_cover_no_line(page: str, tmp_path) -> None:
    code = """var wrong = [];
    document.querySelectorAll("svg.plot").forEach(function (plot) {
      var toScreen = plot.getScreenCTM(), labels = Array.from(plot.querySelectorAll(".end-label text"));
      plot.querySelectorAll("path.line").forEach(function (line) {
        for (var at = 0; at < line.getTotalLength(); at += 2) {
          var place = line.getPointAtLength(at).matrixTransform(toScreen);
          labels.forEach(function (label) {
            var box = label.getBoundingClientRect();
            if (place.x > box.left && place.x < box.right && place.y > box.top + 3 && place.y < box.bottom - 3 &&
                wrong.indexOf(label.textContent) < 0)
              wrong.push(label.textContent);
          });
        }
      });
    });
    return wrong;"""
    assert result_in_browser(page, tmp_path, code) == []


def test_a_phone_shows_labels_of_axes_whole_and_apart(page: str, tmp_path) -> None:
    code = """var frame = document.createElement("iframe");
    frame.style.cssText = "width: 390px; height: 800px; border: 0";
    document.body.appendChild(frame);
    var inside = frame.contentDocument, wrong = [], count = 0;
    inside.open(); inside.write(%s); inside.close();
    inside.querySelectorAll("svg.plot").forEach(function (plot) {
      var shown = plot.parentNode.getBoundingClientRect(), before = {right: -99, top: 0};
      plot.querySelectorAll(".tick.middle, .tick.end").forEach(function (tick) {
        var box = tick.getBoundingClientRect();
        var touches = Math.abs(box.top - before.top) < 2 && box.left < before.right + 1 && box.right > before.right;
        if (box.left < shown.left - 0.5 || box.right > shown.right + 0.5 || touches) wrong.push(tick.textContent);
        before = box; count += 1;
      });
    });
    return [wrong, count];"""
    text = json.dumps(_without_script(page)).replace("</", r"<\/")
    wrong, count = result_in_browser("<html><body></body></html>", tmp_path, code % text)
    assert wrong == []
    assert count >= 12, "the page was not written"


def _without_script(page: str) -> str:
    return re.sub(r"<meta http-equiv[^>]*>|<script>.*?</script>", "", page, flags=re.S)
