"""Reptile: move the start towards where users' adaptation ends."""

import jax
import optax

from metapers import base, keys, trees
from metapers.base import Aggregator, Array, InnerLoop, Key, Learner, LossFn, Params, Penalty, Task, Update
from metapers.learners.descent import descent, joined
from metapers.members import Member


def reptile(
    loss_fn: LossFn,
    inner_loop: InnerLoop,
    optimizer: optax.GradientTransformation,
    *,
    aggregator: Aggregator,
    penalty: Penalty | None = None,
    rule: Update | None = None,
) -> Learner:
    """Descend mean_u ½‖personal − stop_gradient(adapted_u)‖², whose step is mean_u (adapted_u − personal).

    Adaptation runs on support and query joined in one batch and is never differentiated. Shared parameters,
    which no inner step moves, get the gradient of the query loss at the adapted personal ones; inner parameters
    (learned rates) get zero. The loss told is that query loss: the query was adapted on, so it is a training
    loss. State: ``DescentState``. Nichol et al. 2018 (arXiv:1803.02999, algorithm 2).
    """

    def user_loss(params: Params, task: Task, step: Array, key: Key) -> tuple[Array, Array, Params]:
        # stopped before the inner loop, not after: no derivative of its steps is ever built
        adapted, _ = inner_loop.adapt(jax.lax.stop_gradient(params), joined(task), keys.named(key, "adapt"))
        end = jax.lax.stop_gradient(adapted.personal)
        losses = loss_fn(params._replace(personal=end), task.query, keys.named(key, "query"))
        loss = base.masked_mean(losses, task.query.mask)
        distance = optax.tree.norm(trees.subtract(params.personal, end), squared=True)
        return 0.5 * distance + loss, loss, adapted

    return descent(user_loss, optimizer, aggregator=aggregator, penalty=penalty, rule=rule, inner=inner_loop.init)


REPTILE = Member(
    reptile,
    needs=("loss_fn", "inner_loop", "optimizer", "aggregator", "penalty", "rule"),
    paper="Nichol, Achiam, Schulman 2018, arXiv:1803.02999",
    traits=("undifferentiated",),
    conflicts={"closed_form_loop": "what is computed from one user's examples is no start that others could share"},
    doc="move the start towards where adaptation ends (Reptile)",
)
