"""The report of an evaluation: one page, and its pictures as files."""

from metapers.report.page import report_of as report_of
from metapers.report.page import write_report as write_report
