"""A page answers a researcher: what was trained, loss at every width, seconds, seeds, parameters, each structure."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from statistics import mean

import pytest
import torch
import yaml
from scipy import stats
from torch import nn

from einsearch_cli.reports import StudyReport, render_report
from einsearch_cli.reports.looks import identities
from einsearch_cli.reports.numbers import flops_text, loss_text, share_text, time_text
from einsearch_cli.reports.speed_page import render_speed
from einsearch_cli.reports.structure_cards import code_of
from einsearch_cli.reports.training import FinishedRun, TrainingReport
from einsearch_cli.reports.training_page import render_training
from einsearch_cli.search.outcome import TunedRate
from einsearch_cli.structures import LayerSpec, parse_layer, parse_structure, short_name
from einsearch_cli.taxonomy import classify
from einsearch_cli.training.full import TrainSpec
from tests.reports.reading import figures, table_rows
from tests.reports.test_figures import CLOSE, noisy
from tests.reports.test_page import Checker
from tests.reports.test_speed import RESULT
from tests.reports.test_stored import whole
from tests.reports.test_training_findings import finished


def timed(made: StudyReport) -> StudyReport:
    """The report with network sizes, numbers of steps and times of a step that differ between structures and widths."""
    order = {item: number for number, item in enumerate(made.structures, start=1)}
    runs = tuple(
        replace(
            run,
            params=order[run.trial.structure] * run.trial.width**2,
            steps=1000 * (1 + run.trial.rung) + run.trial.width,
            learning_rate=0.01 * order[run.trial.structure],
            executed_flops=1.3 * run.total_flops,
        )
        for run in made.results
    )
    seconds = {(item, width): 1e-5 * number * width for item, number in order.items() for width in (64, 128, 256)}
    return replace(made, results=runs, step_seconds=seconds)


def half_of(made: StudyReport, structure: LayerSpec, seeds: int) -> float:
    """Half of the 95% interval of a mean log loss, by the noise of the whole study; `structure` has no own noise here."""
    assert not made.ranking.own_noise, structure
    return stats.t.ppf(0.975, made.ranking.noise_degrees) * made.ranking.noise / math.sqrt(seeds)


def test_the_loss_stands_at_every_width_with_seeds_and_spread(study) -> None:
    made = timed(noisy(study(texts=("dense", "monarch", "low-rank"), rungs=2)))
    rows = {tuple(cells[0] for cells in row[:3]): row for row in table_rows(render_report(made), "rate")}
    assert len(rows) == 3 * 2 * 3
    looks = identities(made)
    for item in made.structures:
        for rung, budget in made.budgets:
            for width in (64, 128, 256):
                place = (item, rung, width)
                runs = [r for r in made.results if (r.trial.structure, r.trial.rung, r.trial.width) == place]
                losses = [run.loss for run in runs]
                _, _, _, params, steps, step, rate, loss, spread = rows[
                    looks[item].label, flops_text(budget), str(width)
                ]
                middle = math.exp(mean(math.log(loss) for loss in losses))
                half = half_of(made, item, len(runs))
                low, high = middle * math.exp(-half), middle * math.exp(half)
                assert loss == [loss_text(middle), f"[{loss_text(low)}, {loss_text(high)}]"]
                share = share_text((max(losses) - min(losses)) / middle)
                assert spread == [share, f"[{loss_text(min(losses))}, {loss_text(max(losses))}]"]
                assert (params, steps) == ([f"{runs[0].params:,}"], [f"{runs[0].steps:,}"])
                assert step == [time_text(made.step_seconds[item, width])]
                assert rate == [f"{runs[0].learning_rate:.3g}"]
    assert "The same in all rows: seeds 3." in render_report(made)


def test_seconds_flops_and_seeds_of_every_structure(study) -> None:
    made = timed(noisy(study(rungs=2, stopped=("kronecker",))))
    page = render_report(made)
    rows = {row[0][0]: row for row in table_rows(page, "a run")}
    assert list(rows) == [short_name(item) for item in made.structures], "best first"
    for item in made.structures:
        level = made.levels[item][-1]
        width = level.best.width
        [steps] = {r.steps for r in made.runs_of(item, level.best)}
        [flops] = {r.train_flops for r in made.runs_of(item, level.best)}
        cells = [part[0] for part in rows[short_name(item)]]
        step_s = made.step_seconds[item, width]
        assert cells[2:6] == [f"{steps:,}", time_text(step_s), time_text(step_s * steps), flops_text(flops)]
        total = level.budget_flops * 1.1  # of the fixture; executed by a factor of 1.3 more
        assert cells[6:8] == [flops_text(total), flops_text(1.3 * total)]
    assert f"the loss of one run scatters by {share_text(made.ranking.noise)}" in page
    assert "Steps were not timed" in render_report(study())
    assert "the spread between seeds is not known" in render_report(study(seeds=1))


def test_loss_against_parameters(study) -> None:
    made = timed(noisy(study(texts=("dense", "monarch", "low-rank"), rungs=2)))
    found = figures(render_report(made))["parameters"]
    looks = identities(made)
    assert list(found.panels) == ["rung-1", "rung-2"]
    for number, panel in enumerate(found.panels.values()):
        for item in made.structures:
            level = made.levels[item][number]
            mine = [mark for mark in panel.marks if mark.key == looks[item].key]
            [dot] = [mark for mark in mine if mark.kind == "dot"]
            assert (dot.x[0], dot.y[0]) == pytest.approx((level.best.params, level.best.mean), rel=CLOSE)
            [bar] = [mark for mark in mine if mark.kind == "bar"]
            half = half_of(made, item, len(level.best.runs))
            ends = [level.best.mean * math.exp(sign * half) for sign in (-1, 1)]
            assert list(bar.ends) == pytest.approx(ends, rel=CLOSE)
            assert bar.places[0][0] == dot.places[0][0]
            others = {(mark.x[0], mark.y[0]) for mark in mine if mark.kind in ("faint", "beyond")}
            assert sorted(others) == [
                pytest.approx((cell.params, cell.mean), rel=CLOSE) for cell in level.cells if cell is not level.best
            ]


def test_the_box_at_the_top_says_what_was_trained_and_repeats_it(study) -> None:
    spec = {"name": "mine", "task_settings": {"depth": 5}, "budget_flops": 1e11, "structures": ["monarch"]}
    setup = {"Task": "a regression", "Network": "a small one", "Batch": "64 samples a step."}
    page = render_report(replace(study(), setup=setup, spec=spec, commands=("einsearch rank mine.yaml --budget 1e11",)))
    box = page[page.index('id="section-setup"') : page.index('id="section-facts"')]
    assert page.index('id="section-setup"') < page.index('id="section-ranking"')
    for name, words in setup.items():
        assert f"<dt>{name}</dt><dd>{words}</dd>" in box
    assert "<dt>Steps</dt><dd>500 to 500 optimizer steps a run" in box
    assert "<pre>einsearch rank mine.yaml --budget 1e11</pre>" in box
    [file] = re.findall(r"for einsearch rank</summary><pre>(.*?)</pre>", box, re.S)
    assert yaml.safe_load(file) == spec
    former = render_report(study())
    assert "without the settings of task and optimizer" in former
    assert "without the settings of task and optimizer" not in page


def test_what_all_structures_share_is_a_sentence_and_no_column(study) -> None:
    made = study(texts=("dense", "monarch"))
    page = render_report(made)
    heads = re.findall(r"<th[^>]*>(.*?)</th>", page[page.index('id="section-ranking"') :].partition("</thead>")[0])
    assert {"ω", "ψ"}.isdisjoint(heads)
    assert "ν" in heads
    assert "The same in all rows: ω 0, ψ 1." in page
    mixed = render_report(study(texts=("dense", "monarch", "low-rank", "kronecker")))
    heads = re.findall(r"<th[^>]*>(.*?)</th>", mixed[mixed.index('id="section-ranking"') :].partition("</thead>")[0])
    assert {"ω", "ψ", "ν"} <= set(heads)
    narrow = study(widths=(128,))
    assert "widths" not in figures(render_report(narrow))
    assert "All networks are 128 wide." in render_report(narrow)
    same = study(texts=("XA^1/2 XAB^1/2 YA^1/2 YB^1/2", "monarch"), yardstick="monarch")
    assert "taxonomy" not in figures(render_report(same))
    assert "All structures have ν = 1/2, which is not drawn." in render_report(same)


def test_every_structure_leads_to_its_card(study) -> None:
    made = study(texts=("dense", "monarch", "low-rank", "kronecker", "btt:r=2"))
    page = render_report(made)
    links = re.findall(r'<a href="#([^"]*)">([^<]*)</a>', page)
    cards = dict(re.findall(r'<article class="[^"]*" id="([^"]*)".*?>(.*?)</article>', page, re.S))
    assert {target for target, _ in links} == cards.keys()
    assert len(cards) == len(made.structures)
    for target, name in links:
        assert f"</svg>{name}</h3>" in cards[target]
    for item, look in identities(made).items():
        words = Checker(cards[f"card-{look.key}"]).text
        known = classify(item, look.entry.width, look.entry.width)
        assert f"at d = {known.d_in}: {known.params:,}" in words
        assert f"at d = {known.d_in}: {known.flops_per_token:,}" in words
        assert all(
            f"{sign} = {value}" in words for sign, value in (("ω", known.omega), ("ψ", known.psi), ("ν", known.nu))
        )
        assert f"rank ≤ {known.rank_bound}" in words or f"= {known.rank_bound}, can be full" in words
    monarch = Checker(cards["card-" + identities(made)[parse_structure("monarch")].key]).text
    assert "2·d^(3/2)" in monarch
    assert "...ba,abd,bcd->...cd" in monarch
    assert "every FLOP has its own parameter" in monarch


@pytest.mark.parametrize(
    "text", ["monarch", "XA^1/2 XAB^1/2 YA^1/2 YB^1/2", "btt:r=2", "btt-moe:experts=4,top=2", "ffn-moe:experts=4,top=2"]
)
def test_the_code_of_a_card_runs(text: str) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    before = sum(parameter.numel() for parameter in model.parameters())
    names: dict[str, object] = {"model": model}
    exec(code_of(parse_layer(text), 64), names)  # noqa: S102  what a reader would paste
    if text.startswith("ffn"):
        made, tokens = names["model"], torch.zeros(1, 8, dtype=torch.long)
        assert made(tokens).shape == (1, 8, 256)
        assert any(type(part).__name__ == "FeedForwardMoE" for part in made.modules())
    else:
        assert names["layer"](torch.ones(2, 64)).shape == (2, 64)
        assert sum(parameter.numel() for parameter in model.parameters()) != before
        assert len(names["report"].replaced) == 2


def test_a_structure_of_the_bench_page_leads_to_its_card() -> None:
    page = render_speed(RESULT, "einsearch bench")
    links = {name: target for target, name in re.findall(r'<a href="#([^"]*)">([^<]*)</a>', page)}
    assert links.keys() == {"monarch", "btt"}
    assert links["monarch"] == links["btt"], "btt of rank 1 is monarch: one structure, one card"
    card = page[page.index(f'id="{links["monarch"]}"') :].partition("</article>")[0]
    assert "</svg>monarch</h3>" in card
    assert "at d = 64: 1,024, 0.25× dense" in Checker(card).text


GIVEN = {
    "model": {"width": 32, "layers": 2, "heads": 2, "context": 16, "structured": "all"},
    "batch": 4,
    "steps": 10,
    "optimizer": {"learning_rate": 0.01, "weight_decay": 0.25},
}


def trained(name: str, structure: str, loss: float, params: int, **changes: object) -> FinishedRun:
    spec = TrainSpec.model_validate({**GIVEN, "model": {**GIVEN["model"], "structure": structure}, **changes})
    run = finished(name, structure, loss, 100)
    return replace(run, result=replace(run.result, spec=spec.same_run(), params=params, tokens=params // 10))


def test_a_training_page_says_what_was_trained_and_draws_loss_against_parameters() -> None:
    guided = {"guidance": {"flop_matched": True}, "steps": 15}
    runs = (
        trained("plain", "dense", 2.0, 9000),
        trained("thin", "low-rank:r=4", 2.4, 3000),
        trained("led", "low-rank:r=4", 2.2, 3000, **guided),
    )
    report = TrainingReport("study", runs, "a book as bytes", ("einsearch train x.yaml",), (("torch", "2"),))
    page = render_training(report)
    words = Checker(page).text
    for said in (
        "A decoder-only transformer of 2 blocks, 32 wide, with 2 heads of 16, feed-forward networks of 128",
        "A book as bytes.",
        "All linear layers but the head.",
        "4 rows, 64 tokens, a step.",
        "AdamW, β 0.9 and 0.999, weight decay 0.25",
        "0.01 at width 32 is the base rate; muP multiplies it",
        "led: dense matrices lead the structured layers for as many steps as the FLOPs of dense pay for",
        "einsearch train x.yaml",
    ):
        assert said in words
    [file] = re.findall(r"as a training file has them</summary><pre>(.*?)</pre>", page, re.S)
    settings = yaml.safe_load(file)
    for run, own in zip(report.runs, settings.pop("runs"), strict=True):
        spec = TrainSpec.model_validate({**settings, **{key: value for key, value in own.items() if key != "name"}})
        assert {**spec.same_run(), "guidance": None} == {**run.result.spec, "guidance": None}
    panel = figures(page)["parameters"].panel
    assert sorted((mark.x[0], mark.y[0]) for mark in panel.of("dot")) == [(3000.0, 2.2), (3000.0, 2.4), (9000.0, 2.0)]
    rows = {row[0][0]: [cells[0] for cells in row] for row in table_rows(page, "tokens/s")}
    assert rows["thin"][-1] == "300"
    assert "a step 100 ms" in page
    assert 'href="#card-' in page


def test_structures_with_one_warning_share_its_sentence(study) -> None:
    made = study(texts=("dense", "monarch", "low-rank"), widths=(128, 256))
    [said] = made.warnings
    names = ", ".join(short_name(item) for item in made.structures)
    assert said.startswith(f"{names}: no optimum over widths on the last rung: 2 widths")


def test_the_rates_of_both_rungs_their_ratio_and_the_one_used_agree(study) -> None:
    """A rate without a better neighbour stays, although the parabola has its lowest point elsewhere."""
    found = {
        "base": 0.02,
        "width": 64,
        "tried": ((0.5, 0.9), (1.0, 0.8)),
        "curvature": 0.1,
        "edge": None,
        "reason": None,
    }
    checked = {"last_width": 128, "last_tried": ((0.5, 0.6), (1.0, 0.5)), "shift": 1.5}
    rates = {
        parse_structure("dense"): TunedRate(rate=1.0, last_rate=1.0, **found, **checked),
        parse_structure("monarch"): TunedRate(rate=2.0, last_rate=3.0, **found, **checked),
    }
    page = render_report(replace(study(), rates=rates))
    rows = {cells[0][0]: cells for cells in table_rows(page, "used, last rung")}
    assert [cell[0] for cell in rows["dense"][1:]] == ["0.02", "0.03", "1.50×", "0.02"]
    assert [cell[0] for cell in rows["monarch"][1:]] == ["0.04", "0.06", "1.50×", "0.06"]


def test_the_meanings_below_the_ranking_are_those_of_its_columns(study) -> None:
    plain, timed = render_report(study()), render_report(whole(study))
    for page, heads in ((plain, ["confirmed gain"]), (timed, [])):
        terms = re.findall(
            "<dt>(.*?)</dt>", page[page.index('<dl class="meanings">') : page.index('id="section-scaling"')]
        )
        shown = re.findall("<th[^>]*>(.*?)</th>", page[page.index('id="section-ranking"') :])
        assert {"verdict", "compute gain", "loss"} <= set(terms)
        assert set(terms) - {"↑, ↓"} <= set(shown)
        assert not set(terms) & set(heads)
    assert ">confirmed gain</dt>" in timed
    assert ">gain in seconds</dt>" in timed
