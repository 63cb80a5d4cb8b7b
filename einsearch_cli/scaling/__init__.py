"""From losses to scaling: compute-optimal frontiers, compute gains, and the ranking.

Pure functions on numbers and trial results: no torch, no files, no printing.
"""

from __future__ import annotations

from einsearch_cli.scaling.curves import (
    Cell as Cell,
    Frontier as Frontier,
    Level as Level,
    frontier as frontier,
    levels_of as levels_of,
)
from einsearch_cli.scaling.gain import (
    ComputeGain as ComputeGain,
    compute_gain as compute_gain,
    gain_between as gain_between,
)
from einsearch_cli.scaling.intervals import CONFIDENCE as CONFIDENCE, t_interval as t_interval
from einsearch_cli.scaling.ranking import (
    Ranking as Ranking,
    RankingEntry as RankingEntry,
    Verdict as Verdict,
    rank_candidates as rank_candidates,
)
