"""How the gradients of new and of remembered tasks become one direction."""

from metapers.members import registry
from metapers.updates.sum import SUM
from metapers.updates.sum import sum_all as sum_all

MEMBERS = registry("update_rule", "how the gradients of new and of remembered tasks become one direction")
MEMBERS.add(sum=SUM)
