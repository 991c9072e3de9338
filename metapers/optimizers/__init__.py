"""Optimizers of the outer loop, one for each group of parameters, and how their rates change over the outer steps."""

from metapers.members import registry
from metapers.optimizers.adam import ADAM
from metapers.optimizers.adam import adam as adam
from metapers.optimizers.constant import CONSTANT
from metapers.optimizers.constant import constant as constant
from metapers.optimizers.cosine import COSINE
from metapers.optimizers.cosine import cosine as cosine
from metapers.optimizers.frozen import FROZEN
from metapers.optimizers.frozen import frozen as frozen
from metapers.optimizers.sgd import SGD
from metapers.optimizers.sgd import sgd as sgd

registry("optimizer", "an optimizer of the outer loop").add(adam=ADAM, sgd=SGD, frozen=FROZEN)
registry("schedule", "how the rates of the outer loop change over outer steps").add(constant=CONSTANT, cosine=COSINE)
