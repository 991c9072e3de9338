"""What an adaptation step recomputes although it never changes is computed once, before the first step.

Only personal parameters move inside the loop. Item features, embeddings, a shared network on the support: all of
that is the same at every step, forwards and backwards, and a scan would repeat it. The split is read off the traced
program, so a model needs to say nothing and the numbers are the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex

from metapers.base import Array, Tree

CONSTANT, FIXED, MOVING = 0, 1, 2  # what a value depends on: on nothing, on fixed arguments, on moving ones


def once(fn: Callable[[Tree, Tree], Array], moving: Tree, fixed: Tree) -> Callable[[Tree], Array]:
    """moving -> fn(moving, fixed), where all that ``fixed`` alone determines has been computed already.

    ``fn`` returns one array. Of the argument ``moving`` only shapes are read. Differentiating the result with
    respect to what went into ``fixed`` is allowed and passes through the shared computation once.
    """
    rest, ready = cut(fn, moving, fixed)
    return lambda moved: rest(moved, ready)


def cut(fn: Callable[[Tree, Tree], Array], moving: Tree, fixed: Tree) -> tuple[Callable[[Tree, Tree], Array], Tree]:
    """(rest, ready) with rest(moving, ready) = fn(moving, fixed): the same with what was computed as an argument."""
    traced = jax.make_jaxpr(fn)(moving, fixed)
    program, count = traced.jaxpr, len(jax.tree.leaves(moving))
    moves, rests = program.invars[:count], program.invars[count:]
    level = _levels(program, moves)
    if program.effects:  # an order that must be kept (a print, a callback): leave it whole
        return fn, fixed

    before = [equation for equation in program.eqns if _highest(equation, level) < MOVING]
    after = [equation for equation in program.eqns if _highest(equation, level) != FIXED]
    shared = _needed(after, program.outvars, level)
    ready = run(program, [*program.constvars, *rests], before, shared, [*traced.consts, *jax.tree.leaves(fixed)])

    def rest(moved: Tree, ready: Tree) -> Array:
        (value,) = run(program, [*moves, *shared], after, program.outvars, [*jax.tree.leaves(moved), *ready])
        return value

    return rest, ready


def _levels(program: jex.Jaxpr, moves: list) -> dict:
    level = dict.fromkeys([*program.constvars, *program.invars], FIXED) | dict.fromkeys(moves, MOVING)
    for equation in program.eqns:
        level |= dict.fromkeys(equation.outvars, _highest(equation, level))
    return level


def _highest(equation: jex.JaxprEqn, level: dict) -> int:
    # Constants such as a zero background stay inside the step, where the compiler folds them for nothing.
    return max((level[v] for v in equation.invars if isinstance(v, jex.Var)), default=CONSTANT)


def _needed(after: list, outputs: list, level: dict) -> list:
    read = [v for equation in after for v in equation.invars] + list(outputs)
    return list(dict.fromkeys(v for v in read if isinstance(v, jex.Var) and level[v] == FIXED))


def run(program: jex.Jaxpr, inputs: list, equations: list, outputs: list, values: list) -> list:
    """The values of ``outputs`` by those ``equations`` of a traced program, from the values of ``inputs``."""
    about = jex.DebugInfo("once", program.debug_info.func_src_info, None, None)
    part = jex.Jaxpr([], inputs, outputs, equations, program.effects, about)
    closed: Any = jex.ClosedJaxpr  # pyright: ignore[reportPrivateImportUsage]
    return jex.jaxpr_as_fun(closed(part, []))(*values)
