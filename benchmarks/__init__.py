"""Measurements: scripts that write benchmarks/results/."""
