"""From a dense matrix to the nearest matrix of a structure."""
