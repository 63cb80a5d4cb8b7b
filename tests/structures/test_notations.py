from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from einsearch_cli.errors import EinsearchError, SpecError, StructureError
from einsearch_cli.structures import (
    FAMILIES,
    family_of,
    parse_structure,
    read_structure,
    read_structure_file,
    structure_of_entry,
    theta_of,
)
from einsearch_cli.structures.extent import parse_rational

FIVE_FORMS = {
    "monarch": [
        "monarch",
        "btt:r=1",
        "(0.5|0|0.5|0|0.5|0.5|0)",
        "1/2,0,1/2,0,1/2,1/2,0",
        "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2",
        "XA XAB YB YAB",
        "YAB^1/2 BY^1/2 XBA^1/2 AX^1/2",
        "bgn,gnr,gro->bor; g=32, n=32, r=32, o=32",
        "...gn,ngr,rog->...ro; g=d^1/2, n=rest, r=d^1/2, o=rest",
        {"indices": {"XA": "1/2", "XAB": 0.5, "YB": "rest", "YAB": {"exponent": "1/2"}}},
    ],
    "monarch:blocks=4": [
        "monarch:blocks=4",
        "btt:blocks=4",
        "XA XAB=4 YB YAB=4",
        "XA=d/4 XAB=4 YB=1/4*d YAB=4",
        "bgn,gnf,gfo->bfo; g=4, n=256, f=4, o=256",
        {"XA": "rest", "XAB": "4 blocks", "YB": "rest", "YAB": {"size": 4}},
    ],
    "low-rank:r=64": ["low-rank:r=64", "XA AB=64 YB", "XA^1 YB^1 BA=64", "bi,ir,ro->bo; i=rest, r=64, o=rest"],
    "block-dense:blocks=4,r=512": [
        "block-dense:r=512",
        "XA XAB=4 AB=128 YB",
        "bgn,gnr,gro->bo; g=4, n=256, r=128, o=1024",
        {"name": "mine", "indices": {"XA": "rest", "XAB": {"size": 4}, "AB": {"size": 128}, "YB": 1}},
    ],
    "block-shuffle:blocks=4": ["btt:r=d/16,blocks=4", "XA XAB=4 YB YAB=4 AB=d/16"],
    "tt:r=4": ["XA XB YA YB AB=4", "ij,iar,jbr->ab; i=d^1/2, j=rest, a=d^1/2, b=rest, r=4"],
    "dense": ["XA YA", "(1|0|0|1|0|0|0)", "i,io->o; i=512, o=128", {"XA": 1, "YA": 1}],
}


@pytest.mark.parametrize("name", FIVE_FORMS)
def test_all_forms_of_the_same_thing_are_equal(name: str) -> None:
    expected = parse_structure(name)
    for form in FIVE_FORMS[name]:
        found = structure_of_entry(form, "test").structure.unordered  # equations say an order too
        assert found == expected, form
        assert hash(found) == hash(expected)


def test_decimals_of_two_digits_mean_simple_fractions() -> None:
    theta = theta_of(parse_structure("(0.33|0|0.67|0|0.67|0.33|0.25)"))
    assert theta == (Fraction(1, 3), 0, Fraction(2, 3), 0, Fraction(2, 3), Fraction(1, 3), Fraction(1, 4))
    assert [parse_rational(text, "") for text in ("0.17", "0.83", "0.3", "0.125", "1.0")] == [
        Fraction(1, 6), Fraction(5, 6), Fraction(3, 10), Fraction(1, 8), 1,
    ]  # fmt: skip


def test_whole_einsum_sizes_fix_the_dimensions() -> None:
    found = read_structure("bgn,gnr,gro->bo; g=4, n=192, r=128, o=1024")
    assert (found.d_in, found.d_out) == (768, 1024)
    assert found.structure.at(768, 1024).sizes == (("XA", 192), ("XAB", 4), ("YB", 1024), ("AB", 128))


def test_a_letter_in_one_factor_alone_is_summed_away() -> None:
    found = parse_structure("bgn,gnr,go->bo; g=4, n=256, r=64, o=1024")
    assert found == parse_structure("XA XAB=4 YB order:XAB,XA/YB")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bi,ir,ro->bo", "has no size for i, r, o"),
        ("bi,io->bo; i=4, o=4, q=2", "size for 'q'"),
        ("bi,io->bo; i=4, o=4, b=2", "batch letters take no size"),
        ("bi,ii->bi; i=4", "repeats i"),
        ("bij,io->bo; i=4, o=4", "input letter 'j' is in no factor"),
        ("bi,io->boq; i=4, o=4", "output letter 'q' is in no factor"),
        ("bgi,gio->bgo; g=4, i=4, o=4", "carried by both X and Y"),
        ("b->b; b=4", "is not an einsum equation of a layer"),
        ("bi,->bi", "is empty"),
        ("bi,io->bo; i=4, i=5", "'i=5'"),
        ("bi,io->bo; i=-4, o=4", "'-4'"),
        ("bi,io->bo; i=0, o=4", "sizes must be from 1 to 2^48"),
        (f"bi,io->bo; i=4, o={10**18}", "sizes must be from 1 to 2^48"),
        ("bî,îo->bo; î=4", "'î' (U+00EE) in 'bî,îo->bo' is not an index: indices are the 52 letters"),
    ],
)
def test_bad_equations(text: str, message: str) -> None:
    with pytest.raises(StructureError) as caught:
        parse_structure(text)
    assert message in caught.value.problem


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_recognised(name: str) -> None:
    text = {"tt": "tt:r=3", "block-dense": "block-dense:r=64", "btt": "btt:r=3"}.get(name, name)
    assert family_of(parse_structure(text)) == name


