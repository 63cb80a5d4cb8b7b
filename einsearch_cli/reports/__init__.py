"""Reports of a study for people and for programs: results.json, tables, one offline HTML page.

Everything is imported on first use, so that commands without a study can use `numbers` alone. The register of sections
comes from `sections`: sections of a plugin follow those of the package.
"""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.reports.document import results_document as results_document, write_results as write_results
    from einsearch_cli.reports.sections import (
        Page as Page,
        render_report as render_report,
        report_section as report_section,
        report_sections as report_sections,
        write_report as write_report,
    )
    from einsearch_cli.reports.stored import read_study as read_study
    from einsearch_cli.reports.study_report import StudyReport as StudyReport
    from einsearch_cli.reports.tables import Table as Table, ranking_table as ranking_table
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
