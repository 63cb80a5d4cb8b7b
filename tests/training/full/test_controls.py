"""The runs without guides that `controls: true` adds."""

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.training.full import TrainSpec, plan_run, with_controls
from tests.training.full.runs import tiny_spec

GUIDED = tiny_spec(name="led", guidance={"ratio": 0.5}, controls=True)


def added(*specs: TrainSpec) -> list[TrainSpec]:
    found = with_controls(specs, lambda _: 256)
    assert found[: len(specs)] == list(specs)
    return found[len(specs) :]


def test_a_guided_run_brings_itself_without_guides_on_equal_tokens_and_on_equal_flops() -> None:
    tokens, flops = added(GUIDED)
    assert [tokens.name, flops.name] == ["led-equal-tokens", "led-equal-flops"]
    led, longer = plan_run(GUIDED, 256), plan_run(flops, 256)
    assert tokens.steps == led.phases.steps == 12
    assert flops.steps > 12
    assert longer.total_flops == pytest.approx(led.total_flops, rel=0.5 / flops.steps)
    for control in (tokens, flops):
        assert control.guidance is None
        assert control.model_copy(update={"name": "led", "steps": 12, "guidance": GUIDED.guidance}) == GUIDED


def test_tokens_that_come_again_count_for_equal_tokens() -> None:
    matched = tiny_spec(name="led", steps=40, guidance={"flop_matched": True}, controls=True)
    assert added(matched)[0].steps == plan_run(matched, 256).phases.steps > 40


def test_nothing_is_added_unasked_or_twice() -> None:
    plain = tiny_spec(name="plain")
    assert added(plain, tiny_spec(name="led", guidance={"ratio": 0.5})) == []
    assert [control.name for control in added(plain, GUIDED)] == ["led-equal-flops"], "plain is the run on equal tokens"
    draws = tiny_spec(name="drawn", guidance={"mode": "stochastic"}, controls=True)
    names = [control.name for control in added(GUIDED, draws)]
    assert names == ["led-equal-tokens", "led-equal-flops", "drawn-equal-flops"]


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(SpecError, match="adds a run named 'led-equal-tokens', and another run has that name"):
        added(GUIDED, tiny_spec(name="led-equal-tokens", seed=1))


def test_a_run_goes_on_when_its_controls_are_asked_for_later() -> None:
    assert GUIDED.same_run() == tiny_spec(name="led", guidance={"ratio": 0.5}).same_run()
