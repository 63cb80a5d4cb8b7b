"""`einsearch draw`: the tensor network of a structure."""

from __future__ import annotations

from pathlib import Path

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.completing import complete
from einsearch_cli.cli.filters import BLOCK_DIAGONAL
from einsearch_cli.cli.options import D_IN, D_OUT, OVERWRITE, out_file, refuse_taken
from einsearch_cli.cli.structure_input import dimensions, one_structure
from einsearch_cli.errors import OutputError

HELP = """Draw a structure as a tensor network, with the cut that limits its rank.

Tensors are boxes, X on the left and Y on the right; indices are lines, with
their exponent and their size. Without --out it is drawn in the terminal.

Examples:

  einsearch draw monarch

  einsearch draw btt:n=3,r=2 --d-in 4096 --out btt.svg

  einsearch draw 'XA XAB=4 YB YAB=4' --out mine.png
"""


def draw_command(
    spec: str = typer.Argument(
        ..., metavar="SPEC", autocompletion=complete(), help="A structure, as for `einsearch classify`."
    ),
    sizes: str | None = typer.Option(
        None, metavar="SIZES", help="Sizes of the letters of an einsum equation: g=4,n=256."
    ),
    d_in: int | None = D_IN,
    d_out: int | None = D_OUT,
    allow_block_diagonal: bool = BLOCK_DIAGONAL,
    out: Path | None = out_file(help="Write a picture: FILE.svg, FILE.png, or FILE.txt.", shown="the terminal"),
    overwrite: bool = OVERWRITE,
) -> None:
    from einsearch_cli.reports.diagram import diagram_svg
    from einsearch_cli.reports.diagram_text import diagram_text
    from einsearch_cli.taxonomy import classify

    suffix = ".txt" if out is None else out.suffix.lower()
    if suffix not in (".svg", ".png", ".txt"):
        raise OutputError(
            f"--out {str(out)!r} does not say what to draw: the name must end in .svg, .png or .txt",
            remedy=f"--out {out.stem if out else 'structure'}.svg",
        )
    refuse_taken(out, overwrite)
    named = one_structure(spec, sizes, allow_block_diagonal)
    item = classify(named.structure, *dimensions(named, d_in, d_out))
    if suffix == ".png" and out is not None:
        from einsearch_cli.reports.diagram import write_png

        write_png(out, diagram_svg(item))
        console.talk(f"wrote {out}")
        return
    console.data(
        diagram_svg(item) if suffix == ".svg" else diagram_text(item, console.width() if out is None else None), out
    )