@pytest.mark.parametrize(
    ("theta", "family"),
    [
        ("(1/3|0|2/3|0|1/3|2/3|0)", "monarch"),
        ("(1/3|0|2/3|0|1/3|2/3|1/4)", "btt"),
        ("(1/3|2/3|0|1/3|2/3|0|0)", "kronecker"),
        ("(1/3|2/3|0|1/3|2/3|0|1/4)", "tt"),
        ("(1|0|0|0|1|0|3/4)", "low-rank"),
        ("(1/2|1/4|1/4|1/4|1/2|1/4|0)", "generic"),
    ],
)
def test_members_without_a_parameter_text_are_recognised_too(theta: str, family: str) -> None:
    assert family_of(parse_structure(theta)) == family


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "structures:\n- monarch\n- {XA: rest, AB: {size: 64}, YB: rest}\n"),
        ("b.yaml", "- monarch\n- name: mine\n  indices:\n    XA: 1\n    AB: '=64'\n    YB: 1\n"),
        ("c.json", '[{"structure": {"XA": "1/2", "XAB": "1/2", "YB": "1/2", "YAB": "1/2"}}, "low-rank:r=64"]'),
        ("d.jsonl", '{"structure": "monarch"}\n\n"low-rank:r=64"\n'),
        ("e.csv", "family,structure\nx,monarch\ny,low-rank:r=64\n"),
        ("f.txt", "# two\nmonarch\n\nlow-rank:r=64\n"),
    ],
)
def test_files_of_every_format(tmp_path: Path, name: str, text: str) -> None:
    found = read_structure_file(write(tmp_path, name, text))
    assert [named.structure for named in found] == [parse_structure("monarch"), parse_structure("low-rank:r=64")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "structures:\n- monarch\n- monrach\n", "a.yaml:3: no structure or family"),
        (
            "a.yaml",
            "- monarch\n- {XA: [1], YA: 1}\n",
            "a.yaml:2: index XA is a list: it must be an exponent, a size or rest",
        ),
        ("a.yaml", "structures: []\n", "holds no structure"),
        ("a.yaml", "structures: [dense]\nwidth: 3\n", "a.yaml:2: unknown key 'width'"),
        ("a.yaml", "- a: [\n", "not valid YAML"),
        ("a.yaml", "- dense\n- {XA: 1, XA: 1, YA: 1}\n", "a.yaml:2: key 'XA' occurs twice"),
        ("a.yaml", "!!python/object/apply:os.system ['true']\n", "a.yaml:1: the tag '!!python/object/apply:os.system'"),
        ("a.yaml", "", "is empty"),
        ("a.yaml", "- " * 30 + "dense", "more than 20 levels"),
        ("a.yaml", "- {XA: 4, YA: 1}\n", "XA has exponent 4"),
        ("a.json", "[", "not valid JSON"),
        ("a.csv", "x,y\n1,2\n", "no column 'structure'"),
        ("a.jsonl", '"dense"\n{"structure": {"XA": "1/2"}}\n', "a.jsonl:2: the input exponents"),
    ],
)
def test_bad_files_name_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(EinsearchError) as caught:
        read_structure_file(write(tmp_path, name, text))
    assert message in caught.value.problem


def test_a_yaml_bomb_is_refused_before_it_is_built(tmp_path: Path) -> None:
    levels = "\n".join(f"- &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 12))
    with pytest.raises(SpecError, match="aliases expanded"):
        read_structure_file(write(tmp_path, "bomb.yaml", f"- &l0 [dense]\n{levels}\n"))


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"- \xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8"):
        read_structure_file(tmp_path / "x.yaml")
    with pytest.raises(SpecError, match="No such file"):
        read_structure_file(tmp_path / "y.yaml")
    (tmp_path / "z.yaml").write_text("x" * 1_000_001)
    with pytest.raises(SpecError, match="a specification may have 1000000"):
        read_structure_file(tmp_path / "z.yaml")
