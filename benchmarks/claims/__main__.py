"""`python -m benchmarks.claims`: read the studies, write claims.json and the pages."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.claims.document import all_rows, document_of
from benchmarks.claims.page import blocks, counted, filled, page_of, studies_table
from benchmarks.claims.studies import ROOT, Store, collect
from einsearch_cli.errors import EinsearchError
from einsearch_cli.files import write_atomically


def main() -> None:
    """Collect what has finished, judge, write."""
    parser = argparse.ArgumentParser(description="Judge the papers' claims by the committed studies.")
    parser.add_argument(
        "--collect", type=Path, action="append", default=[], metavar="RUNS", help="folder of studies to bring in first"
    )
    options = parser.parse_args()
    store = Store()
    try:
        for runs in options.collect:
            for path in collect(runs):
                print(f"collected: {path.relative_to(ROOT)}")
        rows, rungs = all_rows(store)
    except EinsearchError as error:
        parser.error(f"{error.problem}; {error.remedy}")
    write_atomically(ROOT / "benchmarks/results/claims.json", text_of(document_of(rows, rungs)))
    readme = store.reproduction / "README.md"
    front = ROOT / "README.md"
    for path, text in (
        (page_of(ROOT), filled(page_of(ROOT).read_text("utf-8"), blocks(rows, rungs))),
        (readme, filled(readme.read_text("utf-8"), {"studies": studies_table(store)})),
        (front, counted(front.read_text("utf-8"), rows)),
    ):
        write_atomically(path, text)
        print(f"written: {path.relative_to(ROOT)}")
    for row in rows:
        print(f"{row.verdict:14} {' '.join(row.shown()):38} {row.claim} ({row.study})")


def text_of(document: object) -> str:
    """The document as it is written."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    main()
