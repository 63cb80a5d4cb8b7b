"""Integer sizes of a structure for given dimensions, and the rank that it has at them."""

from einsearch_cli.sizing.sized import SizedStructure
from einsearch_cli.sizing.sizes import choose_sizes

__all__ = ["SizedStructure", "choose_sizes"]
