"""results.json agrees with its schema in docs/, field by field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from einsearch_cli.reports import results_document
from tests.reports.results_schema import PATH, results_schema, schema_text
from tests.reports.test_law import lawful as lawful
from tests.reports.test_stored import whole


def test_the_schema_in_docs_is_that_of_the_code() -> None:
    """Run tests/reports/results_schema.py to write it again."""
    assert PATH.read_text() == schema_text()


def test_results_obey_the_schema(study, lawful) -> None:
    validator = jsonschema.Draft202012Validator(results_schema())
    for made in (whole(study), lawful, study(failed=("monarch",)), study(rungs=1, seeds=1)):
        validator.validate(json.loads(json.dumps(results_document(made))))


@pytest.mark.parametrize(("name", "value"), [("seed", "0"), ("stage", "other"), ("unknown", 1), ("loss", True)])
def test_other_values_do_not(study, name: str, value: object) -> None:
    document = json.loads(json.dumps(results_document(study(rungs=1))))
    document["results"][0][name] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, results_schema())


def test_every_field_is_described() -> None:
    def bare(part: Any, name: str) -> list[str]:
        found = []
        for key, value in part.get("properties", {}).items():
            found += [f"{name}.{key}"] if "description" not in value and "const" not in value else []
        return found

    schema = results_schema()
    assert bare(schema, "") == []
    assert [name for kind, part in schema["$defs"].items() for name in bare(part, kind)] == []


def test_stored_examples_obey_it_or_are_refused() -> None:
    for file in Path(__file__).parents[2].glob("examples/*/results.json"):
        document = json.loads(file.read_text())
        if document.get("format") == results_schema()["properties"]["format"]["const"] and "rates" in document:
            jsonschema.validate(document, results_schema())
