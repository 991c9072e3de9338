"""Arithmetic on trees of arrays that jax.tree does not name."""

import jax
import jax.numpy as jnp
import numpy as np

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


def finite(a: Tree) -> Array:
    """Whether no entry of any leaf is NaN or infinite; a scalar bool.

    >>> bool(finite({"a": jnp.array([1.0, 2.0]), "b": jnp.array(jnp.nan)}))
    False
    """
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(a)], bool))


def equal(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same structure and the same arrays; of arrays on the host.

    >>> equal({"w": np.ones(2)}, {"w": np.ones(2)}), equal({"w": np.ones(2)}, {"w": np.ones(3)})
    (True, False)
    """
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


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


def varying_like(tree: Tree, others: Tree) -> Tree:
    """``tree`` as every device's own, over all the mesh axes that ``others`` differ along.

    Inside shard_map the gradient with respect to something that all devices hold alike is summed over the devices:
    the step of one user would use the gradients of all. And what a scan carries must vary before the first step as
    after. Outside shard_map nothing varies, and ``tree`` comes back as it is.
    """
    axes = frozenset().union(*(_axes(leaf) for leaf in jax.tree.leaves(others)))

    def one(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, tree)


def _axes(leaf: Array) -> frozenset:
    return jax.typeof(leaf).manual_axis_type.varying
