"""Compression of a trained model by its data: second moments of layers' inputs, and a budget for all layers."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.compression.compressing import Progress as Progress, compress as compress
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
