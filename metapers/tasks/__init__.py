"""Where users come from: ragged histories turned into stacked tasks, and the sources."""

from metapers.tasks.ragged import Examples as Examples
from metapers.tasks.ragged import Segments as Segments
from metapers.tasks.ragged import family as family
from metapers.tasks.ragged import stream as stream
from metapers.tasks.splits import fold_of as fold_of
from metapers.tasks.splits import split_of as split_of
from metapers.tasks.splits import user_hash as user_hash
