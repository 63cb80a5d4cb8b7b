"""An engine without processes, as short as one can be; jobs and results pass as text, as if to another machine."""

import json
from collections.abc import Callable
from typing import Any

from einsearch_cli.search.engines import Engine
from einsearch_cli.search.job import Job, Pack, Report, TrialFinished, TrialProgress, run_pack
from einsearch_cli.training.proxy.trial import TrialResult, failed_result


class InProcess(Engine):
    """Trains one pack after another in the process of the study."""

    name = "in-process"

    def run(self, next_pack: Callable[[], Pack], on_event: Report) -> None:
        while pack := next_pack():
            waiting = {job.number: job for job in (Job.from_json(as_text(job)) for job in pack)}

            def send(event: TrialProgress | TrialFinished, waiting: dict[int, Job] = waiting) -> None:
                if isinstance(event, TrialFinished):
                    del waiting[event.number]
                    event = TrialFinished(event.number, TrialResult.from_json(as_text(event.result)))
                on_event(event)

            try:
                run_pack(tuple(waiting.values()), self.setup, send)
            except SystemExit as error:
                reason = f"its process would have ended with exit code {error}"
                for job in waiting.values():
                    failed = failed_result(job.trial, "failed", reason, 0.0)
                    on_event(TrialFinished(job.number, failed, worker_died=True))

    def stop(self) -> None:
        """Nothing runs outside `run`."""


def as_text(sent: Job | TrialResult) -> Any:
    """The text that another machine would read."""
    return json.loads(json.dumps(sent.to_json()))
