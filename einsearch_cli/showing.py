"""Results as tables: of pandas, and as HTML in notebooks. Neither is imported before it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from einsearch_cli.errors import OutputError
from einsearch_cli.lazy import optional_package

if TYPE_CHECKING:
    import pandas


class Shown:
    """Shown by notebooks as HTML; `reports.notebooks` knows how."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        # By its name, as the objects to show belong to layers of the program below that of the reports.
        html: str = import_module("einsearch_cli.reports.notebooks").html_of(self)
        return html


class Tabular(Shown):
    """Has rows of plain values."""

    __slots__ = ()

    def records(self) -> list[dict[str, Any]]:
        """Rows of numbers, texts, truth values and None, all with the same keys."""
        raise NotImplementedError

    def to_pandas(self) -> pandas.DataFrame:
        """`records` as a table of pandas.

        Raises:
            OutputError: if pandas is not installed.
        """
        pandas = optional_package("pandas", "to_pandas needs pandas", "pip install 'einsearch[pandas]'", OutputError)
        return pandas.DataFrame(self.records())
