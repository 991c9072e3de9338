"""A kernel whose input never changes while a user adapts is moved through what it puts out: its dual form.

Where a loss meets a kernel w [in, out] only in z = x w, x [rows, in] being the same in every step, the gradient is
xᵀ g with g = ∂loss / ∂z, and a step of rate r is

    w <- w - r xᵀ g,    or    z <- z - r (x xᵀ) g  and  s <- s + r g,    w = first - xᵀ s at the end.

Nothing as large as the kernel is touched or kept for the way back in any step, and both products with it (the forward
one and the gradient's) become one of [rows, rows]: a head on many features that few examples train, or the first layer
over embeddings that all users share. It is read off the traced loss, so a model needs to say nothing, and taken where
it costs fewer multiplications. Source: Irie, Csordás, Schmidhuber 2022 (arXiv:2202.05798), section 2.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from metapers.base import Array, Tree
from metapers.inner.once import run

Loss = Callable[[Tree, Tree], Array]


class Place(NamedTuple):
    """Where a user is on the way: ``moving`` like the personal parameters, with z instead of a kernel in dual form."""

    moving: Tree
    errors: tuple[Array, ...]  # s of each kernel in dual form


class Descent(NamedTuple):
    """How to descend ``loss(personal, others)``, and where ``others`` is what never moves."""

    loss: Loss  # (place.moving, others) -> the loss
    begin: Place
    move: Callable[[Place, Tree, Tree], Place]  # (place, rates, slope): one step
    personal: Callable[[Place], Tree]  # place -> the personal parameters there


def descent(loss: Loss, first: Tree, others: Tree, rates: Tree, steps: int, *, first_order: bool = False) -> Descent:
    """``steps`` steps on ``loss`` from ``first``, kernels in dual form where that is possible and cheaper.

    Possible is it for a leaf [in, out] that the loss reads only as the right side of one product whose left side is a
    leaf of ``others``, and whose rate is a single number. ``others``: of the leaves that the loss reads so, the values
    are those of every step. With ``first_order`` the slopes are constants, and so is what they are multiplied by.
    """
    leaves, structure = jax.tree.flatten(first)
    traced = jax.make_jaxpr(loss)(first, others)
    program, fixed = traced.jaxpr, jax.tree.leaves(others)
    found = _products(program, leaves, jax.tree.leaves(rates), steps)
    if not found:
        plain = lambda place, rates, slope: Place(_stepped(place.moving, rates, slope), ())
        return Descent(loss, Place(first, ()), plain, lambda place: place.moving)

    read: list[Any] = list(program.invars)
    inputs = [fixed[read.index(equation.invars[0]) - len(leaves)] for equation in found.values()]
    frozen = [jax.lax.stop_gradient(x) if first_order else x for x in inputs]
    gram = [jnp.einsum("ni,mi->nm", _rows(x), _rows(x)) for x in frozen]

    into = [found[i].outvars[0] if i in found else program.invars[i] for i in range(len(leaves))]
    remaining = [equation for equation in program.eqns if not any(equation is each for each in found.values())]

    def moved_loss(moving: Tree, others: Tree) -> Array:
        arguments = [*traced.consts, *jax.tree.leaves(moving), *jax.tree.leaves(others)]
        given = [*program.constvars, *into, *program.invars[len(leaves) :]]
        return run(program, given, remaining, program.outvars, arguments)[0]

    def move(place: Place, rates: Tree, slope: Tree) -> Place:
        at, speed, slopes = (jax.tree.leaves(tree) for tree in (place.moving, rates, slope))
        moved = _stepped(at, speed, slopes)
        for i, among in zip(found, gram):
            moved[i] = at[i] - speed[i] * (among @ _rows(slopes[i])).reshape(slopes[i].shape)
        errors = tuple(s + speed[i] * slopes[i] for i, s in zip(found, place.errors))
        return Place(jax.tree.unflatten(structure, moved), errors)

    def personal(place: Place) -> Tree:
        back = jax.tree.leaves(place.moving)
        for i, x, s in zip(found, frozen, place.errors):
            back[i] = leaves[i] - jnp.einsum("ni,no->io", _rows(x), _rows(s))
        return jax.tree.unflatten(structure, back)

    start = [x @ leaves[i] for i, x in zip(found, inputs)]
    there = list(leaves)
    for i, z in zip(found, start):
        there[i] = z
    begin = Place(jax.tree.unflatten(structure, there), tuple(jnp.zeros_like(z) for z in start))
    return Descent(moved_loss, begin, move, personal)


def _products(program: jex.Jaxpr, leaves: list, rates: list, steps: int) -> dict[int, jex.JaxprEqn]:
    """{the number of a leaf: the one product that reads it}, of the leaves for which the dual form is worth it."""
    if program.effects:
        return {}
    moving, fixed = program.invars[: len(leaves)], set(program.invars[len(leaves) :])
    found = {}
    for i, (var, rate) in enumerate(zip(moving, rates)):
        readers = [each for each in program.eqns for v in each.invars if v is var]
        if len(readers) != 1 or var in program.outvars or jnp.ndim(rate) != 0:
            continue
        if _is_product(readers[0], var, fixed) and cheaper(readers[0], steps):
            found[i] = readers[0]
    return found


def _is_product(equation: jex.JaxprEqn, kernel: jex.Var, fixed: set) -> bool:
    """Whether it is x @ kernel, all of one type, with x a fixed argument [..., in] and the kernel [in, out]."""
    if equation.primitive.name != "dot_general" or equation.invars[1] is not kernel:
        return False
    left, right, out = (_type(v) for v in (*equation.invars, *equation.outvars))
    x = equation.invars[0]
    if not isinstance(x, jex.Var) or x not in fixed or not left.dtype == right.dtype == out.dtype:
        return False
    return right.ndim == 2 and equation.params["dimension_numbers"] == (((left.ndim - 1,), (0,)), ((), ()))


def cheaper(equation: jex.JaxprEqn, steps: int) -> bool:
    """Whether the dual form has fewer multiplications: first outputs, products of inputs, one a step, the kernel."""
    x, kernel = (_type(v).shape for v in equation.invars)
    rows, (inside, outside) = math.prod(x[:-1]), kernel
    plain = 2 * steps * rows * inside * outside
    return 2 * rows * inside * outside + rows * rows * inside + steps * rows * rows * outside < plain


def _type(value: jex.Var | jex.Literal) -> jax.ShapeDtypeStruct:
    return cast(jax.ShapeDtypeStruct, value.aval)


def _stepped(at: Tree, rates: Tree, slope: Tree) -> Tree:
    return jax.tree.map(lambda x, r, g: x - r * g, at, rates, slope)


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])
