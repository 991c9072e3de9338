"""How the gradients of many users become one gradient."""

from metapers.aggregate.blocks import blocks as blocks
from metapers.aggregate.clipped import CLIPPED
from metapers.aggregate.clipped import clipped as clipped
from metapers.aggregate.expecting import expecting as expecting
from metapers.aggregate.mean import MEAN
from metapers.aggregate.mean import mean as mean
from metapers.aggregate.sharded import sharded as sharded
from metapers.members import registry

MEMBERS = registry("aggregator", "how the gradients of many users become one gradient")
MEMBERS.add(mean=MEAN, clipped=CLIPPED)
