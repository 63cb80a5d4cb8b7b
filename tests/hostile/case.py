"""One hostile command line with its surroundings and the required result."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command line with its exit code and words of its messages.

    Tests run it in an empty folder that holds `files`, in the process of the test. A refusal (exit code 2) must
    always name a remedy; words that belong to the program's insides are refused in every case.
    """

    command: str | tuple[str, ...] = field(kw_only=False)
    """The words after `einsearch`, as in a shell; a tuple where quoting would obscure them."""
    says: tuple[str, ...] = ()
    """Texts that stderr must contain."""
    code: int = 2
    """The exit code."""
    shows: tuple[str, ...] = ()
    """Texts that stdout must contain."""
    never: tuple[str, ...] = ()
    """Texts that neither stdout nor stderr may contain, in addition to those forbidden everywhere."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """Files by path, made before the command runs."""
    stdin: str | bytes = ""

    @property
    def argv(self) -> list[str]:
        """The words of the command line."""
        return shlex.split(self.command) if isinstance(self.command, str) else list(self.command)

    @property
    def label(self) -> str:
        """The name of its test: the shortened command, with the first line of the first file if there is one."""
        text = shlex.join(self.argv)
        content = next(iter(self.files.values()), "")
        shown = content if isinstance(content, str) else content.decode("utf-8", "replace")
        text = f"{text} < {' '.join(shown.split())}" if shown else text
        return text if len(text) <= 100 else f"{text[:97]}..."


def refused(command: str | tuple[str, ...], *says: str, **around: object) -> Case:
    """A command line that ends with exit code 2."""
    return Case(command, says=says, **around)  # type: ignore[arg-type]


def accepted(command: str | tuple[str, ...], *shows: str, **around: object) -> Case:
    """A command line that looks odd but is right, and prints this."""
    return Case(command, shows=shows, code=0, **around)  # type: ignore[arg-type]
