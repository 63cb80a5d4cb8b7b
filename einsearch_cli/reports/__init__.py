"""What a study found, for people and for programs: results.json, tables, one offline HTML page."""

from __future__ import annotations

from einsearch_cli.reports.document import results_document, write_results
from einsearch_cli.reports.headline import headline
from einsearch_cli.reports.page import Page, report_section, report_sections
from einsearch_cli.reports.sections import render_report, write_report
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.reports.tables import Table, ranking_table

__all__ = [
    "Page",
    "StudyReport",
    "Table",
    "headline",
    "ranking_table",
    "render_report",
    "report_section",
    "report_sections",
    "results_document",
    "write_report",
    "write_results",
]
