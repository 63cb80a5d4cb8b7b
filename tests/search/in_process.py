"""An engine without processes, as short as one can be; jobs and results pass as text, as if to another machine."""

import json
from collections.abc import Callable

from einsearch_cli.search.engines import Engine
from einsearch_cli.search.job import Job, TrialFinished, TrialProgress, run_trial
from einsearch_cli.training.proxy.trial import TrialResult, failed_result


class InProcess(Engine):
    """Trains one trial after another in the process of the study."""

    name = "in-process"

    def run(
        self, next_job: Callable[[], Job | None], on_event: Callable[[TrialProgress | TrialFinished], None]
    ) -> None:
        while (job := next_job()) is not None:
            sent = Job.from_json(json.loads(json.dumps(job.to_json())))
            try:
                result = run_trial(sent, self.setup, on_event)
            except SystemExit as error:
                result = failed_result(
                    sent.trial, "failed", f"its process would have ended with exit code {error}", 0.0
                )
            on_event(TrialFinished(sent.number, TrialResult.from_json(json.loads(json.dumps(result.to_json())))))

    def stop(self) -> None:
        """Nothing runs outside `run`."""
