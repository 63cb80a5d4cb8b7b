"""The register of optimizers."""

import subprocess
import sys

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.search.spec import parse_study_spec
from einsearch_cli.training import OptimizerSettings
from einsearch_cli.training.full import TrainSpec
from einsearch_cli.training.optimizers import find_optimizer, register
from einsearch_cli.training.optimizers.adamw import AdamW


def test_an_unknown_name_is_refused_with_all_names() -> None:
    with pytest.raises(SpecError, match=r"optimizer\.name is 'adamx': the optimizers are adamw") as caught:
        parse_study_spec({"structures": ["monarch"], "optimizer": {"name": "adamx"}})
    assert caught.value.remedy == "name: adamw"
    with pytest.raises(SpecError, match="no optimizer is named 'adamx'"):
        find_optimizer("adamx")


def test_a_name_is_given_once() -> None:
    class Other(AdamW):
        pass

    with pytest.raises(ValueError, match="two optimizers are named 'adamw'"):
        register(Other())


def test_settings_from_before_there_was_a_choice_stay_valid() -> None:
    """Studies and runs that were started then can continue."""
    assert "name" not in OptimizerSettings().model_dump()
    assert "name" not in TrainSpec(steps=3).same_run()["optimizer"]
    assert TrainSpec(steps=3).same_run()["optimizer"]["beta2"] == 0.999
    assert OptimizerSettings().model_dump()["beta2"] == 0.95


def test_memory_is_known_without_torch() -> None:
    code = "import sys; from einsearch_cli.training.optimizers import find_optimizer; "
    code += "assert find_optimizer('adamw').least_state_bytes == 8; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
