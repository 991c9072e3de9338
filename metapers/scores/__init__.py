"""Losses, metrics, intervals and the continual matrix."""

from metapers.scores.bootstrap import Interval as Interval
from metapers.scores.bootstrap import mean_interval as mean_interval
from metapers.scores.bootstrap import paired as paired
from metapers.scores.bootstrap import seed_interval as seed_interval
from metapers.scores.cohorts import fraction_hurt as fraction_hurt
from metapers.scores.cohorts import hurt as hurt
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
