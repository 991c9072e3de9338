"""One user after the other: a call of the optimizer for each user of the batch, instead of one for all of them."""

import jax
import jax.numpy as jnp

from metapers import keys, trees
from metapers.base import Array, Key, Learner, Task, hide
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

    def update(state: DescentState, tasks: Task, mask: Array, key: Key) -> tuple[DescentState, dict]:
        if not isinstance(state, DescentState):
            raise TypeError(f"learner must be one whose state is a DescentState, got {type(state).__name__}")

        def one(state: DescentState, user: tuple[Task, Array, Array]) -> tuple[DescentState, dict]:
            task, there, place = user
            batch, mask = jax.tree.map(lambda leaf: leaf[None], (task, there))
            moved, info = learner.update(state, batch, mask, keys.named(key, "serial", place))
            return trees.select(there, moved._replace(step=state.step), state), info

        state, info = jax.lax.scan(one, state, (tasks, mask, jnp.arange(mask.shape[0])))
        count = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1)

        def told(leaf: Array) -> Array:
            return jnp.sum(hide(leaf, mask), 0) / count.astype(leaf.dtype)

        told_of = {name: leaf[:, 0] if name == "losses" else told(leaf) for name, leaf in info.items()}
        return state._replace(step=state.step + 1), told_of

    return learner._replace(update=update)
