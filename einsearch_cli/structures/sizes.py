"""Layers that earlier versions pickled name this module as the one of `SizedStructure`."""

from einsearch_cli.sizing import SizedStructure

__all__ = ["SizedStructure"]
