from __future__ import annotations

import csv
import io
import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from einsearch_cli.structures import (
    MixtureOfExperts,
    parse_layer,
    parse_structure,
    read_structure_file,
    structure_of_terms,
)
from einsearch_cli.taxonomy import Space, survivors


def test_count(einsearch) -> None:
    found = json.loads(einsearch("enumerate", "--factors", 2, "--grid", 4, "--count", "--format", "json").out)
    assert found == {"factors": 2, "grid": 4, "raw": 1125, "distinct": 585, "irreducible": 460, "survivors": 460}
    assert "585" in einsearch("enumerate", "--grid", 4, "--count").out


def test_filters_sorting_and_limit(einsearch) -> None:
    words = ("--grid", 4, "--min-psi", 1, "--max-omega", 0, "--max-nu", "3/4", "--format", "jsonl")
    found = [json.loads(line) for line in einsearch("enumerate", *words).out.splitlines()]
    assert found
    assert all((item["psi"], item["omega"], item["kept"]) == ("1", "0", True) for item in found)
    assert [item["nu"] for item in found] == sorted((item["nu"] for item in found), key=lambda nu: eval_fraction(nu))
    first = einsearch("enumerate", *words, "--limit", 3).out.splitlines()
    assert [json.loads(line)["structure"] for line in first] == [item["structure"] for item in found[:3]]
    low_rank = einsearch("enumerate", "--grid", 4, "--family", "low-rank", "--format", "jsonl").out.splitlines()
    assert {json.loads(line)["family"] for line in low_rank} == {"low-rank"}


def eval_fraction(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    return int(numerator) / int(denominator or 1)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "yaml"])
def test_files_read_back_to_the_same_structures(einsearch, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"found.{suffix}"
    assert einsearch("enumerate", "--grid", 2, "--format", suffix, "--out", path).code == 0
    assert [named.structure for named in read_structure_file(path)] == survivors(Space(2))


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "yaml"])
def test_layers_of_experts_are_read_back(einsearch, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"list.{suffix}"
    words = ["enumerate", "--grid", "2", "--min-psi", "1", "--max-omega", "0", "--max-nu", "1/2"]
    assert einsearch(*words, "--experts", 8, "--top", 2, "--format", suffix, "--out", path).code == 0
    found = [named.layer for named in read_structure_file(path)]
    assert found[0] == parse_layer("btt-moe:experts=8,top=2")
    assert len(found) == 3
    assert all(isinstance(layer, MixtureOfExperts) and (layer.experts, layer.top) == (8, 2) for layer in found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--experts", "8"], "--experts without --top: a layer of experts needs both"),
        (["--experts", "2", "--top", "3"], "top=3 with experts=2"),
    ],
)
def test_numbers_of_experts_that_no_layer_has(einsearch, words: list[str], message: str) -> None:
    found = einsearch("enumerate", "--grid", "2", *words)
    assert found.code == 2
    assert message in found.err


def test_three_factors(einsearch) -> None:
    words = ("--factors", 3, "--grid", 4, "--min-psi", 1, "--max-omega", 0, "--max-nu", "<1")
    counts = json.loads(einsearch("enumerate", *words, "--count", "--format", "json").out)
    assert counts == {
        "factors": 3, "grid": 4, "raw": 27_562_500, "distinct": 4_650_075, "irreducible": 4_127_425, "survivors": 10_038,
    }  # fmt: skip
    lines = einsearch("enumerate", *words, "--exactly", "--format", "jsonl").out.splitlines()
    items = [json.loads(line) for line in lines]
    assert len({item["text"] for item in items}) == len(items) == 10_038
    assert all((item["psi"], item["omega"], item["factors"]) == ("1", "0", 3) for item in items)
    assert [eval_fraction(item["nu"]) for item in items] == sorted(eval_fraction(item["nu"]) for item in items)
    found = einsearch("enumerate", *words, "--exactly", "--order", "found", "--format", "yaml").out.splitlines()
    assert sorted(found[1:]) == sorted(f"- {item['text']}" for item in items)


def test_limit_stops_the_search_of_a_space_too_large_to_list(einsearch) -> None:
    started_s = time.perf_counter()
    found = einsearch("enumerate", "--factors", 4, "--grid", 4, "--exactly", "--limit", 5, "--format", "yaml")
    assert len(found.out.splitlines()) == 6
    assert time.perf_counter() - started_s < 30


