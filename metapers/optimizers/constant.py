"""Rates that stay the same."""

from metapers.members import Member


def constant() -> None:
    """No schedule: every outer step has the optimizer's own rate."""
    return None


CONSTANT = Member(constant, doc="rates stay the same")
