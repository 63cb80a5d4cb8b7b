"""Proxy runs: many small networks at equal compute, to rank structures."""
