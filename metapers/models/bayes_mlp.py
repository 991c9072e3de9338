"""Numbers from features that all users share, under weights that a user's examples give in closed form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from metapers.base import Array, Model
from metapers.members import Member
from metapers.models.bayes_head import BAYES_FACTS, BAYES_PAPER, FULL, VARIANCE, bayes_head, likelihood
from metapers.models.embedded import dense_body, embedded
from metapers.models.facts import ModelFacts
from metapers.options import Option


def bayes_mlp(
    sizes: Sequence[int],
    *,
    outputs: int | None = None,
    variance: bool = True,
    full: bool = False,
    deviation: float = 1.0,
    noise: float = 1.0,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> Model:
    """vectors [n, sizes[0]] -> {"mean": [n], "variance": [n]}: dense layers of ``sizes`` under a ``BayesHead``.

    One size is Bayesian linear regression on the inputs. ``outputs``: that many numbers per example, targets
    [n, outputs]. Without ``variance`` the outputs are the mean alone, for ``scores.squared_error``; with it, for
    ``scores.gaussian``. ``full``: the prior's covariance has correlations; ``deviation``, ``noise``: its first
    standard deviations. Parameters ``body/dense_<i>`` and ``head``; see ``embedded`` and ``BayesHead``.

    Harrison, Sharma, Pavone 2018 (ALPaCA, arXiv:1807.08912).

    Raises:
      ValueError: no size, a size or outputs < 1, or deviation or noise not above 0 or not finite.
    """
    head = bayes_head(outputs=outputs, variance=variance, full=full, deviation=deviation, noise=noise)
    return embedded(dense_body(sizes, activation=activation), head)


def _from_sizes(sizes: Mapping[str, int], *, hidden: tuple[int, ...], **options: Any) -> Model:
    return bayes_mlp((sizes["width"], *hidden), **options)


BAYES_MLP_MEMBER = Member(
    _from_sizes,
    options={
        "hidden": Option((64, 64), least=1, doc="units of each shared layer"),
        "variance": VARIANCE._replace(default=True),
        "full": FULL,
        "deviation": Option(1.0, above=0, doc="first standard deviation of a user's weights"),
        "noise": Option(1.0, above=0, doc="first standard deviation of a target around its mean"),
    },
    needs=("sizes",),
    paper=BAYES_PAPER,
    example={"hidden": (5,)},
    variants=({"full": True},),
    traits=("closed_form",),
    facts=ModelFacts(objective=likelihood, head=BAYES_FACTS),
    doc="shared dense layers and Bayesian linear regression under a learned prior",
)
