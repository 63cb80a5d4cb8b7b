"""`python -m einsearch_cli`, which is the same as `einsearch`; torchrun needs it."""

from einsearch_cli.cli.main import run

if __name__ == "__main__":
    run()
