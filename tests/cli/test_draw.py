from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_draws_in_the_terminal_without_out(einsearch) -> None:
    found = einsearch("draw", "low-rank:r=64", "--d-in", 4096, "--d-out", 1024)
    assert found.code == 0
    assert "AB                ●─────┼─────●                 64" in found.out
    assert "rank ≤ 64 of 1,024" in found.out
    assert "ψ = 0" in found.out


def test_draws_into_files(einsearch, tmp_path: Path) -> None:
    for name, start in (("x.svg", b"<svg"), ("x.txt", b"monarch"), ("x.SVG", b"<svg")):
        assert einsearch("draw", "monarch", "--out", tmp_path / name).err == f"wrote {tmp_path / name}\n"
        assert (tmp_path / name).read_bytes().startswith(start)


def test_draws_every_notation(einsearch, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        "- {name: mine, indices: {XA: rest, XAB: {size: 4}, YB: rest, YAB: {size: 4}}}\n"
    )
    carriers = einsearch("draw", "XA XAB=4 YB YAB=4").out
    assert einsearch("draw", "monarch:blocks=4").out == carriers
    assert einsearch("draw", tmp_path / "one.yaml").out == carriers
    words = ("bgn,gnf,gfo->bfo", "--sizes", "g=4,n=256,f=4,o=256")
    equation = einsearch(
        "draw", *words
    ).out  # the network is the same; the title gives the order in which the equation reads features
    assert "order:XAB,XA/YAB,YB" in equation.splitlines()[0]
    assert equation.splitlines()[1:] == carriers.splitlines()[1:]


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (("draw", "monrach"), "no structure or family is named 'monrach'", "monarch"),
        (("draw", "monarch", "--out", "x.pdf"), "--out 'x.pdf' does not say what to draw", "--out x.svg"),
        (("draw", "monarch", "--out", "x"), "must end in .svg, .png or .txt", "--out x.svg"),
        (("draw", "monarch", "--out", "pyproject.toml/x.svg"), "pyproject.toml' is not a folder", "in a folder"),
        (("draw", "monarch", "--d-in", "0"), "--d-in 0: a whole number from 1 to", "--d-in 1024"),
        (("draw", "{two}"), "holds 2 structures", "give one of them"),
        (("draw",), "SPEC is missing: it has no default", "einsearch draw monarch"),
    ],
)
def test_bad_input(einsearch, tmp_path: Path, words, message: str, remedy: str) -> None:
    (tmp_path / "two.yaml").write_text("- dense\n- monarch\n")
    found = einsearch(*(word.replace("{two}", str(tmp_path / "two.yaml")) for word in words))
    assert (found.code, found.out) == (2, "")
    assert message in found.err
    assert remedy in found.err


def test_families_lists_orders_and_formulas(einsearch) -> None:
    text = einsearch("families").out
    assert "XA^1/3 XAB^1/3 XABC^1/3 YABC^1/3 YBC^1/3 YC^1/3 AB=r BC=r" in text
    assert "1 − 1/n" in text
    assert '"nu": "max(ρ, 2*n*ρ - 1)"' in einsearch("families", "--format", "json").out


def test_starting_and_drawing_load_neither_torch_nor_networkx_nor_sympy() -> None:
    code = (
        "import sys; from einsearch_cli.cli.main import main; main(['draw', 'monarch']);"
        "print(sorted({'torch', 'networkx', 'sympy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    assert found.splitlines()[-1] == b"[]"
