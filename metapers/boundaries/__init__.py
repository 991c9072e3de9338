"""When an arm consolidates what it has learned."""

from metapers.boundaries.calendar import CALENDAR
from metapers.boundaries.calendar import calendar as calendar
from metapers.members import registry

MEMBERS = registry("boundary", "when an arm consolidates what it has learned")
MEMBERS.add(calendar=CALENDAR)
