from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.errors import EinsearchError, SizeError, SpecError
from einsearch_cli.models.transformer import preset
from einsearch_cli.training.full import TrainSpec, load_train_specs

COMMON = """\
model: {width: 64, layers: 2, heads: 2, context: 32}
data:
  text: corpus.txt
  tokenizer: characters
batch: 4
steps: 100
optimizer:
  learning_rate: 1e-2
"""

RUNS = """\
runs:
- name: dense
- name: half
  model:
    structure: low-rank:r=16
  optimizer: {weight_decay: 0.0}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_one_run_is_named_after_its_file(tmp_path: Path) -> None:
    name, (spec,) = load_train_specs(written(tmp_path, COMMON))
    assert (name, spec.name) == ("mine", "mine")
    assert spec.data.text == tmp_path / "corpus.txt"
    assert spec.optimizer.learning_rate == 0.01
    assert spec.tokens_per_step == 4 * 32


def test_runs_change_the_common_keys(tmp_path: Path) -> None:
    name, (dense, half) = load_train_specs(written(tmp_path, COMMON + RUNS))
    assert (name, dense.name, half.name) == ("mine", "dense", "half")
    assert half.model.model_dump() == {**dense.model.model_dump(), "structure": "low-rank:r=16"}
    assert (half.optimizer.learning_rate, half.optimizer.weight_decay) == (0.01, 0.0)
    assert half.data == dense.data


def test_the_command_line_wins_over_runs_and_has_paths_of_its_own(tmp_path: Path) -> None:
    changes = {"optimizer.weight_decay": 0.5, "model.width": 128, "data.text": "other.txt", "steps": 7}
    _, specs = load_train_specs(written(tmp_path, COMMON + RUNS), changes)
    for spec in specs:
        assert (spec.optimizer.weight_decay, spec.model.width, spec.steps) == (0.5, 128, 7)
        assert spec.data.text == Path("other.txt")


def test_tokens_in_place_of_steps(tmp_path: Path) -> None:
    _, (spec,) = load_train_specs(written(tmp_path, COMMON.replace("steps: 100", "tokens: 1e4")))
    assert spec.base_steps == 79  # 78.125 steps of 128 tokens


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (COMMON + "speed: 3\n", "9: unknown key 'speed'"),
        (COMMON + "  momentum: 3\n", "9: unknown key 'optimizer.momentum'"),
        (COMMON.replace("1e-2", "fast"), "8: optimizer.learning_rate is 'fast': a number above 0 is needed"),
        (COMMON.replace("batch: 4", "batch: 0"), "5: batch is 0: a whole number from 1 to 16,777,216 is needed"),
        (COMMON.replace("steps: 100\n", ""), "1: a run has either steps or tokens"),
        (COMMON + "accumulation: 3\n", "1: a batch of 4 rows does not divide into 3 parts"),
        (COMMON.replace("layers: 2", "depth: 2"), "1: unknown key 'model.depth'"),
        (COMMON + "guidance: {ratio: 0.3, flop_matched: true}\n", "9: with flop_matched the guided share"),
        (COMMON + "runs: 3\n", "9: runs is a list of 1 to 200 mappings"),
        (COMMON + "runs:\n- {seed: 1}\n", "10: a run is a mapping with a name"),
        (COMMON + "runs:\n- {name: a}\n- {name: a}\n", "11: two runs are named 'a'"),
        (COMMON + RUNS + "  model: 3\n", "15: key 'model' occurs twice"),
        (
            COMMON + RUNS.replace("weight_decay: 0.0", "weight_decay: -1"),
            "14: optimizer.weight_decay is -1: a number from 0 on",
        ),
        (COMMON + RUNS.replace("low-rank:r=16", "low-rank:r"), "13: "),
        (COMMON + RUNS.replace("weight_decay", "decay"), "14: unknown key 'optimizer.decay'"),
        (COMMON.replace("characters", "morse"), "4: no tokenizer 'morse'"),
        (COMMON.replace("{width: 64, layers: 2,", "{preset: xs,"), "1: no preset 'xs'"),
        (COMMON.replace("steps: 100", "tokens: 1e20"), "6: tokens: 1e+20 in steps of 128 are "),
        (COMMON.replace("layers: 2", "layers: two"), "1: model.layers is 'two': a whole number is needed"),
        ("- a\n", " a training run is a mapping of keys"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(EinsearchError) as caught:
        load_train_specs(path)
    assert caught.value.problem.startswith(f"{path}:{problem}")
    assert caught.value.remedy


def test_heads_that_do_not_divide_the_width(tmp_path: Path) -> None:
    path = written(tmp_path, COMMON.replace("heads: 2", "heads: 3"))
    with pytest.raises(SizeError) as caught:
        load_train_specs(path)
    assert caught.value.problem == f"{path}:1: 3 heads in a width of 64: the heads have to divide the width"


LONG = """\
steps: 9
model:
  preset: s
  SETTING
