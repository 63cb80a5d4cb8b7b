"""Projection of a dense matrix to the nearest matrix of a structure, and initialisation rules."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.projection.initialisation import initialise_ as initialise_
    from einsearch_cli.projection.initialisation_names import (
        INITIALISATIONS as INITIALISATIONS,
        Initialisation as Initialisation,
    )
    from einsearch_cli.projection.projecting import Projection as Projection, project_ as project_
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
