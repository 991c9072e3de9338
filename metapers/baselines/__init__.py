"""Simple predictors that every table shows beside ours; their strengths are chosen on validation users."""

from metapers.baselines.bigram import BIGRAM
from metapers.baselines.bigram import bigram as bigram
from metapers.baselines.class_frequency import CLASS_PRIOR, USER_FREQUENCY
from metapers.baselines.class_frequency import class_prior as class_prior
from metapers.baselines.class_frequency import user_frequency as user_frequency
from metapers.baselines.global_mean import GLOBAL_MEAN
from metapers.baselines.global_mean import global_mean as global_mean
from metapers.baselines.item_recent_bias import ITEM_RECENT_BIAS
from metapers.baselines.item_recent_bias import item_recent_bias as item_recent_bias
from metapers.baselines.item_user_bias import ITEM_USER_BIAS
from metapers.baselines.item_user_bias import item_user_bias as item_user_bias
from metapers.baselines.nearest import NEAREST
from metapers.baselines.nearest import nearest as nearest
from metapers.baselines.predictor import Chosen as Chosen
from metapers.baselines.predictor import Predictor as Predictor
from metapers.baselines.predictor import choose as choose
from metapers.baselines.ridge_residual import RIDGE_RESIDUAL
from metapers.baselines.ridge_residual import ridge_residual as ridge_residual
from metapers.baselines.user_ewma import USER_EWMA
from metapers.baselines.user_ewma import user_ewma as user_ewma
from metapers.baselines.user_last import USER_LAST
from metapers.baselines.user_last import user_last as user_last
from metapers.baselines.user_mean import USER_MEAN
from metapers.baselines.user_mean import user_mean as user_mean
from metapers.members import registry

MEMBERS = registry("baseline", "a simple predictor that tables show beside ours")
MEMBERS.add(
    global_mean=GLOBAL_MEAN,
    user_mean=USER_MEAN,
    user_last=USER_LAST,
    user_ewma=USER_EWMA,
    ridge_residual=RIDGE_RESIDUAL,
    nearest=NEAREST,
    item_user_bias=ITEM_USER_BIAS,
    item_recent_bias=ITEM_RECENT_BIAS,
    class_prior=CLASS_PRIOR,
    user_frequency=USER_FREQUENCY,
    bigram=BIGRAM,
)
