"""New and remembered tasks as they come: each adapts on its own support and is evaluated on its own query."""

from metapers.base import Compose, Sources
from metapers.members import Member


def separate() -> Compose:
    """The sources as they are."""

    def compose(sources: Sources) -> Sources:
        return sources

    return compose


SEPARATE = Member(separate, doc="each task keeps its own support and query")
