"""Pictures as PNG, through resvg, which needs no other library on the system."""

from __future__ import annotations

import importlib
import os

from einsearch_cli.errors import OutputError
from einsearch_cli.files import open_atomically

ZOOM = 2
"""Pixels of the picture for a unit of the drawing: sharp on screens of high density."""


def write_png(path: str | os.PathLike[str], svg: str) -> None:
    """Draw an SVG document into a PNG file.

    Raises:
        OutputError: if resvg is not installed, or the file cannot be written.
    """
    try:
        resvg = importlib.import_module("resvg_py")
    except ImportError as error:
        raise OutputError(
            f"cannot draw {os.fspath(path)!r}: PNG needs the package resvg-py, which is not installed",
            remedy="pip install 'einsearch[png]', or write .svg",
        ) from error
    picture = bytes(resvg.svg_to_bytes(svg_string=svg, zoom=ZOOM))
    with open_atomically(path) as file:
        file.write(picture)