def test_options_of_the_space(einsearch) -> None:
    def texts(*words: object) -> set[str]:
        out = einsearch("enumerate", "--grid", 2, *words, "--format", "jsonl").out
        return {json.loads(line)["text"] for line in out.splitlines()}

    everything = texts()
    assert texts("--exactly") == everything - {"XA^1 YA^1"}
    assert texts("--fix", "AB=0") == {text for text in everything if " AB" not in text}
    assert texts("--fix", "AB>0", "--fix", "AB<1") == {text for text in everything if " AB^1/2" in text}
    assert len(texts("--up-to-transpose")) == 21 + 1
    assert texts("--pareto", "--min-psi", 1) == {
        "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2", "XA^1/2 XAB^1/2 YA^1/2 YB^1/2", "XA^1/2 XB^1/2 YB^1/2 YAB^1/2",
    }  # fmt: skip
    shared = texts("--allow-block-diagonal")
    assert "XYA^1/2 XA^1/2 YA^1/2" in shared
    assert {text for text in shared if "XY" not in text} == everything
    for text in shared:
        parse_structure(text, block_diagonal=True)


def test_parquet(einsearch, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "found.parquet"
    assert einsearch("enumerate", "--grid", 2, "--format", "parquet", "--out", path).code == 0
    rows = parquet.read_table(path).to_pylist()
    assert [row["structure"] for row in rows] == [str(s) for s in survivors(Space(2))]
    assert set(rows[0]) == {"structure", "family", "factors", "omega", "psi", "nu", "kept"}


def test_parquet_without_pyarrow_says_what_to_install(einsearch, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = einsearch("enumerate", "--grid", 2, "--format", "parquet", "--out", tmp_path / "found.parquet")
    assert found.code == 2
    assert "pip install 'einsearch[parquet]'" in found.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", ["table", "json", "jsonl", "csv", "yaml", "markdown"])
def test_nothing_found_is_an_empty_list(einsearch, output: str) -> None:
    found = einsearch("enumerate", "--grid", 2, "--max-nu", "<0", "--format", output)
    said = "0 structures\nno structure is within all limits\n  try: --max-nu 0\n"
    assert (found.code, found.err) == (0, said)
    assert found.out.strip() == {"json": "[]", "yaml": "structures: []"}.get(output, "")


@pytest.mark.parametrize(
    ("limits", "ways"),
    [
        (("--min-psi", "1", "--max-omega", "0", "--max-nu", "1/4"), "--min-psi 1/2, or --max-nu 1/2"),
        (("--fix", "AB=3/4", "--family", "monarch"), "no --fix AB=3/4, or no --family monarch"),
        (("--fix", "XA=1/4", "--family", "monarch", "--max-nu", "0"), "--max-nu 3/4"),
        (("--grid", "2", "--factors", "3", "--exactly", "--family", "btt"), "no --family btt, or no --exactly"),
        (("--factors", "1", "--max-nu", "1/2"), "relax several of the limits together"),
    ],
)
def test_limits_that_leave_nothing_are_named(einsearch, limits: tuple[str, ...], ways: str) -> None:
    found = einsearch("enumerate", "--grid", 4, *limits)
    assert found.err == f"0 structures\nno structure is within all limits\n  try: {ways}\n"


def test_tables(einsearch) -> None:
    assert "| XA^1/2 XAB^1/2 YB^1/2 YAB^1/2" in einsearch("enumerate", "--grid", 2, "--format", "markdown").out
    rows = list(csv.DictReader(io.StringIO(einsearch("enumerate", "--grid", 2, "--format", "csv").out)))
    assert {"structure", "family", "kept"} <= set(rows[0])


def test_classify_json_is_one_object_for_one_structure(einsearch) -> None:
    item = json.loads(einsearch("classify", "monarch", "--d-in", 1024, "--d-out", 256, "--format", "json").out)
    assert structure_of_terms(item["structure"]) == parse_structure("monarch")
    required = {
        "structure", "theta", "family", "omega", "psi", "nu", "d_in", "d_out", "sizes", "params", "flops_per_token",
        "dense_params", "dense_flops_per_token", "rank_bound", "einsum", "kept", "reasons",
    }  # fmt: skip
    assert required <= set(item)
    assert (item["params"], item["flops_per_token"], item["rank_bound"]) == (32 * 32 * 16 + 16 * 32 * 16, 49152, 256)
    assert item["params_formula"] == "2*d**(3/2)"
    assert [order["order"] for order in item["orders"]] == ["(xA)B", "x(AB)", "(xB)A"]


def test_classify_reads_several_specs_files_and_stdin(einsearch, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "two.yaml").write_text("- {name: mine, indices: {XA: 1, YA: 1}}\n- low-rank\n")
    monkeypatch.setattr("sys.stdin", io.StringIO('btt:r=2\n{"structure": "kronecker"}\n'))
    items = json.loads(einsearch("classify", "monarch", tmp_path / "two.yaml", "-", "--format", "json").out)
    assert [item["family"] for item in items] == ["monarch", "dense", "low-rank", "btt", "kronecker"]
    assert items[1]["name"] == "mine"


def test_enumerate_pipes_into_classify(einsearch, monkeypatch) -> None:
    listed = einsearch("enumerate", "--grid", 2, "--format", "jsonl").out
    monkeypatch.setattr("sys.stdin", io.StringIO(listed))
    assert len(json.loads(einsearch("classify", "-", "--format", "json").out)) == len(survivors(Space(2)))


def test_einsum_sizes_fix_the_dimensions(einsearch) -> None:
    words = ("bgn,gnr,gro->bo", "--sizes", "g=4,n=192,r=128,o=1024", "--format", "json")
    item = json.loads(einsearch("classify", *words).out)
    assert (item["family"], item["d_in"], item["d_out"], item["rank_bound"]) == ("block-dense", 768, 1024, 512)
    assert "leave --d-in out" in einsearch("classify", *words, "--d-in", 512).err


def test_the_card_shows_what_limits_the_rank_and_the_verdict(einsearch) -> None:
    text = einsearch("classify", "low-rank", "--d-in", 257).out
    assert "at most 16, by the cut X A | B Y through AB" in text
    assert "pruned: rank grows as d^1/2" in text
    assert "padded to 260" in einsearch("classify", "monarch", "--d-in", 257).out


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (("classify", "monrach"), "no structure or family is named 'monrach'", "monarch, or carrier sets"),
        (("classify", "dense", "tt:r=d^2"), "error: structure 'tt:r=d^2': AB has exponent 2 in 'XA^1/2", "AB^1/2"),
        (("classify", "XA^1/2 YA"), "they must sum to 1", "bare to let it take the rest"),
        (("classify", "dense", "--d-in", "0"), "--d-in 0: a whole number from 1 to 2^48 is needed", "--d-in 1024"),
        (("classify", "missing.yaml"), "cannot read missing.yaml", "check the path"),
        (("classify", "dense", "--sizes", "i=3"), "only einsum equations take them", "leave --sizes out"),
        (("enumerate", "--grid", "0"), "--grid 0: a whole number from 1 to 1,000", "--grid 4"),
        (("enumerate", "--grid", "99"), "2,550,250,000 points, within the bounds given", "--grid 94"),
        (
            ("enumerate", "--factors", "4", "--grid", "4"),
            "457,207,031,250,000 points",
            "--max-nu '<1' with --min-psi 1",
        ),
        (("enumerate", "--factors", "4", "--grid", "9", "--limit", "1"), "input sides", "coarser --grid"),
        (("enumerate", "--fix", "ABC=0"), "structures of 2 factors have no such index", "raise --factors"),
        (("enumerate", "--fix", "XYA=0"), "X and Y share none", "--allow-block-diagonal"),
        (("enumerate", "--fix", "AB=1/3"), "no multiple of 1/4", "choose a --grid"),
        (("enumerate", "--fix", "AB~0"), "not a bound on a carrier set", "--fix AB=0"),
        (("enumerate", "--format", "parquet"), "needs a file", "--out structures.parquet"),
        (("enumerate", "--family", "bt"), "--family 'bt': families are dense", "btt"),
        (
            ("enumerate", "--min-psi", "x"),
            "--min-psi 'x' is not a bound: it must be a number from 0 on",
            "--min-psi 1/2",
        ),
        (("enumerate", "--out", "pyproject.toml/x.json"), "pyproject.toml' is not a folder", "give a path in a folder"),
        (("enumerate", "--out", "/"), "it is a folder", "give a file name"),
        (("frobnicate",), "'frobnicate' is not a command", "--help"),
    ],
)
def test_bad_input_is_named_with_exit_code_2_and_no_traceback(einsearch, words, message: str, remedy: str) -> None:
    found = einsearch(*words)
    assert found.code == 2
    assert found.out == ""
    assert found.err.startswith("error: ")
    assert message in found.err
    assert remedy in found.err
    assert "Traceback" not in found.err
    assert "Traceback" in einsearch("classify", "monrach", "--traceback").err


