"""Networks with shared and personal parameters; only this package imports Flax NNX."""

from metapers.members import registry
from metapers.models.bayes_head import BAYES_HEAD_MEMBER
from metapers.models.bayes_head import bayes_head as bayes_head
from metapers.models.bayes_mlp import BAYES_MLP_MEMBER
from metapers.models.bayes_mlp import bayes_mlp as bayes_mlp
from metapers.models.bayes_recommender import BAYES_RECOMMENDER_MEMBER
from metapers.models.bayes_recommender import bayes_recommender as bayes_recommender
from metapers.models.conv4 import CONV4_MEMBER
from metapers.models.conv4 import conv4 as conv4
from metapers.models.embedded import SOLVED_CONV4_MEMBER, SOLVED_MEMBER
from metapers.models.embedded import conv_body as conv_body
from metapers.models.embedded import dense_body as dense_body
from metapers.models.embedded import embedded as embedded
from metapers.models.embedding_mlp import EMBEDDING_MLP_MEMBER
from metapers.models.embedding_mlp import embedding_mlp as embedding_mlp
from metapers.models.gru import GRU_MEMBER
from metapers.models.gru import gru as gru
from metapers.models.kinds import ADAPTS as ADAPTS
from metapers.models.linear import LINEAR_MEMBER
from metapers.models.linear import linear as linear
from metapers.models.mlp import MLP_MEMBER
from metapers.models.mlp import mlp as mlp
from metapers.models.neighbours import NEIGHBOURS_MEMBER
from metapers.models.neighbours import neighbours as neighbours
from metapers.models.norms import BATCH_NORM_MEMBER, GROUP_NORM_MEMBER, LAYER_NORM_MEMBER, SUPPORT_NORM_MEMBER
from metapers.models.norms import Norm as Norm
from metapers.models.norms import batch_norm as batch_norm
from metapers.models.norms import group_norm as group_norm
from metapers.models.norms import layer_norm as layer_norm
from metapers.models.norms import no_norm as no_norm
from metapers.models.norms import support_norm as support_norm
from metapers.models.point import POINT_MEMBER
from metapers.models.point import point as point
from metapers.models.prototypes import PROTOTYPES_MEMBER
from metapers.models.prototypes import prototypes as prototypes
from metapers.models.rating_sequence import RATING_GRU_MEMBER, RATING_TRANSFORMER_MEMBER
from metapers.models.rating_sequence import rating_gru as rating_gru
from metapers.models.rating_sequence import rating_transformer as rating_transformer
from metapers.models.recommender import RECOMMENDER_MEMBER
from metapers.models.recommender import recommender as recommender
from metapers.models.ridge_head import RIDGE_HEAD_MEMBER
from metapers.models.ridge_head import ridge_head as ridge_head
from metapers.models.seam import EVERYTHING as EVERYTHING
from metapers.models.seam import Personal as Personal
from metapers.models.seam import model as model
from metapers.models.transduction import is_transductive as is_transductive
from metapers.models.transformer import TRANSFORMER_MEMBER
from metapers.models.transformer import transformer as transformer

registry("model", "a network with shared and personal parameters").add(
    recommender=RECOMMENDER_MEMBER,
    bayes_recommender=BAYES_RECOMMENDER_MEMBER,
    linear=LINEAR_MEMBER,
    mlp=MLP_MEMBER,
    point=POINT_MEMBER,
    conv4=CONV4_MEMBER,
    solved=SOLVED_MEMBER,
    solved_conv4=SOLVED_CONV4_MEMBER,
    gru=GRU_MEMBER,
    transformer=TRANSFORMER_MEMBER,
    rating_gru=RATING_GRU_MEMBER,
    rating_transformer=RATING_TRANSFORMER_MEMBER,
    bayes_mlp=BAYES_MLP_MEMBER,
    embedding_mlp=EMBEDDING_MLP_MEMBER,
)
registry("head", "a last layer that is computed from a user's support set").add(
    bayes=BAYES_HEAD_MEMBER,
    ridge=RIDGE_HEAD_MEMBER,
    prototypes=PROTOTYPES_MEMBER,
    neighbours=NEIGHBOURS_MEMBER,
)
registry("norm", "what the features of an image are measured against").add(
    group=GROUP_NORM_MEMBER,
    layer=LAYER_NORM_MEMBER,
    support=SUPPORT_NORM_MEMBER,
    batch=BATCH_NORM_MEMBER,
)
