"""How fast layers are on this machine: calibration of the planner, and benchmarks."""

from einsearch_cli.speed.calibration import Progress, calibrate

__all__ = ["Progress", "calibrate"]
