"""Adam with decoupled weight decay."""

import optax

from metapers.members import Member
from metapers.options import Option


def adam(rate: float, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """AdamW whose rate and decay are values in its state, so that other values run the same program.

    Args:
      rate: the step size, > 0.
      weight_decay: share of a parameter that a step of rate 1 takes away, >= 0.

    Source: Loshchilov, Hutter 2019 (arXiv:1711.05101).
    """
    return optax.inject_hyperparams(optax.adamw)(learning_rate=rate, weight_decay=weight_decay)


ADAM = Member(
    adam,
    options={
        "rate": Option(1e-3, above=0.0, traced=True, doc="step size"),
        "weight_decay": Option(0.0, least=0.0, traced=True, doc="decoupled weight decay"),
    },
    paper="Kingma, Ba 2015, arXiv:1412.6980; Loshchilov, Hutter 2019, arXiv:1711.05101",
    doc="Adam with decoupled weight decay",
)
