"""How the losses of many users become one gradient."""

from metapers.aggregate.blocks import blocks as blocks
from metapers.aggregate.clipped import clipped as clipped
from metapers.aggregate.mean import mean as mean
from metapers.aggregate.sharded import sharded as sharded
