"""What keeps earlier stages alive in the parameters."""

from metapers.penalties.anchor import anchor as anchor
from metapers.penalties.ewc import ewc as ewc
from metapers.penalties.none import none as none
from metapers.penalties.sum_of import sum_of as sum_of