@pytest.mark.parametrize(("words", "limit_s"), [(["--help"], 0.5), (["enumerate", "--grid", "4"], 1.5)])
def test_commands_that_do_not_train_start_fast(words: list[str], limit_s: float) -> None:
    """Processor time, the least of five, so that other work on the machine does not fail this test."""
    times_s = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "einsearch_cli.cli.main", *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times_s) < limit_s


def test_a_reader_that_stops_early_is_not_an_error_and_a_full_disk_is_named() -> None:
    command = f"{sys.executable} -m einsearch_cli.cli.main enumerate --grid 6"
    script = f"set -o pipefail; {command} 2>/dev/null | head -1"
    first = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert first.stdout.startswith("structure")
    full = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True, check=False)
    assert full.returncode == 2
    assert "cannot write the output: No space left on device" in full.stderr
    assert "Traceback" not in full.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--out", "found.csv", "--format", "csv"],
        ["--format", "jsonl"],
        ["--count", "--max-nu", "<1", "--factors", "4", "--grid", "4"],
    ],
    ids=str,
)
def test_ctrl_c_stops_at_once_says_so_and_leaves_no_file(words: list[str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "einsearch_cli.cli.main",
        "enumerate",
        "--factors",
        "3",
        "--grid",
        "6",
        "--max-nu",
        "1",
    ]
    running = subprocess.Popen(
        [*command, *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(2)
    interrupted_s = time.perf_counter()
    running.send_signal(signal.SIGINT)
    talk = running.communicate(timeout=30)[1]
    assert time.perf_counter() - interrupted_s < 5
    assert running.returncode == 130
    assert talk == "error: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_block_diagonal_structures_are_classified_on_request(einsearch, tmp_path: Path) -> None:
    path = tmp_path / "found.yaml"
    words = ("--grid", 2, "--allow-block-diagonal", "--min-psi", 1, "--max-omega", 0, "--format", "yaml")
    assert einsearch("enumerate", *words, "--out", path).code == 0
    refused = einsearch("classify", path)
    assert refused.code == 2
    assert "is carried by both X and Y" in refused.err
    assert "--allow-block-diagonal" in refused.err
    found = einsearch("classify", path, "--allow-block-diagonal", "--d-in", 96, "--rank", "--format", "jsonl")
    items = [json.loads(line) for line in found.out.splitlines()]
    assert {"XYA", "XA", "YA"} in [set(item["structure"]) for item in items]
    assert all(item["rank"] == 96 for item in items)
    assert all(item["theta"] is None for item in items if any("XY" in carriers for carriers in item["structure"]))
    drawn = einsearch("draw", "XYA=4 XA YA", "--allow-block-diagonal", "--d-in", 32)
    assert "rank ≤ 4 · 8 = 32, can be full" in drawn.out


def test_structures_and_taxonomy_never_load_torch() -> None:
    code = "import sys, einsearch_cli.taxonomy, einsearch_cli.cli.main; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b"False"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["enumerate", "--factors", "6", "--count"], "--factors 6: whole spaces have 1 to 5 factors"),
        (["sample", "--factors", "9"], "--factors 9: whole spaces have 1 to 5 factors"),
        (["enumerate", "--min-psi", "2"], "--min-psi '2': ψ is at most 1"),
        (["sample", "--min-psi", ">1"], "--min-psi '>1': ψ is at most 1"),
        (["enumerate", "--max-nu", "<-1"], "--max-nu '<-1' is not a bound: it must be a number from 0 on"),
        (
            ["classify", "XÀ^1 YA"],
            "'À' (U+00C0, LATIN CAPITAL LETTER A WITH GRAVE), character 2 of the term 'XÀ^1', names no tensor",
        ),
        (
            ["classify", "XA^1 YÀ"],
            "'À' (U+00C0, LATIN CAPITAL LETTER A WITH GRAVE), character 2 of the term 'YÀ', names no tensor",
        ),
        (["classify", "ab,acé->bc"], "'é' (U+00E9) in 'ab,acé->bc' is not an index"),
    ],
)
def test_bad_bounds_factors_and_characters_are_named(einsearch, words: list[str], message: str) -> None:
    found = einsearch(*words)
    assert found.code == 2
    assert message in found.err


def test_a_bound_on_the_omega_of_trees_may_be_negative(einsearch) -> None:
    words = ["enumerate", "--trees", "1", "--grid", "4", "--count", "--format", "json", "--max-omega"]
    counts = [einsearch(*words, bound).out for bound in ("-1/4", "<0")]
    assert counts[0] == counts[1]
    assert '"survivors": 0' not in counts[0]


def test_classify_a_layer_of_experts(einsearch) -> None:
    found = json.loads(einsearch("classify", "btt-moe:experts=16,top=2", "--d-in", "64", "--format", "json").out)
    expert = 2 * 8**3  # two factors of eight 8 × 8 blocks
    assert (found["omega"], found["psi"], found["nu"]) == ("0", "1", "1/2")
    assert found["params"] == expert
    assert found["mixture"] == {
        "layer": "btt-moe:experts=16,top=2",
        "experts": 16,
        "top": 2,
        "params": 16 * expert + 64 * 16,
        "active_params": 2 * expert + 64 * 16,
        "active_flops_per_token": 2 * (2 * expert) + 2 * 64 * 16,
    }
    card = einsearch("classify", "btt-moe:experts=16,top=2", "--d-in", "64").out
    assert "params, active       3,072 = 0.75× dense" in card
    rows = einsearch("classify", "btt-moe:experts=16,top=2", "monarch", "--d-in", "64", "--format", "csv").out
    assert "active params" in rows.splitlines()[0]
    assert "active params" not in einsearch("classify", "monarch", "--format", "csv").out
    whole = einsearch("classify", "ffn-moe:experts=16,top=2")
    assert whole.code == 2
    assert "it has no single matrix to classify" in whole.err


@pytest.mark.parametrize("text", ["btt:r=2", "low-rank:r=8", "XA=2 XB=2 XAB YA=4 YB"])
def test_classify_says_how_a_layer_stores_the_factors_of_the_einsum(einsearch, text: str) -> None:
    import torch

    from einsearch_cli.layers import EinsumLinear

    said = einsearch("classify", text, "--d-in", 64).out
    sizes = {letter: size for letter, (_, size) in zip("abcdefg", parse_structure(text).at(64, 64).sizes, strict=False)}
    x_axes, y_axes = re.findall(r"features \.\.\.(\w+)->\.\.\.(\w+)", said)[0]
    shown = re.findall(r"factors\.(\w) +\((\w+), (\w+), (\w+)\) = \((\d+), (\d+), (\d+)\)", said)
    layer = EinsumLinear(64, 64, text, bias=False, dtype=torch.float64)
    shapes = {name: tuple(factor.shape) for name, factor in layer.factors.items()}
    assert {name: tuple(map(int, shape)) for name, _, _, _, *shape in shown} == shapes
    axes = ["".join(groups).replace("1", "") for _, *groups, _, _, _ in shown]
    factors = [
        layer.factors[name].reshape([sizes[letter] for letter in letters])
        for (name, *_), letters in zip(shown, axes, strict=True)
    ]
    x = torch.randn(5, 64, dtype=torch.float64)
    operands = [x.reshape(5, *(sizes[letter] for letter in x_axes)), *factors]
    y = torch.einsum(f"...{x_axes},{','.join(axes)}->...{y_axes}", *operands).reshape(5, 64)
    assert torch.nn.functional.cosine_similarity(y.flatten(), layer(x).flatten(), dim=0) > 1 - 1e-9
