"""Optimizers for the inner loop, by name."""

import optax

from metapers.members import Member
from metapers.options import Option

EPS_ROOT = 1e-8  # the root of a second moment of zero has no derivative


def momentum(rate: float) -> optax.GradientTransformation:
    """Gradient descent with Nesterov momentum 0.9."""
    return optax.sgd(rate, momentum=0.9, nesterov=True)


def adam(rate: float) -> optax.GradientTransformation:
    """Adam with ``eps_root`` 1e-8, so that its derivative exists at a gradient of zero."""
    return optax.adam(rate, eps_root=EPS_ROOT)


def adam_no_momentum(rate: float) -> optax.GradientTransformation:
    """Adam with b1 = 0: the inner optimizer of Reptile (Nichol, Achiam, Schulman 2018, arXiv:1803.02999)."""
    return optax.adam(rate, b1=0.0, eps_root=EPS_ROOT)


def sgd(rate: float) -> optax.GradientTransformation:
    """Plain gradient descent."""
    return optax.sgd(rate)


OPTIONS = {"rate": Option(0.1, above=0.0, doc="size of an inner step")}
INNER_OPTIMIZERS = {
    "sgd": Member(sgd, OPTIONS, doc="plain gradient descent"),
    "momentum": Member(momentum, OPTIONS, doc="gradient descent with Nesterov momentum 0.9"),
    "adam": Member(adam, OPTIONS, doc="Adam"),
    "adam_no_momentum": Member(
        adam_no_momentum,
        OPTIONS,
        paper="Nichol, Achiam, Schulman 2018, arXiv:1803.02999",
        example={"rate": 0.05},
        doc="Adam with b1 = 0",
    ),
}
