"""Suggestions: sizes, ranks, order, and statements compared with the evidence."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from einsearch_cli import EinsumLinear
from einsearch_cli.advice.candidates import LEAST_SHARE, Wanted
from einsearch_cli.advice.evidence import Evidence, evidence_of, known_evidence
from einsearch_cli.advice.statements import statements_on
from einsearch_cli.advice.suggesting import Advice, advise
from einsearch_cli.errors import SizeError
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, float32_profile, profile_for, store_profile
from einsearch_cli.sizing.generic_rank import certified_rank, generic_rank
from einsearch_cli.structures import parse_structure, short_name
from einsearch_cli.taxonomy import flops_per_token

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINSEARCH_EVIDENCE", str(tmp_path / "own"))


def advice(
    d_in: int = 256, d_out: int = 512, share: float = 1 / 4, evidence: tuple[Evidence, ...] = (), **more
) -> Advice:
    return advise(d_in, d_out, Wanted(share * d_in * d_out, "params", "a share"), evidence, DEFAULT_CPU, **more)


@pytest.mark.parametrize(
    ("d_in", "d_out", "share"), [(256, 512, 1 / 4), (192, 192, 1 / 8), (240, 96, 1 / 3), (500, 700, 0.3)]
)
def test_suggestions_have_the_size_and_rank_that_they_say(d_in: int, d_out: int, share: float) -> None:
    found = advice(d_in, d_out, share)
    assert len({item.structure for item in found.suggestions}) == len(found.suggestions) >= 3
    for item in found.suggestions:
        layer = EinsumLinear(d_in, d_out, item.name, bias=False)
        assert sum(p.numel() for name, p in layer.named_parameters() if name.startswith("factors")) == item.params
        assert LEAST_SHARE * share * d_in * d_out <= item.params <= share * d_in * d_out
        exact = generic_rank(item.structure.at(d_in, d_out)).rank
        assert item.certified_rank <= exact <= item.rank_bound


def test_the_first_is_the_cheapest_of_high_rank() -> None:
    for prefer, cost in (("training", "training_us"), ("decoding", "decoding_us"), ("memory", "training_bytes")):
        found = advice(prefer=prefer)
        highest = max(item.certified_rank for item in found.suggestions)
        rivals = [item for item in found.suggestions if 2 * item.certified_rank >= highest]
        assert getattr(found.suggestions[0], cost) == min(getattr(item, cost) for item in rivals)
        assert re.match(rf"(Take|Keep dense: .* take) {found.suggestions[0].name}: ", found.recommendation)
        assert f'"{found.suggestions[0].name}")' in found.snippet


def test_flops_can_be_the_wanted_size() -> None:
    found = advise(256, 256, Wanted(20_000, "flops", "x"), (), DEFAULT_CPU)
    assert all(15_000 <= item.flops_per_token <= 20_000 for item in found.suggestions)


def test_a_size_that_no_structure_has_names_the_nearest() -> None:
    with pytest.raises(SizeError, match=r"no structure of 256 × 256 has .*; in parameters, .* has [\d,]+") as caught:
        advise(256, 256, Wanted(40, "params", "up to 40 parameters"), (), DEFAULT_CPU)
    (number,) = re.findall(r"--params (\d+)", caught.value.remedy)
    assert advise(256, 256, Wanted(int(number), "params", "x"), (), DEFAULT_CPU).suggestions


def test_every_statement_is_what_its_source_says() -> None:
    found = advice(1024, 1024, 1 / 16, tuple(known_evidence()))
    statements = [s for item in found.suggestions for s in item.statements]
    assert len(statements) >= 5
    for item in found.suggestions:
        for said in item.statements:
            (finding,) = [f for f in evidence_of(ROOT / said.source).findings if str(f.structure) == said.structure]
            assert (said.gain, said.gain_low, said.gain_high) == (finding.gain or (None, None, None))
            assert said.same == (finding.structure == item.structure)
            assert said.same or finding.family == item.family
            assert f"[{said.source}]" in said.text
            if said.gain_low is not None and said.gain_high is not None:
                numbers = (
                    f"{said.gain:.2f} in training FLOPs (95% interval {said.gain_low:.2f} to {said.gain_high:.2f})"
                )
                assert numbers in said.text
            assert (said.verdict, f"verdict '{finding.verdict}'" in said.text) == (finding.verdict, True)
            assert said.at_this_scale is (said.widest >= 1024)
            assert ("no evidence at this scale" in said.text) is not said.at_this_scale
    assert "There is no evidence at this scale: the networks that were studied have widths 8 to" in found.recommendation
    small = advice(96, 96, 1 / 4, tuple(known_evidence()))
    assert any(s.at_this_scale for item in small.suggestions for s in item.statements)
    assert "No study here has measured this structure." in advice(96, 96, 1 / 4).recommendation


def test_a_family_speaks_by_its_nearest_member_and_not_by_its_best() -> None:
    first = advice(4096, 11008, 1 / 8, tuple(known_evidence())).suggestions[0]
    assert first.name == "btt:r=5"
    said = {s.source: (short_name(parse_structure(s.structure)), s.verdict) for s in first.statements}
    assert said["examples/seeds/second"] == said["examples/seeds/first"] == ("btt:r=4", "worse")
    assert said["examples/reproduction/taxonomy-teacher"] == (
        "btt:r=d^1/4",
        "cannot tell",
    )  # 8 here, and blocks as ours


@pytest.mark.parametrize(
    ("d_in", "d_out", "here"), [(48, 192, True), (47, 48, False), (48, 193, False), (16, 16, False)]
)
def test_a_layer_is_at_the_scale_of_a_study_if_both_dimensions_are(d_in: int, d_out: int, here: bool) -> None:
    (study,) = [s for s in known_evidence() if s.source == "examples/reproduction/taxonomy-teacher"]
    assert (study.least_width, study.most_width) == (48, 192)
    (said,) = statements_on(parse_structure("low-rank"), [study], d_in, d_out)
    assert said.at_this_scale is here
    assert said.verdict == "cannot tell"  # its best width is the widest of the grid
    assert said.gain_high is not None
    assert said.gain_high < 1


def test_the_recommendation_names_contrary_evidence_and_slowness() -> None:
    studies = tuple(known_evidence())
    slow = advice(97, 89, 1 / 4, studies)
    own = [s for s in slow.suggestions[0].statements if s.at_this_scale]
    ratio = slow.suggestions[0].training_us / slow.dense.training_us
    assert "Keep dense: no structure of this size is predicted to be faster at a training step" in slow.recommendation
    assert f"{ratio:.2f} times dense's time: slower than dense." in slow.recommendation
    below, worse = sum(s.gain_high is not None and s.gain_high < 1 for s in own), sum(s.verdict == "worse" for s in own)
    assert 0 < worse < below < len(own)
    assert f"lies below 1 in {below} of {len(own)} studies at this scale" in slow.recommendation
    assert f"{worse} of them call it worse" in slow.recommendation

    fast = advice(4096, 11008, 1 / 8, studies).recommendation
    assert fast.startswith("Take ")
    assert "slower than dense" not in fast

    large = advise(1024, 1024, Wanted(1e7, "flops", "x"), studies, float32_profile("cuda", 1), prefer="memory")
    assert large.suggestions[0].training_bytes > large.dense.training_bytes
    for words in (": more than dense", ": slower than dense", "nearest structure of its family lies below 1 in"):
        assert words in large.recommendation
    assert "Evidence speaks against it" not in advice(96, 96, 1 / 4, studies).recommendation


def test_contrary_evidence_decides_between_equals() -> None:
    """At 16 × 16 both take the same time: Monarch's gain is above 1, that of tt:r=4 below it."""
    names = [item.name for item in advice(16, 16, 1 / 2, tuple(known_evidence())).suggestions]
    assert names.index("monarch") < names.index("btt:r=d^1/4,blocks=d^1/4") < names.index("tt:r=4")


