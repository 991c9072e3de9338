"""Tasks of the past that are trained on again."""

from metapers.members import registry
from metapers.memory.reservoir import RESERVOIR
from metapers.memory.reservoir import reservoir as reservoir
from metapers.options import Option

MEMBERS = registry("memory", "tasks of earlier periods that are trained on again")
MEMBERS.common = {
    "replay_batch": Option(32, least=1, doc="remembered tasks beside the new ones in each outer step"),
    "consolidation_batches": Option(16, least=1, doc="batches of the period that ended offered to the memory"),
}
MEMBERS.add(reservoir=RESERVOIR)
