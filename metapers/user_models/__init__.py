"""One user as a state machine: predict an example, then observe it."""

from metapers.members import registry
from metapers.user_models.prequential import prequential as prequential
from metapers.user_models.readapting import READAPTING
from metapers.user_models.readapting import readapting as readapting

MEMBERS = registry("user_model", "what predicts for one user and observes that user's examples in order of time")
MEMBERS.add(readapting=READAPTING)
