"""Integer sizes of a structure for given dimensions, and the rank that it has at them."""

from einsearch_cli.sizing.choosing import choose_sizes as choose_sizes
from einsearch_cli.sizing.sized import SizedStructure as SizedStructure
