"""Budgets that pay for no run are refused, with one that does."""

import re

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.search.budgets import check_budgets
from einsearch_cli.search.spec import StudySpec


def test_the_budget_that_a_refusal_names_is_enough() -> None:
    """It pays for the costliest candidate, not for the first that was looked at."""
    given = {"name": "s", "task": "teacher", "structures": ["low-rank", "monarch"], "widths": [16, 24, 32]}

    def check(budget_flops: float) -> None:
        spec = StudySpec.model_validate({**given, "budget_flops": budget_flops})
        check_budgets(spec, spec.candidates(), spec.open_task())

    with pytest.raises(SpecError) as caught:
        check(1e6)
    enough = float(re.findall(r"a budget of (\S+) or more", caught.value.remedy or "")[0])
    check(enough)
    with pytest.raises(SpecError):
        check(0.98 * enough)
