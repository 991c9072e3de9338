"""What people look at: tables, pictures, the page, the summary."""

from metapers.report.page import write_report as write_report
