"""Messages about the settings of a study name those that options gave as they were typed: `--budget 5e-4`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from einsearch_cli.cli.options import as_words
from einsearch_cli.errors import EinsearchError
from einsearch_cli.shipped import shipped_path


def option_of(key: str) -> str:
    """The option of `einsearch rank` and `search` that gives a setting.

    >>> option_of("budget_flops"), option_of("most_seeds")
    ('--budget', '--most-seeds')
    """
    return "--budget" if key == "budget_flops" else f"--{key.replace('_', '-')}"


@contextmanager
def naming_options(words: Sequence[str], settings: Mapping[str, Any]) -> Iterator[None]:
    """Errors inside name the options; settings that a file gave keep their keys.

    Args:
        words: the arguments that say the study.
        settings: every setting that has an option, with its value, or None if the option is not given; those of a part
            of the study, such as `halving`, in a mapping.
    """
    from einsearch_cli.search.spec import BUDGETS

    parts = [value if isinstance(value, Mapping) else {key: value} for key, value in settings.items()]
    settings = {key: value for part in parts for key, value in part.items()}
    is_file = any(shipped_path(word).lower().endswith((".yaml", ".yml")) for word in words)
    given = {key for key, value in settings.items() if value is not None}
    others = {*BUDGETS} if given & {*BUDGETS} else set()  # a budget that follows from another one has no option
    named = given if is_file else given | (settings.keys() - others)
    try:
        yield
    except EinsearchError as error:
        typed = {key: text for key in given if (text := getattr(settings[key], "text", None)) is not None}
        error.problem = with_options(error.problem, named, typed)
        error.remedy = with_options(error.remedy, named, {})
        raise


def with_options(text: str, keys: set[str], typed: Mapping[str, str]) -> str:
    """A message whose settings, `key = value` or `key: value`, are written as options.

    >>> with_options("budget_flops = 0.0005 leaves 5e-05", {"budget_flops"}, {"budget_flops": "5e-4"})
    '--budget 5e-4 leaves 5e-05'
    >>> with_options("seeds are few: widths = [8, 16], min_psi leaves nothing", {"seeds", "widths", "min_psi"}, {})
    'seeds are few: --widths 8,16, --min-psi leaves nothing'
    """

    def option(found: re.Match[str]) -> str:
        key, value = found["key"], found["value"]
        if value is None:
            return option_of(key) if "_" in key else found[0]  # else it may be a plain word
        return f"{option_of(key)} {typed.get(key, as_words(value))}"

    names = "|".join(map(re.escape, sorted(keys)))
    pattern = rf"(?<![\w.-])(?P<key>{names})(?!\w)(?:(?: = |: )(?P<value>\[[^]]*\]|[^\s,:;]+))?"
    return re.sub(pattern, option, text) if keys else text
