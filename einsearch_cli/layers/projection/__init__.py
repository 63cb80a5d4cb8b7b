"""From a dense matrix to the nearest matrix of a structure."""

from einsearch_cli.layers.projection.projecting import Projection, project_

__all__ = ["Projection", "project_"]
