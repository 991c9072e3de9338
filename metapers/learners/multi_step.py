"""MAML++'s outer loop: every inner step is judged at first, later only the last; the second order may set in later."""

import jax
import jax.numpy as jnp
import optax

from metapers import base, keys
from metapers.base import Aggregator, Array, InnerLoop, Key, Learner, LossFn, Params, Penalty, Task, Tree, Update
from metapers.learners.descent import Phase, UserLoss, descent
from metapers.members import Member
from metapers.options import Option


def multi_step(
    loss_fn: LossFn,
    inner_loop: InnerLoop,
    optimizer: optax.GradientTransformation,
    *,
    anneal: int,
    aggregator: Aggregator,
    penalty: Penalty | None = None,
    rule: Update | None = None,
    first_order: InnerLoop | None = None,
    second_from: int = 0,
) -> Learner:
    """Descend Σ_k w_k(t) loss(params after k inner steps, query), k = 1..K, at outer step t.

    With a = max(0, 1 - t / ``anneal``): w_k = a / K before the last step, w_K = 1 - a (K - 1) / K, so at t = 0 every
    step weighs the same and from t = ``anneal`` on this is MAML (``anneal`` 0: from the first step on). The loss told
    is that of the last step. ``first_order``: the inner loop that takes the other's place before outer step
    ``second_from``, the same with gradients that count as constants (derivative-order annealing). What a step does not
    need is not computed in it: no query but the last one's from ``anneal`` on, no second order before
    ``second_from``. State: ``DescentState``. Antoniou, Edwards, Storkey 2019
    (arXiv:1810.09502, section 4: MSL and DA; the authors' code keeps a floor of 0.03 / K until ``anneal``, here the
    weights go to zero). Per-layer per-step rates are ``inner.per_step``, the cosine is optax's.

    Raises:
      ValueError: anneal or second_from < 0; second_from > 0 without ``first_order``; from ``update``, an inner loop
        that takes no steps, where there is nothing to judge one by one.
    """
    for name, value in (("anneal", anneal), ("second_from", second_from)):
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    if second_from and first_order is None:
        raise ValueError(f"first_order must be an inner loop where second_from is > 0, got None with {second_from}")

    def judged(loop: InnerLoop, since: int) -> UserLoss:
        def user_loss(params: Params, task: Task, step: Array, key: Key) -> tuple[Array, Array, Params]:
            adapted, path = loop.adapt(params, task.support, keys.named(key, "adapt"))
            if since == 1 and min((leaf.shape[0] for leaf in jax.tree.leaves(path)), default=1) < 2:
                raise ValueError("inner_loop must take at least one step, got one whose path is its start alone")
            seen = jax.tree.map(lambda leaf: leaf[since:], path)

            def after(personal: Tree) -> Array:
                losses = loss_fn(params._replace(personal=personal), task.query, keys.named(key, "query"))
                return base.masked_mean(losses, task.query.mask)

            losses = jax.vmap(after)(seen)
            return jnp.sum(_weights(step, losses, anneal) * losses), losses[-1], adapted

        return user_loss

    phases = []
    for start in sorted({0, anneal, second_from}):
        loop = inner_loop if first_order is None or start >= second_from else first_order
        phases.append(Phase(start, judged(loop, since=1 if start < anneal else -1)))
    return descent(phases, optimizer, aggregator=aggregator, penalty=penalty, rule=rule, inner=inner_loop.init)


def _weights(step: Array, losses: Array, anneal: int) -> Array:
    last = (jnp.arange(losses.shape[0]) == losses.shape[0] - 1).astype(losses.dtype)
    share = jnp.maximum(0, 1 - step.astype(losses.dtype) / max(anneal, 1)) if anneal else jnp.zeros_like(losses[0])
    return share / losses.shape[0] + (1 - share) * last


def _member(
    loss_fn: LossFn,
    inner_loop: InnerLoop,
    optimizer: optax.GradientTransformation,
    aggregator: Aggregator,
    penalty: Penalty | None,
    rule: Update | None,
    first_order_loop: InnerLoop,
    msl_anneal_steps: int,
    second_order_from: int,
) -> Learner:
    return multi_step(
        loss_fn,
        inner_loop,
        optimizer,
        anneal=msl_anneal_steps,
        aggregator=aggregator,
        penalty=penalty,
        rule=rule,
        first_order=first_order_loop if second_order_from else None,
        second_from=second_order_from,
    )


ANNEAL = "outer steps until only the last inner step counts"
FROM = "outer step from which on the derivative is of second order"
NEEDS = (*("loss_fn", "inner_loop", "optimizer", "aggregator", "penalty", "rule"), "first_order_loop")
NO_PATH = {"path": "there are no inner steps to evaluate one by one"}

MULTI_STEP = Member(
    _member,
    options={
        "msl_anneal_steps": Option(0, least=0, doc=ANNEAL),
        "second_order_from": Option(0, least=0, doc=FROM),
    },
    needs=NEEDS,
    paper="the multi-step loss of Antoniou, Edwards, Storkey 2019, arXiv:1810.09502",
    example={"msl_anneal_steps": 3, "second_order_from": 2},
    requires=NO_PATH,
    doc="descend the query loss after each inner step, later after the last alone (multi-step loss)",
)

MAML_PLUS_PLUS = Member(
    _member,
    options={
        "msl_anneal_steps": Option(type=int, least=1, doc=ANNEAL),
        "second_order_from": Option(type=int, least=1, doc=FROM),
    },
    needs=NEEDS,
    paper="Antoniou, Edwards, Storkey 2019, arXiv:1810.09502",
    example={"msl_anneal_steps": 3, "second_order_from": 2},
    requires={
        **NO_PATH,
        "lslr": "MAML++ learns one rate for each layer and inner step: inner.rates must be lslr",
        "cosine": "MAML++ anneals the outer rate along a cosine: schedule must be cosine",
    },
    doc="MAML++ without per-step normalisation statistics and without the ensemble of checkpoints",
)
