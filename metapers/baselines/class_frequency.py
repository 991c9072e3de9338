"""How often each class occurs: among all training users, and among a user's own support."""

import math

import jax.numpy as jnp
import numpy as np

from metapers.base import Cohort
from metapers.baselines.predictor import Predictor, has_classes
from metapers.members import Member
from metapers.options import Option


def class_prior(training: Cohort, *, classes: int | None = None) -> Predictor:
    """Predicts log p for everybody, p_c = (n_c + 1) / (N + C) from the N training targets; the support is not used.

    Outputs are logits [total, ..., C] of JAX's default float for integer targets [total, ...]: one class an example,
    or one for each place of a sequence. One example added to each class keeps the logarithm finite. C: ``classes``,
    or one more than the largest training target. Raises ValueError for targets that are not integers in 0..C-1 or an
    empty cohort.
    """
    prior = _prior("class_prior", training, classes)

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        del shots, horizon
        targets = _targets("class_prior", cohort, prior.size)
        return np.broadcast_to(_logs(prior), (*targets.shape, prior.size))

    return Predictor(predict, {"prior": prior})


def user_frequency(training: Cohort, *, shrink: float = 3.0, classes: int | None = None) -> Predictor:
    """Predicts log((k_c + shrink * p_c) / (k + shrink)), k_c counts in the user's support of k targets, p the prior.

    ``shrink`` > 0: pseudo-counts at ``class_prior``'s p, in single targets (characters, where a target is a
    sequence). Outputs, ``classes`` and errors as in ``class_prior``; ValueError too for ``shrink`` <= 0.
    """
    if not shrink > 0:
        raise ValueError(f"shrink must be > 0, got {shrink}")
    prior = _prior("user_frequency", training, classes)

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        if not 0 <= shots <= horizon:
            raise ValueError(f"shots must be in [0, horizon = {horizon}], got {shots}")
        targets = _targets("user_frequency", cohort, prior.size)
        counts = _support_counts(cohort, targets, shots, prior.size)
        own = _logs((counts + shrink * prior) / (counts.sum(axis=1, keepdims=True) + shrink))
        rows = np.repeat(own, np.diff(cohort.offsets), axis=0)
        places = (1,) * (targets.ndim - 1)
        return np.broadcast_to(rows.reshape(len(rows), *places, prior.size), (*targets.shape, prior.size))

    return Predictor(predict, {"prior": prior, "shrink": shrink})


def _logs(shares: np.ndarray) -> np.ndarray:
    return np.log(shares).astype(jnp.zeros(()).dtype)


def _prior(name: str, training: Cohort, classes: int | None) -> np.ndarray:
    targets = _targets(name, training, classes)
    if targets.size == 0:
        raise ValueError(f"{name} needs at least one training example, got none")
    counts = np.bincount(targets.ravel(), minlength=classes or 0) + 1
    return counts / counts.sum()


def _targets(name: str, cohort: Cohort, classes: int | None) -> np.ndarray:
    targets = cohort.targets
    if not (isinstance(targets, np.ndarray) and np.issubdtype(targets.dtype, np.integer)):
        found = f"{targets.dtype} {list(targets.shape)}" if isinstance(targets, np.ndarray) else type(targets).__name__
        raise ValueError(f"{name} predicts classes: targets must be an integer array [total, ...], got {found}")
    low, high = targets.min(initial=0), targets.max(initial=0)
    if low < 0 or (classes is not None and high >= classes):
        bound = "" if classes is None else f" and {classes - 1}"
        raise ValueError(f"{name} needs targets between 0{bound}, got {low} to {high}")
    return targets


def _support_counts(cohort: Cohort, targets: np.ndarray, shots: int, classes: int) -> np.ndarray:
    """Counts [users, classes] of the targets of each user's first min(shots, n) examples."""
    sizes = np.diff(cohort.offsets)
    owner = np.repeat(np.arange(sizes.size), sizes)
    seen = np.arange(owner.size) - np.repeat(cohort.offsets[:-1], sizes) < shots
    each = math.prod(targets.shape[1:])
    cell = np.repeat(owner[seen], each) * classes + targets[seen].ravel()
    return np.bincount(cell, minlength=sizes.size * classes).reshape(sizes.size, classes)


FREQUENCIES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0, 1000.0)

CLASS_PRIOR = Member(
    class_prior,
    needs=("training", "classes"),
    facts=has_classes,
    doc="the class frequencies of all training users",
)
USER_FREQUENCY = Member(
    user_frequency,
    options={"shrink": Option(3.0, above=0.0, grid=FREQUENCIES, doc="pseudo-counts at the class frequencies of all")},
    needs=("training", "classes"),
    facts=has_classes,
    doc="the class frequencies of the support, shrunk",
)
