"""Entry point: parse, run one subcommand, turn every error into a message and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import typer
from typer.exceptions import TyperException

from einsearch_cli.cli import console
from einsearch_cli.cli.commands import LazyCommands
from einsearch_cli.cli.streams import prepare_streams
from einsearch_cli.cli.usage import explained
from einsearch_cli.errors import EinsearchError, Exit, SpecError
from einsearch_cli.plugins import load_all_installed, load_plugins
from einsearch_cli.version import __version__

EPILOG: Final = """
Start with:

  einsearch rank demo

--out makes missing folders, and the suffix of a file decides its format. A file
that exists is refused, or replaced with --overwrite. A folder is never replaced:
a study or training run goes on in its own folder.
"""

app = typer.Typer(
    name="einsearch",
    cls=LazyCommands,
    help="Find better linear layers: enumerate, classify, prune, train and rank structured matrices.",
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", metavar="", callback=_print_version, is_eager=True, help="Show the version."
    ),
    show_traceback: bool = typer.Option(
        False, "--traceback", metavar="", help="Show where in the code an error was raised."
    ),
    quiet: bool = typer.Option(
        False, "--quiet", metavar="", help="Say only errors and warnings on stderr; results are the same."
    ),
    verbose: bool = typer.Option(
        False, "--verbose", metavar="", help="Say more on stderr: a line for each run, with the time since the start."
    ),
    plugin: bool = typer.Option(  # only its help: `main` takes the option and its value out, wherever they stand
        False, "--plugin", metavar="FILE.py", help="Import a module that registers tasks, optimizers, engines, ..."
    ),
) -> None:
    """Find better linear layers: enumerate, classify, prune, train and rank structured matrices."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code and never raises."""
    if sys.stdout is None:
        console.error("stdout is closed: results go there", "> /dev/null where they are not wanted")
        return Exit.BAD_INPUT
    show_traceback = "--traceback" in arguments
    volumes = {volume for volume in (console.Volume.quiet, console.Volume.verbose) if f"--{volume.value}" in arguments}
    console.set_volume(next(iter(volumes), console.Volume.normal))
    anywhere = {"--traceback", *(f"--{volume.value}" for volume in volumes)}
    rest = [argument for argument in arguments if argument not in anywhere] or ["--help"]
    try:
        if len(volumes) > 1:
            raise SpecError("--quiet and --verbose ask for less and for more", remedy="give one of them")
        load_all_installed("families", console.talk)
        load_plugins([*os.environ.get("EINSEARCH_PLUGINS", "").split(os.pathsep), *_taken(rest, "--plugin")])
        result = app(args=rest, prog_name="einsearch", standalone_mode=False)
        sys.stdout.flush()
        if result == Exit.INTERRUPTED and not isinstance(result, Exit):  # what typer makes of Ctrl-C in a command
            console.error("interrupted")
        return result if isinstance(result, int) else Exit.OK
    except (KeyboardInterrupt, typer.Abort):
        console.error("interrupted")
        return Exit.INTERRUPTED
    except (BrokenPipeError, SystemExit):  # typer turns the reader's closing of the pipe into SystemExit(1)
        _forget_stdout()
        return Exit.OK
    except EinsearchError as error:
        _show(show_traceback)
        console.error(error.problem, error.remedy)
        return error.exit_code
    except TyperException as error:
        console.error(*explained(error))
        return Exit.BAD_INPUT
    except OSError as error:
        _show(show_traceback)
        _forget_stdout()
        console.error(
            f"cannot write the output: {error.strerror or error}", "check the disk, or write to another place"
        )
        return Exit.BAD_INPUT
    except Exception as error:
        _show(show_traceback)
        console.error(f"unexpected {type(error).__name__}: {error}", "run again with --traceback and report the output")
        return Exit.RUN_FAILED


def _taken(arguments: list[str], option: str) -> list[str]:
    """The values of an option at any place, perhaps given several times; they are removed from the arguments.

    >>> words = ["--plugin=a.py", "rank", "monarch", "--plugin", "b"]
    >>> _taken(words, "--plugin"), words
    (['a.py', 'b'], ['rank', 'monarch'])
    """
    found = []
    for place in reversed([n for n, word in enumerate(arguments) if word.partition("=")[0] == option]):
        _, equals, value = arguments[place].partition("=")
        found += [value] if equals else arguments[place + 1 : place + 2]
        del arguments[place : place + (1 if equals else 2)]
    return found[::-1]


def _forget_stdout() -> None:
    """Drop the buffer of stdout, which cannot be written; without this, Python complains at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show(wanted: bool) -> None:
    if wanted:
        console.talk(traceback.format_exc())


def run() -> None:
    """The console script; SIGTERM or a lost terminal ends a study as cleanly as Ctrl-C."""
    prepare_streams()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it goes on
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