"""


@pytest.mark.parametrize(
    ("setting", "changes", "place"),
    [
        ("width: 100", {}, "mine.yaml:4: 12 heads in a width of 100"),
        ("heads: 5", {}, "mine.yaml:4: 5 heads in a width of 768"),
        ("heads: 7\n  width: 100", {}, "mine.yaml:4: 7 heads in a width of 100"),
        ("heads: 5", {"model.width": 64}, "--set: 5 heads in a width of 64"),
        ("kv_heads: 5", {}, "mine.yaml:4: 5 kv_heads for 12 heads"),
        ("width: 12", {}, "mine.yaml:4: a head_size of 1: rotary embeddings"),
        ("layers: 0", {}, "mine.yaml:4: layers 0: every size has to be at least 1"),
        ("head_size: 16777216", {}, "mine.yaml:4: heads × head_size 201,326,592: at most"),
        ("structure: monrach", {}, "mine.yaml:4: no structure or family is named 'monrach'"),
        (
            "structure: ffn-moe:experts=4,top=2",
            {},
            "mine.yaml:4: structure ffn-moe:experts=4,top=2 with activation gelu",
        ),
        (
            "structure: ffn-moe:experts=4,top=2",
            {"model.bias": True},
            "--set: structure ffn-moe:experts=4,top=2 with act",
        ),
    ],
)
def test_settings_that_do_not_fit_are_placed_by_the_key_that_is_given(
    tmp_path: Path, setting: str, changes: dict[str, Any], place: str
) -> None:
    with pytest.raises(EinsearchError) as caught:
        load_train_specs(written(tmp_path, LONG.replace("SETTING", setting)), changes)
    assert caught.value.problem.removeprefix(f"{tmp_path}/").startswith(place)
    assert caught.value.keys


def test_the_model_is_written_as_it_was_given_and_read_as_it_is() -> None:
    given = {"preset": "s", "width": 1536.0, "hidden": None}
    spec = TrainSpec.model_validate({"steps": 9, "model": given})
    assert (spec.model.heads, spec.model.hidden, spec.context) == (12, 4 * 1536, 1024)
    assert spec.same_run()["model"] == {"preset": "s", "width": 1536}
    assert spec.config(vocabulary=7) == preset("s", width=1536, vocabulary=7)
    assert TrainSpec(steps=3).same_run()["model"] == {"preset": "s"}


@pytest.mark.parametrize("key", ["runs.dense.steps", "a..b", ""])
def test_changes_of_the_list_of_runs_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(SpecError, match=f"--set {key}: a change is made to every run"):
        load_train_specs(written(tmp_path, COMMON), {key: 3})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"optimizer.speed": 3}, "--set: unknown key 'optimizer.speed'"),
        ({"optimizer.learning_rate": -1}, "--set: optimizer.learning_rate is -1: a number above 0 is needed"),
        ({"model.heads": 3}, "--set: 3 heads in a width of 64"),
        ({"steps": 10**9}, "--set: steps is 1000000000: a whole number from 1 to 10,000,000 is needed"),
        ({"steps": None, "tokens": 1e30}, "--set: tokens: 1e+30 in steps of 128 are 7.81e+27 steps, a run has at most"),
    ],
)
def test_errors_of_options_name_the_option(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(EinsearchError) as caught:
        load_train_specs(written(tmp_path, COMMON), changes)
    assert caught.value.problem.startswith(problem)


def test_a_vocabulary_smaller_than_that_of_the_data(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"model.vocabulary": 100}
    _, (spec,) = load_train_specs(written(tmp_path, COMMON), changes)
    assert spec.config(vocabulary=100).vocabulary == 100
    with pytest.raises(SpecError, match=r"model.vocabulary is 100: the data have 256 distinct tokens"):
        spec.config(vocabulary=256)
