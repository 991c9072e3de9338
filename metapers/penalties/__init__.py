"""Terms of the loss that keep what earlier periods taught the parameters."""

from metapers.members import registry
from metapers.penalties.anchor import ANCHOR
from metapers.penalties.anchor import anchor as anchor
from metapers.penalties.carried import carried as carried
from metapers.penalties.ewc import EWC
from metapers.penalties.ewc import ewc as ewc
from metapers.penalties.none import none as none
from metapers.penalties.sum_of import sum_of as sum_of

MEMBERS = registry("penalty", "a term of the loss that keeps what earlier periods taught the parameters")
MEMBERS.carry = carried
MEMBERS.add(anchor=ANCHOR, ewc=EWC)
