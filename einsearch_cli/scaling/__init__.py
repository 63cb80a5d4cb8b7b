"""From losses to scaling: compute-optimal frontiers, compute gains, and the ranking.

Pure functions on numbers and trial results: no torch, no files, no printing.
"""

from __future__ import annotations

from einsearch_cli.scaling.curves import Cell, Frontier, Level, frontier, levels_of
from einsearch_cli.scaling.gain import ComputeGain, compute_gain, gain_between
from einsearch_cli.scaling.intervals import CONFIDENCE, t_interval
from einsearch_cli.scaling.ranking import Ranking, RankingEntry, Verdict, rank_candidates

__all__ = [
    "CONFIDENCE",
    "Cell",
    "ComputeGain",
    "Frontier",
    "Level",
    "Ranking",
    "RankingEntry",
    "Verdict",
    "compute_gain",
    "frontier",
    "gain_between",
    "levels_of",
    "rank_candidates",
    "t_interval",
]
