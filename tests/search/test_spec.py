from __future__ import annotations

from pathlib import Path

import pytest

from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.search.spec import StudySpec, load_study_spec
from einsearch_cli.structures import MixtureOfExperts, Structure, parse_structure
from einsearch_cli.taxonomy import taxonomy_of


def load(folder: Path, text: str) -> StudySpec:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study_spec(path)


def test_candidates_come_from_text_files_and_a_pruned_space_each_once(tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("structure\nlow-rank\nbtt:r=1\n")
    spec = load(tmp_path, "structures: [monarch, dense]\nfiles: [more.csv]\nspace: {grid: 2, max_nu: 1/2}\n")
    found = spec.candidates(tmp_path)
    assert [str(s) for s in found[:3]] == ["XA^1 YA^1", "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2", "XA^1 YB^1 AB^1/2"]
    assert len(found) == len(set(found)) == 5
    assert all(taxonomy_of(s).psi == 1 and taxonomy_of(s).omega == 0 for s in found[3:])
    assert spec.name == "mine"


def test_baselines_are_candidates_too(tmp_path: Path) -> None:
    spec = load(tmp_path, "baselines: [low-rank, dense]\nstructures: [monarch, low-rank]\n")
    dense, low_rank, monarch = (parse_structure(text) for text in ("dense", "low-rank", "monarch"))
    assert spec.compared_with() == [dense, low_rank]
    assert spec.candidates() == [dense, low_rank, monarch]


def test_a_space_of_experts(tmp_path: Path) -> None:
    space = "{grid: 2, max_nu: 1/2, experts: 8, top: 2}"
    _, *found = load(tmp_path, f"space: {space}\n").candidates()
    plain = load(tmp_path, "space: {grid: 2, max_nu: 1/2}\n").candidates()[1:]
    assert found == [MixtureOfExperts(structure, 8, 2) for structure in plain if isinstance(structure, Structure)]
    assert len(found) == 3


def test_a_list_of_structures_is_a_study(tmp_path: Path) -> None:
    assert load(tmp_path, "- monarch\n").candidates() == [parse_structure("dense"), parse_structure("monarch")]


def test_numbers_in_scientific_notation(tmp_path: Path) -> None:
    assert load(tmp_path, "structures: [monarch]\nbudget_flops: 3e11\n").budget_flops == 3e11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("structures: [monarch]\nwidht: [64]\n", "mine.yaml:2: unknown key 'widht'"),
        ("structures: [monarch]\nhalving:\n  rungs: 2\n  eta: 3\n", "mine.yaml:4: unknown key 'halving.eta'"),
        ("widths: [64, 64]\n", "mine.yaml:1: widths is [64, 64]: 64 is listed twice"),
        ("widths: []\n", "widths is an empty list: at least one entry is needed"),
        ("seeds: 0\n", "mine.yaml:1: seeds is 0: a whole number from 1 to 1,000 is needed"),
        (
            "time: 2 hours\n",
            "mine.yaml:1: time is '2 hours': a number above 0 with s, m, h or d is needed, up to 1000d",
        ),
        ("time: 3600\n", "time is 3600: a number above 0 with s, m, h or d is needed"),
        ("most_seeds: 2\n", "most_seeds = 2, but every candidate has 3 seeds"),
        ("first_seed: 995\nmost_seeds: 6\n", "the last seed is 1000: seeds from 1000 on are kept"),
        ("seeds: 3\nfirst_seed: 998\n", "the last seed is 1000: seeds from 1000 on are kept for the confirmation"),
        ("budget_flops: -1\n", "budget_flops is -1: a number above 0 and at most 1e+24 is needed"),
        ("budget_flops: .nan\n", "budget_flops is .nan: a number above 0"),
        ("name: ../../etc\n", "name is '../../etc'"),
        ("structures:\n- monarch\n- XA^1/2 YA^1\n", "mine.yaml:3: the input exponents"),
        ("structures: [monarch]\nbaselines:\n- XA^1/2 YA^1\n", "mine.yaml:3: the input exponents"),
        ("structures: [monarch]\ntask: teachr\n", "mine.yaml:2: no task is named 'teachr'"),
        ("structures: [monarch]\ntask_settings: {dpth: 3}\n", "mine.yaml:2: unknown key 'task_settings.dpth'"),
        ("optimizer: {learning_rate: 0}\n", "mine.yaml:1: optimizer.learning_rate is 0: a number above 0 is needed"),
        ("space: {grid: 2, experts: 8}\n", "experts and top are given both or neither"),
        ("space:\n  grid: 2\n  experts: 2\n  top: 3\n", "mine.yaml:3: top=3 with experts=2"),
        ("space: {grid: 2, family: monrach}\n", "mine.yaml:1: space.family is 'monrach': one of dense, low-rank, "),
        ("structures: [monarch]\nfiles:\n- nothing.csv\n", "mine.yaml:3: there is no file "),
        (
            "structures: [monarch]\ntask: text\ntask_settings:\n  data:\n    tokenizer: morse\n",
            "mine.yaml:5: no tokenizer 'morse'",
        ),
        ("space: {grid: 100}\n", "space.grid is 100: a whole number from 1 to 24 is needed"),
        ("just text\n", "a study is a mapping"),
        ("- monarch\n- {a: 1}\n", "mine.yaml:2: 'a' in '{a: 1}' is not a carrier set"),
    ],
)
def test_bad_studies_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(EinsearchError) as caught:
        load(tmp_path, text).candidates()
    assert message in caught.value.problem
    assert caught.value.remedy


def test_a_study_needs_a_candidate_and_not_too_many() -> None:
    with pytest.raises(SpecError, match="0 candidates besides dense"):
        StudySpec(structures=["dense"]).candidates()
    with pytest.raises(SpecError, match="it needs 1 to 499"):
        StudySpec(space={"grid": 8}).candidates()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("space", "said", "remedy"),
    [
        ({"grid": 4, "max_nu": "1/4"}, "min_psi and max_nu together leave nothing", "min_psi = 1/2, or max_nu = 1/2"),
        (
            {"grid": 4, "max_nu": "1/4", "experts": 8, "top": 2},
            "max_nu together leave",
            "min_psi = 1/2, or max_nu = 1/2",
        ),
        ({"grid": 1, "min_psi": "1", "max_nu": "1/2"}, "with factors = 2 and grid = 1 passes", "or grid = 2"),
        ({"grid": 2, "factors": 1}, "factors = 1", "factors = 2"),
        (
            {"grid": 2, "family": "kronecker"},
            "of family kronecker .*: max_omega leaves",
            "max_omega = 1/2, or no family",
        ),
        ({"grid": 4, "max_nu": "1/4", "family": "tucker"}, "passes the criteria", "relax several criteria together"),
    ],
)
def test_a_space_with_nothing_left_names_what_leaves_nothing(space: dict[str, object], said: str, remedy: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        StudySpec(structures=["monarch"], space=space).candidates()  # type: ignore[arg-type]
    assert remedy in caught.value.remedy
