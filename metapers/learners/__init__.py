"""How the outer loop moves the shared parameters and every user's start."""

from metapers.learners.joint import joint as joint
from metapers.learners.maml import maml as maml
from metapers.learners.replay import replay as replay
from metapers.learners.reptile import reptile as reptile