@pytest.mark.parametrize(
    "text", ["monarch", "btt:r=5", "low-rank:r=12", "tt:r=3", "XA^1/4 XB^1/4 XAB^1/2 YB^1/4 YAB^3/4"]
)
@pytest.mark.parametrize(("d_in", "d_out"), [(96, 172), (120, 120), (64, 96)])
def test_certified_ranks_are_never_too_large(text: str, d_in: int, d_out: int) -> None:
    sized = parse_structure(text).at(d_in, d_out)
    proved, bound = certified_rank(sized)
    assert proved <= generic_rank(sized).rank <= bound


def test_a_rank_below_all_cuts_is_not_certified() -> None:
    """Two tensor-product column spaces meet: every cut is 8 or more, the rank is 7."""
    assert certified_rank(parse_structure("XA=2 XB=2 XAB YA=3 YB").at(8, 9)) == (7, 8)


def test_a_calibrated_machine_is_known_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    profile_for.cache_clear()
    assert float32_profile("cpu", 3) == DEFAULT_CPU == profile_for("cpu", 3, torch.float32)
    from dataclasses import replace

    own = replace(DEFAULT_CPU, step_ns=7.0, source="measured here")
    store_profile(own, 3, torch.float32)
    assert float32_profile("cpu", 3) == profile_for("cpu", 3, torch.float32) == own
    assert float32_profile("cuda", 1) == profile_for("cuda", 1, torch.float32)
    profile_for.cache_clear()


