from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

from einsearch_cli.errors import OutputError
from einsearch_cli.reports import diagram
from einsearch_cli.reports.diagram import diagram_svg
from einsearch_cli.reports.diagram_layout import lay_out
from einsearch_cli.reports.diagram_network import COLOURS, TensorNetwork
from einsearch_cli.reports.diagram_text import cut_text, diagram_text, index_label, plain
from einsearch_cli.structures import Structure, parse_structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.taxonomy import Classification, classify
from tests.structures.strategies import extents

MARKET = [
    "dense",
    "low-rank:r=64",
    "monarch",
    "btt:n=3,r=2",
    "kronecker:n=4",
    "monarch:n=4",
    "tucker",
    "khatri-rao",
    "block-shuffle:blocks=4",
    "XA^1/4 XB^1/4 XAB^1/4 XABC^1/4 YA^1/4 YC^1/4 YAC^1/4 YBC^1/4 AB^1/4 AC^1/4 ABC=3",
]


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("spec", MARKET)
def test_the_picture_is_one_svg_with_every_tensor_index_and_number(spec: str) -> None:
    item = classify(parse_structure(spec), 4096, 4096)
    svg = diagram_svg(item)
    words = texts(svg)
    assert {"X", "Y", *item.structure.factors} <= set(words)
    labels = [re.sub(r"[\^_]", "", plain(index_label(carriers, item))) for carriers, _ in item.sizes]
    assert sorted(labels) == sorted(word for word in words if word in labels)
    assert {f"ω = {item.omega}", f"ψ = {item.psi}", f"ν = {item.nu}", cut_text(item)} <= set(words)
    assert "script" not in svg
    assert "http" not in svg.replace('xmlns="http://www.w3.org/2000/svg"', "")


def label_boxes(network: TensorNetwork) -> list[tuple[float, float, float, float]]:
    root = ElementTree.fromstring(f"<g>{network.svg(0)}</g>")
    boxes = [
        {k: float(v) for k, v in r.attrib.items() if k in ("x", "y", "width", "height")} for r in root.iter("rect")
    ]
    return [(b["x"], b["y"], b["x"] + b["width"], b["y"] + b["height"]) for b in boxes]


@settings(deadline=None, max_examples=60)
@given(extents(max_factors=4))
def test_nothing_overlaps_and_the_cut_is_one_line(given_extents: dict[str, Extent]) -> None:
    item = classify(Structure.of(given_extents), 2**12, 2**12)
    layout = lay_out(item.structure.at(item.d_in, item.d_out), item.cut)
    assert set(layout.tensors[: int(layout.cut + 0.5)]) == set(item.cut.input_side)
    for wire in layout.wires:
        assert wire.crossing == (wire.carriers in item.cut.indices)
        assert wire.crossing == (wire.columns[0] < layout.cut < wire.columns[-1])
        assert wire.columns[0] < wire.anchor < wire.columns[-1]
        assert wire.anchor == layout.cut or not wire.crossing
    for (left, top, right, bottom), other in combinations(label_boxes(TensorNetwork.of(item)), 2):
        assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_the_drawing_for_the_terminal() -> None:
    assert diagram_text(classify(parse_structure("tt:r=4"), 1024, 4096)).splitlines() == [
        "tt:r=4   XA^1/2 XB^1/2 YA^1/2 YB^1/2 AB=4",
        "",
        "      X     ┊     A           B           Y",
        "XA    ●─────┼─────●                             d_in^1/2 = 32",
        "XB    ●─────┼─────────────────●                 d_in^1/2 = 32",
        "AB          ┊     ●───────────●                 4",
        "YA          ┊     ●───────────────────────●     d_out^1/2 = 64",
        "YB          ┊                 ●───────────●     d_out^1/2 = 64",
        "            ┊",
        "    rank ≤ 32 · 32 = 1,024, can be full",
        "",
        "ω = 1/2   parameters are shared: FLOPs per parameter grow as d^1/2",
        "ψ = 1     the rank can be full at every d",
        "ν = 1/2   FLOPs per token grow as d^3/2, those of a dense layer as d^2",
        "cost      16,384 parameters, 0.00391× dense; 1,572,864 FLOPs per token, 0.188× dense",
    ]


@pytest.mark.parametrize(
    ("spec", "d_in", "d_out", "words"),
    [
        ("dense", 257, 1031, "rank ≤ 257, can be full"),
        ("low-rank:r=64", 4096, 1024, "rank ≤ 64 of 1,024"),
        ("tucker", 4096, 4096, "rank ≤ 8 · 8 = 64 of 4,096"),
        ("monarch", 257, 257, "rank ≤ 257, can be full"),
        ("dense", 1, 1, "rank ≤ 1, can be full"),
    ],
)
def test_the_cut_says_what_the_rank_can_be(spec: str, d_in: int, d_out: int, words: str) -> None:
    assert cut_text(classify(parse_structure(spec), d_in, d_out)) == words


@pytest.mark.parametrize(("spec", "d"), [("dense", 1), ("monarch", 257), ("monarch:n=3", 2**40), ("tucker:n=3", 2**12)])
def test_extreme_dimensions_are_drawn(spec: str, d: int) -> None:
    item: Classification = classify(parse_structure(spec), d, d)
    assert len(texts(diagram_svg(item))) > 10
    assert diagram_text(item)
    assert (item.padding in texts(diagram_svg(item))) if item.padding else True


def test_png(tmp_path) -> None:
    pytest.importorskip("resvg_py", reason="PNG is an extra")
    diagram.write_png(tmp_path / "x.png", diagram_svg(classify(parse_structure("monarch"))))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_without_the_extra_png_names_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(OutputError, match=r"pip install 'einsearch\[png\]'"):
        diagram.write_png(tmp_path / "x.png", "<svg/>")
    assert not list(tmp_path.iterdir())


def test_an_index_of_input_and_output_has_its_own_colour_and_the_base_of_bonds() -> None:
    structure = parse_structure("XYA^1/2 XA^1/2 YA^1/2", block_diagonal=True)
    picture = diagram_svg(classify(structure, 256, 1024))
    assert picture.count(COLOURS["XY"]) > diagram_svg(classify(parse_structure("monarch"), 256, 1024)).count(
        COLOURS["XY"]
    )
    assert "in both" in picture
    assert plain(index_label("XYA", classify(structure, 256, 1024))) == "d_in^1/2 = 16"
    assert plain(index_label("XYA", classify(structure, 1024, 256))) == "d_out^1/2 = 16"
