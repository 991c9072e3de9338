"""Losses, metrics, intervals and the continual matrix."""

from metapers.members import Member, registry
from metapers.scores.bootstrap import Interval as Interval
from metapers.scores.bootstrap import mean_interval as mean_interval
from metapers.scores.bootstrap import paired as paired
from metapers.scores.bootstrap import seed_interval as seed_interval
from metapers.scores.cohorts import sign as sign
from metapers.scores.cohorts import worst_decile as worst_decile
from metapers.scores.gaussian import gaussian as gaussian
from metapers.scores.matrix import DEFINITIONS as DEFINITIONS
from metapers.scores.matrix import Scored as Scored
from metapers.scores.matrix import continual_metrics as continual_metrics
from metapers.scores.matrix import difference_metrics as difference_metrics
from metapers.scores.next_token import next_token as next_token
from metapers.scores.objectives import cross_entropy as cross_entropy
from metapers.scores.objectives import squared_error as squared_error
from metapers.scores.shares import Shares as Shares
from metapers.scores.shares import shares as shares

registry("objective", "what a model's outputs mean: a loss, labels and metrics").add(
    squared_error=Member(squared_error, doc="numbers: squared error"),
    cross_entropy=Member(cross_entropy, doc="classes: cross-entropy"),
    gaussian=Member(gaussian, traits=("likelihood",), doc="numbers with a predicted variance: Gaussian likelihood"),
    next_token=Member(next_token, doc="the next token of a sequence: cross-entropy at each place"),
)
