"""Many runs: trials, the study that remembers them, successive halving, and the engine that runs them."""

from einsearch_cli.search.trial import Trial, TrialResult

__all__ = ["Trial", "TrialResult"]
