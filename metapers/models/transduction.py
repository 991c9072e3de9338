"""Does a model's answer for one row depend on the others? Asked of the model itself, so that a report can say."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metapers.base import Batch, Model, Params, Tree


def is_transductive(model: Model, params: Params, inputs: Tree, targets: Tree | None = None) -> bool:
    """Whether the outputs of the first row of ``inputs`` [n, ...] change when every other row becomes a copy of it.

    Tried at a random point near ``params``, the first ones, so that a head which is zero at first hides nothing. Rows
    that are all alike say nothing: give real or random ones. A model that computes a user's parameters
    from the support (``write``) gets those that ``inputs`` with ``targets`` give; without targets, random ones.

    >>> from metapers import keys
    >>> from metapers.models import mlp
    >>> model = mlp((2, 3, 1))
    >>> is_transductive(model, model.init(keys.root(0)), jnp.eye(2))
    False

    Raises:
      ValueError: fewer than two rows.
    """
    rows = len(jax.tree.leaves(inputs)[0])
    if rows < 2:
        raise ValueError(f"inputs must have >= 2 rows, got {rows}")
    first = jax.tree.map(np.asarray, params)

    def apart(y: np.ndarray) -> bool:
        gap, size = np.max(np.abs(y[0] - y[1])), np.max(np.abs(y[0]))
        return bool(gap > 1e-4 * (1 + size))

    outputs = _of_first_row(model, _near(first), first, inputs, targets)
    return any(apart(np.asarray(y)) for y in jax.tree.leaves(outputs))


@partial(
    jax.jit, static_argnums=0
)  # one program, and its numbers are drawn outside: it compiles in a tenth of the time
def _of_first_row(model: Model, near: Params, first: Params, inputs: Tree, targets: Tree | None) -> Tree:
    every = jnp.ones(len(jax.tree.leaves(inputs)[0]), bool)
    if targets is not None:
        near = _written(model, near, first, Batch(inputs, targets, every))
    both = jax.tree.map(lambda x: jnp.stack([x, jnp.broadcast_to(x[:1], x.shape)]), inputs)
    return jax.lax.map(lambda one: jax.tree.map(lambda y: y[0], model.apply(near, one, every, None)), both)


def _near(params: Params) -> Params:
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(x.dtype), params)


def _written(model: Model, params: Params, first: Params, support: Batch) -> Params:
    # Sums of examples are no numbers that noise may be added to: they are those of the support, from an empty start.
    found = model.write(params._replace(personal=first.personal), support, None)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(first.personal), strict=True)
    wrote = jnp.any(jnp.array([jnp.any(a != b) for a, b in pairs], bool))
    kept = jax.tree.map(lambda a, b: jnp.where(wrote, a, b), found, params.personal)
    return params._replace(personal=kept)
