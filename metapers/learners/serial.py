"""One user after the other: an outer step for each user of the batch, instead of one for all of them."""

import jax
import jax.numpy as jnp

from metapers import keys, trees
from metapers.base import Array, Key, Learner, Task, Tree, hide


def serial(learner: Learner) -> Learner:
    """Learner -> Learner: ``update`` takes the n users of a batch in n steps of ``learner``, in their order.

    A masked user takes no step at all. Of ``losses`` [n] each is the user's before his own step; every other number
    told is the mean over the users that took one. With ``reptile`` this is the serial form of Nichol et al. 2018
    (arXiv:1803.02999, algorithm 1).
    """

    def update(state: Tree, tasks: Task, mask: Array, key: Key) -> tuple[Tree, dict]:
        def one(state: Tree, user: tuple[Task, Array, Array]) -> tuple[Tree, dict]:
            task, there, place = user
            batch, mask = jax.tree.map(lambda leaf: leaf[None], (task, there))
            moved, info = learner.update(state, batch, mask, keys.named(key, "serial", place))
            return trees.select(there, moved, state), info

        state, info = jax.lax.scan(one, state, (tasks, mask, jnp.arange(mask.shape[0])))
        count = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1)

        def told(leaf: Array) -> Array:
            return jnp.sum(hide(leaf, mask), 0) / count.astype(leaf.dtype)

        return state, {name: leaf[:, 0] if name == "losses" else told(leaf) for name, leaf in info.items()}

    return learner._replace(update=update)
