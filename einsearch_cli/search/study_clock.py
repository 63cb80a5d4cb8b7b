"""The time that a study will still take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from einsearch_cli.search.estimate import StudyEstimate
    from einsearch_cli.search.stages import StageStarted


class StudyClock:
    """Time left: the estimate for the remaining runs, scaled by the speed so far.

    It uses the monotonic clock, so setting the machine's time changes nothing.
    """

    def __init__(self, estimate: StudyEstimate) -> None:
        self._estimate = estimate
        self._started_s: float | None = None
        """When the first worker gave a sign of life."""
        self._done_s = 0.0
        self._left = 0.0
        """Expected remaining runs of this stage."""
        self._stage = 0
        self._shown: tuple[str, int] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a worker has given a sign of life."""
        return self._started_s is not None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first sign of life; 0 before."""
        return 0.0 if self._started_s is None else time.perf_counter() - self._started_s

    def begin(self) -> bool:
        """Record that workers are ready; False if this was known before."""
        if self._started_s is not None:
            return False
        self._started_s = time.perf_counter()
        return True

    def start_stage(self, event: StageStarted) -> bool:
        """Record that trials are about to run; returns whether they belong to the stage shown last."""
        stages = self._estimate.stages
        place = next(
            (i for i, s in enumerate(stages) if (s.planned.stage, s.planned.rung) == (event.stage, event.rung)), 0
        )
        goes_on, self._stage = self._shown == (event.stage, event.rung), place
        self._shown = (event.stage, event.rung)
        expected = max(event.trials, stages[place].planned.runs if stages else 0)
        self._left = expected - event.finished
        return goes_on

    def finish(self) -> None:
        """Record that a run has ended."""
        self._left = max(0.0, self._left - 1)
        self._done_s += self._per_run()

    def _per_run(self) -> float:
        stage = self._estimate.stages[self._stage]
        return stage.seconds / max(1.0, stage.planned.runs)

    def left_s(self) -> float:
        """Seconds until the end of the study; nan if no step could be timed."""
        later = sum(stage.seconds for stage in self._estimate.stages[self._stage + 1 :])
        left = self._left * self._per_run() + later
        if self._started_s is None:
            return left + self._estimate.start_up_s
        if self._done_s > 0:
            left *= self.elapsed_s / self._done_s
        return left
