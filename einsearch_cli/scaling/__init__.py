"""Scaling from losses: best widths, compute gains, verdicts, trends, and the ranking.

All functions are pure functions of numbers: no torch, no files, no printing.
"""

from __future__ import annotations

from einsearch_cli.scaling.candidates import (
    is_finished as is_finished,
    observations_of as observations_of,
    rank_candidates as rank_candidates,
)
from einsearch_cli.scaling.comparisons import PRICES as PRICES, Price as Price, Verdict as Verdict, compare as compare
from einsearch_cli.scaling.law import (
    Crossover as Crossover,
    Law as Law,
    Laws as Laws,
    LossCurve as LossCurve,
    Prediction as Prediction,
    fit_laws as fit_laws,
)
from einsearch_cli.scaling.noise import CONFIDENCE as CONFIDENCE, t_interval as t_interval
from einsearch_cli.scaling.observations import (
    Cell as Cell,
    Level as Level,
    Observation as Observation,
    levels_of as levels_of,
)
from einsearch_cli.scaling.outlook import Outlook as Outlook
from einsearch_cli.scaling.parabola import Vertex as Vertex, vertex as vertex
from einsearch_cli.scaling.ranking import Ranking as Ranking, RankingEntry as RankingEntry
from einsearch_cli.scaling.trend import RungGain as RungGain, Trend as Trend
