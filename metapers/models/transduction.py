"""Does a model's answer for one row depend on the others? Asked of the model itself, so that a report can say."""

import jax
import jax.numpy as jnp

from metapers import keys
from metapers.base import Batch, Key, Model, Params, Tree


def is_transductive(model: Model, inputs: Tree, key: Key, targets: Tree | None = None) -> bool:
    """Whether the outputs of the first row of ``inputs`` [n, ...] change when every other row becomes a copy of it.

    Tried at a random point near the first parameters, so that a head which is zero at first hides nothing. Rows that
    are all alike say nothing: give real or random ones. A model that computes a user's parameters
    from the support (``write``) gets those that ``inputs`` with ``targets`` give; without targets, random ones.

    >>> from metapers.models import mlp
    >>> is_transductive(mlp((2, 3, 1)), jnp.eye(2), keys.root(0))
    False

    Raises:
      ValueError: fewer than two rows.
    """
    rows = len(jax.tree.leaves(inputs)[0])
    if rows < 2:
        raise ValueError(f"inputs must have >= 2 rows, got {rows}")
    leaves, structure = jax.tree.flatten(jax.jit(model.init)(keys.named(key, "init")))
    noise = [jax.random.normal(keys.named(key, "leaf", i), x.shape, x.dtype) for i, x in enumerate(leaves)]
    params = jax.tree.unflatten(structure, [x + 0.1 * n for x, n in zip(leaves, noise, strict=True)])
    if targets is not None:
        support = Batch(inputs, targets, jnp.ones(rows, bool))
        params = _written(model, params, jax.tree.unflatten(structure, leaves), support)
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), inputs)
    apply = jax.jit(lambda one: model.apply(params, one, jnp.ones(rows, bool), None))

    def apart(a: jax.Array, b: jax.Array) -> bool:
        gap, size = jnp.max(jnp.abs(a[0] - b[0])), jnp.max(jnp.abs(a[0]))
        return bool(gap > 1e-4 * (1 + size))

    return any(jax.tree.leaves(jax.tree.map(apart, apply(inputs), apply(copies))))


def _written(model: Model, params: Params, first: Params, support: Batch) -> Params:
    # Sums of examples are no numbers that noise may be added to: they are those of the support, from an empty start.
    found = jax.jit(model.write)(params._replace(personal=first.personal), support, None)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(first.personal), strict=True)
    wrote = any(bool(jnp.any(a != b)) for a, b in pairs)
    return params._replace(personal=found) if wrote else params
