"""Reports of a study for people and for programs: results.json, tables, one offline HTML page."""

from __future__ import annotations

from einsearch_cli.reports.document import results_document as results_document, write_results as write_results
from einsearch_cli.reports.headline import headline as headline
from einsearch_cli.reports.page import (
    Page as Page,
    report_section as report_section,
    report_sections as report_sections,
)
from einsearch_cli.reports.sections import render_report as render_report, write_report as write_report
from einsearch_cli.reports.stored import read_study as read_study
from einsearch_cli.reports.study_report import StudyReport as StudyReport
from einsearch_cli.reports.tables import Table as Table, ranking_table as ranking_table
