"""One user after the other: a call of the optimizer for each user of the batch, instead of one for all of them."""

import jax
import jax.numpy as jnp

from metapers import keys, trees
from metapers.base import Array, Key, Learner, Scores, Sources, Task, hide
from metapers.learners import sources as of
from metapers.learners.descent import DescentState


def serial(learner: Learner) -> Learner:
    """Learner -> Learner: ``update`` takes the n users of a batch in n moves of ``learner``, in their order.

    ``learner`` is one by gradient descent: its state is a ``DescentState``. All moves of a batch are one outer step:
    ``state.step`` stands still while they are made, so what is told in outer steps (``multi_step``'s ``anneal`` and
    ``second_from``, a rate that is ``scheduled``) lasts as long as without ``serial``. The optimizer is called for
    each user, and its own count (Adam's, ``optax.scale_by_schedule``'s) is one of users.

    The order is part of the method, and so the place in it is part of a move's key: two moves of one batch share no
    noise, though it were the same user's.

    A masked user makes no move at all. Of ``losses`` [n] each is the user's before his own move; every other number
    told is the mean over the users that made one. With ``reptile`` this is the serial form of Nichol et al. 2018
    (arXiv:1803.02999, algorithm 1).

    Raises:
      TypeError: from ``update``, for a learner with another state.
    """

    def update(state: DescentState, sources: Sources, key: Key) -> tuple[DescentState, Scores, dict]:
        if not isinstance(state, DescentState):
            raise TypeError(f"learner must be one whose state is a DescentState, got {type(state).__name__}")

        tasks, mask = of.joined(sources)

        def one(state: DescentState, user: tuple[Task, Array, Array]) -> tuple[DescentState, tuple[Array, dict]]:
            task, there, place = user
            batch = jax.tree.map(lambda leaf: leaf[None], (task, there))
            moved, scores, info = learner.update(state, {"fresh": batch}, keys.named(key, "serial", place))
            after = trees.select(there, moved._replace(step=state.step), state)
            return after, (scores["fresh"]["losses"][0], info)

        state, (losses, info) = jax.lax.scan(one, state, (tasks, mask, jnp.arange(mask.shape[0])))
        count = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1)

        def mean(leaf: Array) -> Array:
            return jnp.sum(hide(leaf, mask), 0) / count.astype(leaf.dtype)

        info = {name: mean(leaf) for name, leaf in info.items()}
        return state._replace(step=state.step + 1), of.scores(losses, sources), info

    return learner._replace(update=update)