def test_the_guide_has_the_figures_of_the_benchmark() -> None:
    guide = " ".join((ROOT / "docs/guide/suggest.md").read_text("utf-8").split())
    cases = json.loads((ROOT / "benchmarks/results/suggest.json").read_text("utf-8"))["cases"]
    ratios = [time / case["predicted_us"][name] for case in cases for name, time in case["measured_us"].items()]
    median = f"(median {statistics.median(ratios):.1f})"
    assert f"were {min(ratios):.1f} to {max(ratios):.1f} times the predicted ones {median}" in guide
    times = [list(case["measured_us"].values()) for case in cases]
    at_random = sum(sum(time <= 1.15 * min(row) for time in row) / len(row) for row in times)
    assert f"| the first one of the list | {sum(case['agrees'] for case in cases)} of {len(cases)} |" in guide
    assert f"| one at random | {at_random:.1f} of {len(cases)} |" in guide
    fewest = 0
    for case in cases:
        layers = {name: parse_structure(name).at(case["d_in"], case["d_out"]) for name in case["measured_us"]}
        first = min(layers, key=lambda name: flops_per_token(layers[name]))
        fewest += case["measured_us"][first] <= 1.15 * min(case["measured_us"].values())
    assert f"| the one with the fewest FLOPs | {fewest} of {len(cases)} |" in guide


def test_suggest_on_the_command_line(einsearch) -> None:
    found = einsearch("suggest", "--d-in", 4096, "--d-out", 11008, "--keep", "1/8", "--format", "json")
    assert found.code == 0, found.err
    document = json.loads(found.out)
    assert document["suggestions"][0]["certified_rank"] == 4096
    assert parse_structure(document["suggestions"][0]["structure"]).at(4096, 11008).params <= 4096 * 11008 / 8
    table = einsearch("suggest", "--d-in", 1024, "--prefer", "decoding", "--params", 80000)
    assert table.code == 0
    assert "Take " in table.out
    assert "EinsumLinear(1024, 1024" in table.out
    assert einsearch("suggest", "--d-in", 256, "--evidence", ROOT / "examples/demo").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--keep", "2"), "--keep 2: a share above 0 and up to 1 is needed"),
        (("--keep", "half"), "--keep half"),
        (("--keep", "1/8", "--params", "1000"), "--keep and --params both say a size"),
        (("--params", "10"), "no structure of 1024 × 1024 has up to 10 parameters"),
        (("--evidence", "nothing"), "no such file"),
        (("--d-in", "1"), "--d-in 1: a whole number from 2"),
    ],
)
def test_what_cannot_be_suggested_is_refused(einsearch, words: tuple[str, ...], said: str) -> None:
    found = einsearch("suggest", *words)
    assert found.code == 2
    assert said in found.err
