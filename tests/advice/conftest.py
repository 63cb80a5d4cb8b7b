from tests.cli.conftest import einsearch as einsearch
