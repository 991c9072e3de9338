"""Plain gradient descent with weight decay."""

import optax

from metapers.members import Member
from metapers.options import Option


def sgd(rate: float, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """parameter <- parameter - rate (gradient + weight_decay parameter); the rate is a value in the state.

    Args:
      rate: the step size, > 0.
      weight_decay: weight of the parameter in the step, >= 0.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.inject_hyperparams(optax.sgd)(learning_rate=rate))


SGD = Member(
    sgd,
    options={
        "rate": Option(1e-3, above=0.0, traced=True, doc="step size"),
        "weight_decay": Option(0.0, least=0.0, doc="weight decay, in units of the gradient"),
    },
    doc="plain gradient descent with weight decay",
)
