import re
from html.parser import HTMLParser

import pytest

from einsearch_cli.errors import OutputError
from einsearch_cli.reports import render_report, write_report
from einsearch_cli.reports.headline import headline
from einsearch_cli.reports.looks import MARKERS, identities
from einsearch_cli.structures import parse_structure

VOID = {"meta", "br", "hr", "col", "input", "img", "link"}


class Checker(HTMLParser):
    """Reads a page, checks that every tag is closed, and keeps what tests ask for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"doubled attribute in <{tag}>"
        self.seen.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(seen == tag for seen, _ in self.seen)


CASES = {
    "several budgets": {},
    "one candidate": {"texts": ("dense",)},
    "one budget": {"rungs": 1},
    "one seed": {"seeds": 1},
    "one width": {"widths": (128,)},
    "one of everything": {"texts": ("dense",), "rungs": 1, "seeds": 1, "widths": (64,)},
    "some stopped early": {"rungs": 3, "stopped": ("low-rank", "kronecker")},
    "some failed": {"failed": ("kronecker",)},
    "dense failed": {"failed": ("dense",)},
    "all failed": {"texts": ("dense", "monarch"), "failed": ("dense", "monarch")},
    "no runs": {"texts": ()},
    "baselines": {"baselines": ("monarch", "kronecker"), "failed": ("kronecker",)},
    "many": {"texts": ("dense", *(f"btt:r={r}" for r in range(2, 42)))},
}


@pytest.mark.parametrize("case", CASES)
def test_page_is_whole_and_names_every_structure(study, case):
    made = study(**CASES[case])
    page = Checker(render_report(made))
    assert page.count("h1") == 1
    for structure in made.structures:
        assert str(structure) in page.text
    for sentence in headline(made):
        assert sentence in page.text


@pytest.mark.parametrize("case", CASES)
def test_page_loads_nothing(study, case):
    html = render_report(study(**CASES[case]))
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", html)
    page = Checker(html)
    assert not {"link", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.seen}
    assert not any({"src", "srcset"} & set(attributes) for _, attributes in page.seen)
    assert all(attributes["href"].startswith("#") for _, attributes in page.seen if "href" in attributes)
    assert page.count("script") == 1


@pytest.mark.parametrize("case", CASES)
def test_drawings_have_finite_coordinates_inside_the_figure(study, case):
    page = Checker(render_report(study(**CASES[case])))
    for _, attributes in page.seen:
        numbers = " ".join(attributes.get(name, "") for name in ("d", "cx", "cy", "x", "y", "x1", "x2", "y1", "y2"))
        assert "nan" not in numbers
        assert "inf" not in numbers
    for tag, attributes in page.seen:
        if tag == "circle" and "class" in attributes:  # of a chart; those of networks are moved as a whole
            assert 0 <= float(attributes["cx"]) <= 900
            assert 0 <= float(attributes["cy"]) <= 520


HOSTILE = "<script>alert(1)</script>\"' onmouseover=x & </style> \x00\x1b[31m \ud800"


def test_text_of_a_study_cannot_become_markup(study):
    made = study(
        title=HOSTILE,
        task=HOSTILE,
        failed=("kronecker",),
        error=HOSTILE,
        commands=(HOSTILE,),
        environment=((HOSTILE, HOSTILE),),
        loss_name=HOSTILE,
        notes=(HOSTILE,),
    )
    html = render_report(made)
    page = Checker(html)
    assert page.count("script") == 1
    assert page.count("style") == 1
    assert html.count("<script") == 1
    assert not any(name.startswith("on") for _, attributes in page.seen for name in attributes)
    assert "<script>alert(1)</script>" in page.text  # shown as text, not dropped
    html.encode("utf-8")
    assert "\x00" not in html
    assert "\x1b" not in html


def test_only_the_script_of_the_page_may_run(study):
    import base64
    import hashlib

    html = render_report(study())
    script = re.search(r"<script>(.*)</script>", html, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(a["content"] for tag, a in Checker(html).seen if a.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_forty_structures_make_a_small_file(study):
    made = study(texts=("dense", *(f"btt:r={r}" for r in range(2, 41))), rungs=3, widths=(64, 128, 256))
    assert len(render_report(made).encode()) < 700_000  # a third of it cards, a fifth the table of all widths


def test_one_look_per_structure_in_all_figures(study):
    made = study(texts=("dense", *(f"btt:r={r}" for r in range(2, 20))))
    looks = identities(made)
    assert looks[parse_structure("dense")].tone == "ink"
    coloured = [look for look in looks.values() if look.tone.startswith("c")]
    assert len({(look.tone, look.marker) for look in coloured}) == len(MARKERS)
    assert [look.number for look in coloured] == sorted((look.number for look in coloured), key=int)
    page = Checker(render_report(made))
    keys = [a["data-s"] for tag, a in page.seen if tag == "g" and "data-s" in a]
    for look in coloured:
        assert keys.count(look.key) >= 3  # a curve, a badge in each panel, a name


def test_failed_runs_are_listed_with_their_error_once(study):
    page = Checker(render_report(study(failed=("kronecker",), error="loss became NaN at step 7")))
    assert page.text.count("loss became NaN at step 7") == 1
    assert "section-failures" not in render_report(study())


def test_losses_at_less_compute_are_set_apart(study):
    assert "not comparable" in Checker(render_report(study(stopped=("kronecker",)))).text
    assert "not comparable" not in Checker(render_report(study())).text


def test_a_ranking_of_other_results_is_refused(study):
    made, other = study(), study(texts=("dense",))
    with pytest.raises(ValueError, match="made from other results"):
        type(made)(title="", task="", budget_flops=1.0, results=made.results, ranking=other.ranking)


def test_report_is_written_whole_or_not_at_all(study, tmp_path):
    write_report(tmp_path / "report.html", study())
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(OutputError, match="is not a folder"):
        write_report(tmp_path / "report.html" / "report.html", study())


GRID = [f"XA^{a}/4 XAB^{4 - a}/4 YB^{b}/4 YAB^{4 - b}/4" for a in (1, 2, 3) for b in (1, 2, 3)]


def test_what_exponents_say_of_the_loss_stands_in_a_table_where_there_are_enough_structures(study):
    texts = ("dense", "kronecker", "tt:r=d^1/4", "low-rank", *GRID)
    made = study(texts=texts, rungs=2)
    rungs = made.exponent_effects.rungs
    page = Checker(render_report(made))
    assert "Do the exponents predict the loss of these 13 structures?" in page.text
    for effect in rungs[-1].effects:
        assert f"{effect.slope:+.2f} [{effect.slope_low:+.2f}, {effect.slope_high:+.2f}]" in page.text
    few = study(texts=texts[:6], rungs=2)
    assert few.exponent_effects is None
    assert "Do the exponents predict" not in Checker(render_report(few)).text
