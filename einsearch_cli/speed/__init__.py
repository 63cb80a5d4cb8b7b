"""How fast layers are, beside `nn.Linear` and beside their own bare matrix products; calibration of the planner."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.speed.calibration import calibrate
    from einsearch_cli.speed.cases import DECODE_TOKENS, WIDTHS, Case, Entrant, Mode, cases_of
    from einsearch_cli.speed.market import MARKET
    from einsearch_cli.speed.measuring import Bench, CaseEstimate
    from einsearch_cli.speed.race import Race
    from einsearch_cli.speed.results import BenchResult, Measurement, Spread
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "measuring": ("Bench", "CaseEstimate"),
            "calibration": ("calibrate",),
            "cases": ("DECODE_TOKENS", "WIDTHS", "Case", "Entrant", "Mode", "cases_of"),
            "market": ("MARKET",),
            "race": ("Race",),
            "results": ("BenchResult", "Measurement", "Spread"),
        },
    )

__all__ = [
    "DECODE_TOKENS",
    "MARKET",
    "WIDTHS",
    "Bench",
    "BenchResult",
    "Case",
    "CaseEstimate",
    "Entrant",
    "Measurement",
    "Mode",
    "Race",
    "Spread",
    "calibrate",
    "cases_of",
]
