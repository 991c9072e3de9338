"""Networks with shared and personal parameters; seam.py is the only door to Flax NNX."""

from metapers.models.conv4 import conv4 as conv4
from metapers.models.embedding_mlp import embedding_mlp as embedding_mlp
from metapers.models.kinds import ADAPTS as ADAPTS
from metapers.models.linear import linear as linear
from metapers.models.mlp import mlp as mlp
from metapers.models.point import point as point
from metapers.models.recommender import recommender as recommender
from metapers.models.seam import EVERYTHING as EVERYTHING
from metapers.models.seam import Personal as Personal
from metapers.models.seam import model as model
