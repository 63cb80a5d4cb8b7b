"""From a dense matrix to the nearest matrix of a structure."""

from einsearch_cli.layers.projection.projecting import Projection as Projection, project_ as project_
