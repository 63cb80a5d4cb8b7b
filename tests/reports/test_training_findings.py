"""Sentences about a comparison of full runs."""

from dataclasses import replace

import pytest

from einsearch_cli.reports.training import FinishedRun, TrainingReport, training_findings
from einsearch_cli.training.full import RunResult


def finished(name: str, structure: str, loss: float, flops: int, guided_steps: int = 0) -> FinishedRun:
    result = RunResult(
        name=name,
        structure=structure,
        loss=loss,
        params=1,
        steps=10,
        guided_steps=guided_steps,
        repeated_steps=0,
        tokens=1,
        flops=flops,
        total_flops=flops,
        elapsed_s=1.0,
        spec={"model": {"structure": structure}},
        data_digest="",
    )
    return FinishedRun(result, ())


def report(*runs: FinishedRun) -> TrainingReport:
    return TrainingReport("study", runs, "a text", (), ())


DENSE = finished("dense", "dense", 2.0, 100)
PLAIN = finished("plain", "low-rank:r=4", 2.4, 60)


@pytest.mark.parametrize(
    ("plain", "guided", "ending"),
    [
        (
            2.4,
            2.1,
            "ends at 2.400 with 60%: 75% of the gap is closed. The guided run had more FLOPs than the one without: "
            "only that one on equal FLOPs shows what guides add.",
        ),
        (2.4, 2.5, ": the guides did not help."),
        (1.9, 1.8, ", which leaves no gap to close."),
    ],
)
def test_how_much_of_the_gap_to_dense_a_guide_closes(plain: float, guided: float, ending: str) -> None:
    runs = [DENSE, finished("plain", "low-rank:r=4", plain, 60), finished("led", "low-rank:r=4", guided, 99, 3)]
    _, sentence = training_findings(report(*runs))
    assert sentence.startswith(
        f"led ends at {guided:.3f} with 99% of the FLOPs of dense (2.000); without guides plain ends at"
    )
    assert sentence.endswith(ending)


def test_at_equal_flops_the_comparison_needs_no_caution() -> None:
    runs = [DENSE, finished("plain", "low-rank:r=4", 2.4, 99), finished("led", "low-rank:r=4", 2.1, 99, 3)]
    assert training_findings(report(*runs))[1].endswith("with 99%: 75% of the gap is closed.")


def test_a_guide_is_compared_with_its_own_structure_only() -> None:
    led = finished("led", "monarch", 2.1, 99, 3)
    assert training_findings(report(DENSE, PLAIN, led)) == ["dense has the lowest held-out loss, 2.000 nats per token."]


def test_one_run_is_compared_with_none() -> None:
    assert training_findings(report(PLAIN)) == ["plain ends at a held-out loss of 2.400 nats per token."]


def test_controls_say_what_guides_add_on_equal_tokens_and_on_equal_flops() -> None:
    led = finished("led", "low-rank:r=4", 2.1, 1000, 3)
    tokens = finished("led-equal-tokens", "low-rank:r=4", 2.2, 700)
    longer = finished("led-equal-flops", "low-rank:r=4", 2.0, 1003)
    longer = replace(longer, result=replace(longer.result, steps=14))
    assert training_findings(report(led, tokens, longer))[1:] == [
        "led ends at 2.100; without guides, one run each: 2.200 on as many tokens (−4.5%), 2.000 on as many FLOPs (+5.0%)."
    ]
    with_dense = training_findings(
        report(replace(DENSE, result=replace(DENSE.result, total_flops=1500)), led, tokens, longer)
    )
    assert "without guides led-equal-flops ends at 2.000" in with_dense[2], "of the two controls the one on equal FLOPs"
