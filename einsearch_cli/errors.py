"""Every error that einsearch raises on purpose.

A message says what was found, which rule it breaks, and what to do next. The command line prints it on stderr without a
traceback and exits with the error's `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """Exit codes of the `einsearch` command."""

    OK = 0
    BAD_INPUT = 2
    RUN_FAILED = 3
    INTERRUPTED = 130


class EinsearchError(Exception):
    """Base of all errors of this package.

    Args:
        problem: the offending value and the rule it breaks.
        remedy: what the user can do about it.
        keys: the settings concerned, the most likely cause first, so that a reader of a file can name their lines.
    """

    exit_code: ClassVar[Exit] = Exit.BAD_INPUT

    def __init__(self, problem: str, *, remedy: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy
        self.keys = keys

    def __str__(self) -> str:
        return f"{self.problem}\ntry: {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.problem, self.remedy, self.keys))


def _rebuild(kind: type[EinsearchError], problem: str, remedy: str, keys: tuple[str, ...] = ()) -> EinsearchError:
    return kind(problem, remedy=remedy, keys=keys)


def near_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; None if none is near.

    >>> near_name("monrach", ["dense", "monarch"]), near_name("4096x11008", ["dense", "tucker"])
    ('monarch', None)
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.65)), None)


def near_or_all(name: str, known: Sequence[str]) -> str:
    """A remedy: the known name that was probably meant, or all names if none is near.

    >>> near_or_all("randon", ["tpe", "cma-es", "random"]), near_or_all("grid", ["tpe", "cma-es", "random"])
    ('random', 'tpe, cma-es or random')
    """
    return near_name(name, known) or " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))


class PluginError(EinsearchError):
    """A user's module, or that of an installed package, that cannot be imported or does not register what it should."""


class RuleError(ValueError):
    """Raised by validators: the rule that a value breaks, and what to do about it.

    Args:
        rule: what is wrong and what is needed.
        remedy: a value to write instead; an instruction if a validator checks several settings.
        key: the setting concerned, if a validator checks several.
    """

    def __init__(self, rule: str, *, remedy: str, key: str | None = None) -> None:
        super().__init__(rule)
        self.remedy = remedy
        self.key = key


class StructureError(EinsearchError):
    """Text, file or object that does not describe a structure."""


class SizeError(EinsearchError):
    """Dimensions that a structure cannot take, or that cannot be allocated."""


class SpecError(EinsearchError):
    """A YAML, JSON or CSV file that does not follow its schema."""


class DataError(EinsearchError):
    """Training data that cannot be read or is too small."""


class OutputError(EinsearchError):
    """A path that cannot be written."""


class LayerError(EinsearchError):
    """A layer used with tensors or arguments that it cannot take."""


class PromptError(EinsearchError):
    """A prompt that a model cannot continue."""


class StudyError(EinsearchError):
    """A study folder that is locked, damaged or belongs to another study."""


class CheckpointError(EinsearchError):
    """A checkpoint that is damaged, of an unsupported kind, or of another run."""


class FitError(EinsearchError):
    """Losses to which no scaling law can be fitted, or whose law says nothing."""


class DeviceError(EinsearchError):
    """A device that this machine does not have."""


class RunFailedError(EinsearchError):
    """A training run that diverged or crashed."""

    exit_code: ClassVar[Exit] = Exit.RUN_FAILED


class DivergedError(RunFailedError):
    """A training run whose loss became NaN or infinite."""
