"""The script of a page in a browser; needs Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.reports import render_report
from einsearch_cli.reports.speed_page import render_speed
from tests.reports.test_figures import noisy
from tests.reports.test_speed import DECODE, TRAINING, measured, result_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.timeout(180),
]

HELPERS = """
function column(table, number) {
  return Array.from(table.tBodies[0].rows).map(function (row) {
    return row.cells.length > 1 ? row.cells[number].firstChild.textContent : "divider";
  });
}
function sortBy(table, number) { table.tHead.rows[0].cells[number].querySelector("[role=button]").click(); }
function told() { var tip = document.getElementById("tip"); return tip.hidden ? null : tip.firstChild.textContent; }
"""


def result_in_browser(page: str, folder: Path, code: str, width: int = 1280) -> Any:
    """The return value of a function with this body, after the page was loaded in a window of this width."""
    # The policy of a page lets only its own script run.
    free = re.sub(r"<meta http-equiv[^>]*>", "", page)
    probe = f"<script>{HELPERS}document.title = JSON.stringify((function () {{ {code} }}()));</script></body>"
    path = folder / "page.html"
    path.write_text(free.replace("</body>", probe))
    size = f"--window-size={width},900"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", size, "--dump-dom", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search("<title>(.*?)</title>", shown, re.S)
    assert found is not None
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_rows_are_sorted_by_number_within_their_part_of_the_table(study, tmp_path) -> None:
    page = render_report(noisy(study(rungs=2, stopped=("low-rank", "kronecker"))))
    code = """var table = document.querySelector("table"), seen = [];
    sortBy(table, 3); seen.push(column(table, 3)); sortBy(table, 3); seen.push(column(table, 3));
    sortBy(table, 11); seen.push(column(table, 11));
    seen.push(table.querySelector("[aria-sort]").cellIndex); return seen;"""
    rising, falling, exponents, at = result_in_browser(page, tmp_path, code)
    parts = [
        [float(re.sub("[<>× ]", "", gain)) for gain in some[: some.index("divider")]] for some in (rising, falling)
    ]
    assert parts == [sorted(parts[0]), sorted(parts[0], reverse=True)]
    assert len(parts[0]) == 3
    assert rising.index("divider") == falling.index("divider") == 3, "losses with less compute are not comparable"
    assert exponents[:3] == ["1/2", "1/2", "1"], "fractions are numbers"
    assert at == 11


def test_times_of_several_units_are_sorted_as_times(tmp_path) -> None:
    times = {"a": 0.2e-3, "b": 3e-3, "c": 12e-6}
    layers = (measured(name, case, time) for case in (TRAINING, DECODE) for name, time in times.items())
    code = 'var table = document.querySelector("table"); sortBy(table, 4); return column(table, 4);'
    shown = result_in_browser(render_speed(result_of(*layers), "einsearch bench"), tmp_path, code)
    assert shown == [text for text in ("12.0 µs", "200 µs", "1.00 ms", "3.00 ms") for _ in range(2)]


def test_marks_tell_their_values_by_arrow_keys_and_on_a_tap_nearby(study, tmp_path) -> None:
    code = """var figure = document.querySelector(".figure"), seen = [];
    ["ArrowRight", "End", "Escape"].forEach(function (key) {
      figure.dispatchEvent(new KeyboardEvent("keydown", { key: key, cancelable: true }));
      seen.push(told());
    });
    var mark = figure.querySelector(".dot"), box = mark.getBoundingClientRect();
    figure.querySelector(".panels").dispatchEvent(new PointerEvent("pointerdown",
      { pointerType: "touch", bubbles: true, clientX: box.left + 10, clientY: box.top - 7 }));
    seen.push(told(), document.querySelectorAll("#section-ranking tr.hot").length); return seen;"""
    right, end, closed, tapped, lit = result_in_browser(render_report(study(rungs=1)), tmp_path, code)
    assert (right, end) == ("1 btt:r=2", "5 kronecker")
    assert closed is None
    assert tapped == "5 kronecker"
    assert lit == 1


def test_a_table_is_sorted_by_keyboard_and_its_rows_are_chosen_by_words(tmp_path) -> None:
    times = {"a-monarch": 0.2e-3, "b-monarch": 3e-3, "low-rank": 12e-6}
    cases = [replace(case, width=width) for case in (TRAINING, DECODE) for width in (64, 256)]
    page = render_speed(result_of(*(measured(name, case, t) for case in cases for name, t in times.items())), "bench")
    code = """var table = document.querySelector("table"), seen = [];
    var field = document.querySelector(".filter input"), count = document.querySelector(".filter output");
    function chosen() {
      return Array.from(table.tBodies[0].rows).filter(function (row) { return !row.hidden; }).map(function (row) {
        return Array.from(row.cells).slice(0, 4).map(function (cell) { return cell.textContent; }).join(" ");
      });
    }
    ["decode 64 monarch", "256 training 1.00", "monarch 6", ""].forEach(function (words) {
      field.value = words; field.dispatchEvent(new Event("input")); seen.push(chosen(), count.textContent);
    });
    var head = table.tHead.rows[0].cells[3].firstChild;
    ["Enter", " "].forEach(function (key) {
      head.dispatchEvent(new KeyboardEvent("keydown", { key: key, cancelable: true }));
      seen.push(head.parentNode.getAttribute("aria-sort"), column(table, 3)[0]);
    });
    return seen.concat([head.tabIndex, head.getAttribute("role"), document.querySelector(".filter").hidden]);"""
    monarchs, said, none, _, parts, _, every, all_said, *rest = result_in_browser(page, tmp_path, code)
    assert monarchs == ["decode 64 1 a-monarch", "decode 64 1 b-monarch"]
    assert (said, all_said) == ("2 of 16 rows", "16 rows")
    assert none == [], "256 and 1.00 are whole cells"
    assert parts == [], "6 is no part of 64"
    assert len(every) == 16
    assert rest == ["ascending", "a-monarch", "descending", "nn.Linear", 0, "button", False]
