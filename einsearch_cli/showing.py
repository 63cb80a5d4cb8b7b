"""Results as tables of pandas, and as HTML in notebooks; neither is imported before it is needed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from einsearch_cli.errors import OutputError
from einsearch_cli.lazy import optional_package

if TYPE_CHECKING:
    import pandas


class Shown:
    """Notebooks show objects of this class as HTML, by `reports.notebooks`."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        # Imported by its name, as objects to show belong to layers of the program below the reports.
        html: str = import_module("einsearch_cli.reports.notebooks").html_of(self)
        return html


class Tabular(Shown):
    """A result with rows of plain values."""

    __slots__ = ()

    def records(self) -> list[dict[str, Any]]:
        """Rows of numbers, texts, truth values and None, all with the same keys."""
        raise NotImplementedError

    def to_pandas(self) -> pandas.DataFrame:
        """The `records` as a table of pandas.

        Raises:
            OutputError: if pandas is not installed.
        """
        pandas = optional_package("pandas", "to_pandas needs pandas", "pip install 'einsearch[pandas]'", OutputError)
        return pandas.DataFrame(self.records())
