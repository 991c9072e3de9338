"""No adaptation: every user keeps the start."""

import jax

from metapers.base import Batch, InnerLoop, Key, Params, Tree


def none() -> InnerLoop:
    """adapt returns its parameters; the path has one entry, the start."""

    def init(params: Params) -> Tree:
        return {}

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        return params, jax.tree.map(lambda leaf: leaf[None], params.personal)

    return InnerLoop(init, adapt)
