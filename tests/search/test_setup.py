"""A report describes a study by words that name its settings and by a study file that trains the same."""

import json
from pathlib import Path

import pytest

from einsearch_cli.search.identity import fingerprint
from einsearch_cli.search.setup import setup_words, study_file, whole_spec
from einsearch_cli.search.spec import StudySpec, load_study_spec

STUDIES = {
    "families": {"structures": ["monarch", "btt:r=2"], "widths": [32, 64], "seeds": 2, "budget_flops": 1e9},
    "space": {"space": {"grid": 2, "max_nu": "1/2"}, "time": "2h", "baselines": ["low-rank"], "most_seeds": 12},
    "experts": {"structures": ["btt-moe:experts=4,top=2"], "optimizer": {"name": "muon", "learning_rate": 0.01}},
    "task": {
        "structures": [{"XA": "1/2", "XAB": "1/2", "YB": "1/2", "YAB": "1/2"}],
        "task_settings": {"depth": 7, "batch_size": 64},
        "rates": "fixed",
        "halving": {"rungs": 4, "keep": 0.25},
        "total_flops": 1e13,
        "optimizer": {"clip_norm": float("inf")},
    },
}


@pytest.mark.parametrize("name", STUDIES)
def test_the_whole_study_file_trains_the_same(name: str, tmp_path: Path) -> None:
    spec = StudySpec.model_validate({"name": name, **STUDIES[name]})
    task, candidates = spec.open_task(), spec.candidates()
    file = tmp_path / "again.yaml"
    kept = json.loads(json.dumps(whole_spec(spec, candidates, task), allow_nan=False))
    file.write_text(study_file(kept))
    again = load_study_spec(file)
    assert again.candidates(tmp_path) == candidates
    assert fingerprint(again, again.open_task()) == fingerprint(spec, task)
    for key in (
        "widths",
        "seeds",
        "most_seeds",
        "first_seed",
        "rates",
        "controls",
        "confirm",
        "halving",
        "budget_flops",
    ):
        assert getattr(again, key) == getattr(spec, key), key
    assert again.compared_with() == spec.compared_with()


def test_words_name_task_network_optimizer_rates_and_seeds() -> None:
    spec = StudySpec.model_validate(
        {
            "structures": ["monarch"],
            "task_settings": {"depth": 6, "teacher_width": 512, "batch_size": 128, "learning_rate": 0.05},
            "optimizer": {"weight_decay": 0.125, "warmup": 0.2},
            "seeds": 3,
            "first_seed": 12,
            "most_seeds": 24,
        }
    )
    words = setup_words(spec, spec.candidates(), spec.open_task())
    assert "512 wide" in words["Teacher"]
    assert "MLP (the student) of 6 linear layers" in words["Network"]
    assert "the 4 hidden ones, width × width" in words["Network"]
    assert words["Batch"] == "128 samples a step."
    assert words["Optimizer"].startswith(
        "AdamW, β 0.9 and 0.95, weight decay 0.125, gradients clipped at norm 1; 20% of"
    )
    assert words["Learning rate"].startswith("Tuned for every candidate on the cheapest rung, around 0.05 at width 64")
    assert words["Seeds"].startswith("Seeds 12 to 14")
    assert "up to 24 where the verdict is open" in words["Seeds"]
    fixed = spec.model_copy(update={"rates": "fixed", "widths": [32, 64], "seeds": 1, "most_seeds": None})
    said = setup_words(fixed, fixed.candidates(), fixed.open_task())
    assert said["Learning rate"].startswith("The same for every candidate, 0.05")
    assert said["Widths"] == "32, 64, for every candidate."
    assert said["Seeds"].startswith("Seed 12,")
    assert "Experts" not in said
    experts = StudySpec.model_validate({**STUDIES["experts"], "optimizer": {"auxiliary_weight": 0.2}})
    assert setup_words(experts, experts.candidates(), experts.open_task())["Experts"].startswith("A loss of weight 0.2")
