"""What a builder must know of a source of users before it reads any data."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from metapers.base import Stream
from metapers.options import Option


def width(stream: Stream) -> dict[str, int]:
    """The number of features of inputs [total, width]."""
    return {"width": int(stream.training(0).inputs.shape[-1])}


def classes_and_width(stream: Stream) -> dict[str, int]:
    """The number of classes of the targets, and ``width``."""
    return {"classes": int(stream.provenance["classes"]), **width(stream)}


def reads_folder(section: Mapping[str, Any]) -> bool:
    """Whether the section of a source names files by ``path``: it does unless another ``backend`` is chosen."""
    return section.get("backend", "folder") == "folder"


class SourceFacts(NamedTuple):
    """What the examples of a source are."""

    objective: str = "squared_error"  # what its targets mean
    sizes: Callable[[Stream], dict[str, int]] = width  # stream -> what a model must know of the inputs
    inputs: str = "vectors"  # or "films", "points", "images", "characters": what a model must take
    targets: str = "numbers"  # or "points", "classes", "characters": what a model must predict
    joint: bool = True  # one model may answer for all users; False where each task names its classes anew
    ways: Callable[[Mapping[str, Any]], int] = lambda section: 0  # of episodes: classes, one example of each in turn
    from_files: Callable[[Mapping[str, Any]], bool] = lambda section: False  # whether data.path names files to read

    examples: str = "examples"  # what reports call several of them
    unit: str = "units of the target"

    def below(self, sizes: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """What integers must be below, by leaf of inputs and targets: rows of a table, number of classes."""
        found: dict[str, dict[str, int]] = {"inputs": {}, "targets": {}}
        if self.inputs == "films":
            found["inputs"]["['item']"] = sizes["items"] + 1  # row 0: a film that training never met
        for name, kind in (("inputs", self.inputs), ("targets", self.targets)):
            if size := {"classes": "classes", "characters": "vocabulary"}.get(kind):
                found[name][""] = sizes[size]
        return found


CUT_OPTIONS = {
    "support": Option(16, least=1, doc="the most examples to adapt on in a training task"),
    "query": Option(32, least=1, doc="the most later examples to evaluate on in a training task, evenly spaced"),
    "p_full_support": Option(
        0.5,
        least=0,
        most=1,
        doc="probability that the support is as long as it can be, up to `support`; else its length is uniform from 1",
    ),
    "p_from_first": Option(
        0.0,
        least=0,
        most=1,
        doc="probability that the support begins with the user's first example of the period; else anywhere",
    ),
    "length_power": Option(
        0.0,
        least=0,
        doc="a user is drawn in proportion to the number of examples in the period to this power; 0: all users alike",
    ),
}
"""How the examples of a user in a period are cut into training tasks, for sources with users of different lengths."""

FOLD = Option(0, least=0, most=4, doc="the part of the users, of five by a hash of the id, that holds the test users")
"""The option of sources that split their users by ``splits.split_of``."""
