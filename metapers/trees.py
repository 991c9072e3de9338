"""Arithmetic on trees of arrays that jax.tree does not name."""

import jax
import jax.numpy as jnp

from metapers.base import Array, Tree


def add(a: Tree, b: Tree) -> Tree:
    """Leaf-wise a + b."""
    return jax.tree.map(jnp.add, a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """Leaf-wise a - b."""
    return jax.tree.map(jnp.subtract, a, b)


def scale(a: Tree, factor: Array | float) -> Tree:
    """Leaf-wise factor * a."""
    return jax.tree.map(lambda x: x * factor, a)


def zeros(a: Tree) -> Tree:
    """Zeros of the shapes and dtypes of ``a``."""
    return jax.tree.map(jnp.zeros_like, a)


def copy(a: Tree) -> Tree:
    """Fresh buffers: an anchor that must not share memory with the weights it was taken from."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), a)


def select(condition: Array, a: Tree, b: Tree) -> Tree:
    """Leaf-wise ``a`` where the scalar ``condition`` holds, else ``b``; keys included."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def bounded(a: Tree) -> Array:
    """Whether no entry of any leaf is NaN or beyond the fourth root of its type's largest number; a scalar bool.

    That is 4.3e9 in float32: four weights of that size in a row overflow.

    >>> [bool(bounded(jnp.float32(x))) for x in (4e9, 5e9, jnp.nan)]
    [True, False, False]
    """
    small = [jnp.all(jnp.abs(x) <= float(jnp.finfo(x.dtype).max) ** 0.25) for x in jax.tree.leaves(a)]
    return jnp.all(jnp.asarray(small, bool))


def squared_norm(a: Tree) -> Array:
    """Sum of the squares of all entries; a scalar.

    >>> float(squared_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
    25.0
    """
    return sum((jnp.sum(jnp.square(x)) for x in jax.tree.leaves(a)), start=jnp.asarray(0.0))  # weak: any dtype


def dot(a: Tree, b: Tree) -> Array:
    """Inner product over all leaves; a scalar."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return sum(jax.tree.leaves(products), start=jnp.asarray(0.0))


def names(a: Tree) -> list[str]:
    """The path of each leaf, as "shared/embed/kernel", in the order of ``jax.tree.leaves``.

    >>> names({"b": 1, "a": {"c": 2}})
    ['a/c', 'b']
    """
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(a)]
