"""Speed of layers compared with `nn.Linear` and with their own bare matrix products; calibration of the planner."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.speed.calibration import calibrate as calibrate
    from einsearch_cli.speed.cases import (
        MARKET as MARKET,
        WIDTHS as WIDTHS,
        Case as Case,
        Entrant as Entrant,
        Mode as Mode,
        cases_of as cases_of,
    )
    from einsearch_cli.speed.measuring import Bench as Bench, CaseEstimate as CaseEstimate
    from einsearch_cli.speed.race import Race as Race
    from einsearch_cli.speed.results import BenchResult as BenchResult, Measurement as Measurement, Spread as Spread
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
