"""`python -m einsearch_cli`: the same as `einsearch`, for torchrun."""

from einsearch_cli.cli.main import run

if __name__ == "__main__":
    run()
