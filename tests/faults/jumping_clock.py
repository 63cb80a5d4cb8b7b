"""A plug-in: every look at the machine's clock finds it an hour later, or an hour earlier."""

import datetime
import itertools
import time

from einsearch_cli.search import owner, watching

_HOURS = itertools.cycle((0, 1, 0, -1))
_time = time.time


def jumping() -> float:
    return _time() + 3600 * next(_HOURS)


class Jumping(datetime.datetime):
    """The time of day by this clock."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return datetime.datetime.fromtimestamp(jumping(), tz)


time.time = jumping
for module in (owner, watching):
    module.datetime = Jumping  # type: ignore[attr-defined]
