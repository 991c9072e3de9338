"""Tasks of the past that are trained on again."""

from metapers.members import registry
from metapers.memory.reservoir import RESERVOIR
from metapers.memory.reservoir import reservoir as reservoir
from metapers.memory.separate import SEPARATE
from metapers.memory.separate import separate as separate
from metapers.options import Choice, Option

MEMBERS = registry("memory", "tasks of earlier periods that are trained on again")
MEMBERS.common = {
    "replay_batch": Option(32, least=1, doc="remembered tasks beside the new ones in each outer step"),
    "insertion": Option(
        "boundary",
        choices=("boundary", "step"),
        doc="when tasks are offered to the memory: batches drawn at a boundary, or those of each outer step",
    ),
    "consolidation_batches": Option(16, least=1, doc="batches offered to the memory at a boundary"),
    "composition": Choice("composition", "separate", doc="what is support and what is query of a step's tasks"),
}
MEMBERS.add(reservoir=RESERVOIR)

COMPOSITIONS = registry("composition", "what is support and what is query of new and remembered tasks")
COMPOSITIONS.add(separate=SEPARATE)
