"""A former place of `SizedStructure`, kept because layers that earlier versions pickled name this module."""

from einsearch_cli.sizing import SizedStructure

__all__ = ["SizedStructure"]
