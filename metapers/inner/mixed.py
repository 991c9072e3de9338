"""The inner gradient with a derivative of its own: forward over reverse, so that a step leaves no tape behind.

Differentiating ∇L by reverse mode once more keeps everything that the gradient computed, for every inner step. But
what comes back through a step is a Hessian-vector product, and the Hessian is symmetric: the derivative of ∇L in the
direction of the incoming cotangent, taken forwards, is the same numbers. Only the step's parameters are kept.
Source: MixFlow-MG (Kemaev, Calian, Zintgraf et al. 2025, arXiv:2505.00793).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metapers.base import Array, Tree


def mixed_gradient(loss: Callable[[Tree, Tree], Array]) -> Callable[[Tree, Tree], Tree]:
    """(moving, fixed) -> ∇ of ``loss(moving, fixed)`` by its first argument, as ``jax.grad`` gives it.

    Its reverse-mode derivative is forward over reverse. Nothing may be closed over by ``loss`` that is to be
    differentiated: it goes into ``fixed``, whose leaves that are no floats (keys, counters) get no derivative. It has
    no forward-mode derivative (a ``custom_vjp``).
    """

    @jax.custom_vjp
    def slope(moving: Tree, fixed: Tree) -> Tree:
        return jax.grad(loss)(moving, fixed)

    def forward(moving: Tree, fixed: Tree) -> tuple[Tree, tuple[Tree, Tree]]:
        return slope(moving, fixed), (moving, fixed)

    def backward(kept: tuple[Tree, Tree], cotangent: Tree) -> tuple[Tree, Tree]:
        moving, fixed = kept
        leaves, structure = jax.tree.flatten(fixed)
        float_ = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

        def both(moved: Tree) -> tuple[Tree, list[Array]]:
            def of(moved: Tree, floats: list[Array]) -> Array:
                there = iter(floats)
                whole = [next(there) if is_float else leaf for is_float, leaf in zip(float_, leaves, strict=True)]
                return loss(moved, jax.tree.unflatten(structure, whole))

            floats = [leaf for is_float, leaf in zip(float_, leaves, strict=True) if is_float]
            return jax.grad(of, argnums=(0, 1))(moved, floats)

        _, (product, mixed) = jax.jvp(both, (moving,), (cotangent,))
        there = iter(mixed)
        back = [
            next(there) if is_float else np.zeros(leaf.shape, jax.dtypes.float0)
            for is_float, leaf in zip(float_, leaves, strict=True)
        ]
        return product, jax.tree.unflatten(structure, back)

    slope.defvjp(forward, backward)
    return slope
