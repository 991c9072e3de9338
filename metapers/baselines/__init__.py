"""The trivial predictors that every table prints beside ours."""

from metapers.baselines.bigram import bigram as bigram
from metapers.baselines.class_frequency import class_prior as class_prior
from metapers.baselines.class_frequency import user_frequency as user_frequency
from metapers.baselines.global_mean import global_mean as global_mean
from metapers.baselines.item_recent_bias import item_recent_bias as item_recent_bias
from metapers.baselines.item_user_bias import item_user_bias as item_user_bias
from metapers.baselines.predictor import TRIVIAL as TRIVIAL
from metapers.baselines.predictor import Chosen as Chosen
from metapers.baselines.predictor import Predictor as Predictor
from metapers.baselines.predictor import choose as choose
from metapers.baselines.user_mean import user_mean as user_mean
