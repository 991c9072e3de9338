"""How often each token follows each other one among all training users: what a model of sequences has to beat."""

import jax.numpy as jnp
import numpy as np

from metapers.base import Cohort
from metapers.baselines.class_frequency import class_prior
from metapers.baselines.predictor import Predictor, has_classes
from metapers.members import Member
from metapers.options import Option


def bigram(training: Cohort, *, shrink: float = 10.0, classes: int | None = None) -> Predictor:
    """Predicts log((n_ab + shrink * p_b) / (n_a + shrink)) for token b after a; the support is not used.

    n_ab counts target b at the place of input a, p is ``class_prior``'s, ``shrink`` > 0 in pseudo-counts. Inputs and
    targets are integers of one shape [total, length], the target at a place being what follows the input there;
    outputs are logits [total, length, C] of JAX's default float. An input outside 0..C-1 is followed by p. Raises
    ValueError for ``shrink`` <= 0, inputs of another kind or shape, and as ``class_prior``.
    """
    if not shrink > 0:
        raise ValueError(f"shrink must be > 0, got {shrink}")
    prior = class_prior(training, classes=classes).fitted["prior"]
    inputs, known = _inputs(training, prior.size)
    cell = inputs[known].astype(np.int64) * prior.size + training.targets[known]
    counts = np.bincount(cell, minlength=prior.size**2).reshape(prior.size, prior.size)
    shares = (counts + shrink * prior) / (counts.sum(axis=1, keepdims=True) + shrink)
    logs = np.log(np.concatenate([shares, prior[None]])).astype(jnp.zeros(()).dtype)  # the last row: unknown input

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        del shots, horizon
        inputs, known = _inputs(cohort, prior.size)
        return logs[np.where(known, inputs, prior.size)]

    return Predictor(predict, {"prior": prior, "shares": shares, "shrink": shrink})


def _inputs(cohort: Cohort, classes: int) -> tuple[np.ndarray, np.ndarray]:
    inputs, shape = cohort.inputs, np.shape(cohort.targets)
    plain = isinstance(inputs, np.ndarray) and np.issubdtype(inputs.dtype, np.integer)
    if not plain or inputs.shape != shape or inputs.ndim != 2:
        found = f"{inputs.dtype} {list(inputs.shape)}" if isinstance(inputs, np.ndarray) else type(inputs).__name__
        raise ValueError(f"bigram needs integer inputs [total, length] as the targets {list(shape)}, got {found}")
    return inputs, (inputs >= 0) & (inputs < classes)


def _applies(training: Cohort) -> bool:
    inputs, targets = training.inputs, training.targets
    sequences = has_classes(training) and np.ndim(targets) == 2
    return sequences and isinstance(inputs, np.ndarray) and inputs.shape == np.shape(targets)


BIGRAM = Member(
    bigram,
    options={"shrink": Option(10.0, above=0.0, grid=(1.0, 10.0, 100.0), doc="pseudo-counts at the token frequencies")},
    needs=("training", "classes"),
    facts=_applies,
    doc="how often each token follows each other token",
)
