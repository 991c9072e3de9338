"""A short run of a learner in the small world: updates, the end of a period, a user forgotten; then all of it again."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from metapers import keys
from metapers.base import Array, Key, Learner, Task, Tree
from tests.contracts import table, world

STEPS = 2  # outer steps in a period
DRAWS = 2  # batches that the end of a period may ask for
SEEDS = 2  # of a run of several


def alone(function: Callable, in_axes: Any = 0) -> Callable:
    """The function of one seed, where a run of several has ``jax.vmap``."""
    return function


class Program:
    """The functions of a learner, compiled, and a count of how often each was traced."""

    def __init__(self, learner: Learner, many: Callable = alone):
        def end_period(state: Tree, batches: tuple[Task, Array], key: Key) -> Tree:
            # ``consolidate`` with the batches of the period as data: leaves [DRAWS, users, ...]
            return learner.consolidate(state, lambda i: jax.tree.map(lambda x: x[i % DRAWS], batches), key)

        self.traced = {"update": 0, "consolidate": 0, "forget": 0}
        self.update = jax.jit(many(self._counted("update", world.on_batch(learner)), (0, None, None, 0)))
        self.consolidate = jax.jit(many(self._counted("consolidate", end_period), (0, None, 0)))
        self.forget = jax.jit(many(self._counted("forget", learner.forget), (0, None)))

    def _counted(self, name: str, function: Callable) -> Callable:
        def counted(*args):
            self.traced[name] += 1
            return function(*args)

        return counted


class Run:
    """A learner with its program, or with that of a learner which differs in values that the state carries.

    ``many``: ``jax.vmap`` for SEEDS seeds trained together, in place of one.
    """

    def __init__(
        self, learner: Learner, *, on_mesh: bool = False, program: Program | None = None, many: Callable = alone
    ):
        self.learner, self.on_mesh, self.many = learner, on_mesh, many
        self.program = program or Program(learner, many)
        self.traced, self.update, self.forget = self.program.traced, self.program.update, self.program.forget
        self.init = jax.jit(many(learner.init, (0, None)))

    def roots(self, seed: int) -> Key:
        """The key of a seed; of a run of several, those of the first SEEDS."""
        return keys.root(seed) if self.many is alone else jnp.stack([keys.root(one) for one in range(SEEDS)])

    def start(self, seed: int = 0) -> Tree:
        """A fresh state."""
        return self.place(self.init(self.many(table.MODEL.init)(self.roots(seed)), world.tasks(0)[0]))

    def place(self, state: Tree) -> Tree:
        """The state where the first update leaves it; elsewhere the second would be compiled anew."""
        return jax.device_put(state, NamedSharding(table.mesh(), PartitionSpec())) if self.on_mesh else state

    def through(self, state: Tree, seed: int = 0, *, periods: range = range(2), tasks: Callable = world.tasks) -> Tree:
        """The state after the given periods; ``tasks(number)`` gives the batches."""
        named = lambda *names: self.many(lambda root: keys.named(root, *names))(self.roots(seed))
        for period in periods:
            for step in range(STEPS):
                state, _ = self.update(state, *tasks(10 * period + step), named("step", period, step))
            ended = [tasks(100 + 10 * period + i) for i in range(DRAWS)]
            batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ended)
            state = self.program.consolidate(state, batches, named("end", period))
            state = self.forget(state, jnp.int32(1))
        return state


def fresh(name: str, many: Callable = alone) -> Run:
    """A run of a case that shares nothing with other runs of it."""
    case = table.named()[name]
    return Run(case.make(), on_mesh=case.on_mesh, many=many)


@cache
def of(name: str) -> Run:
    """The run of a case of the table, compiled once for all contracts."""
    return fresh(name)


@cache
def after_two_periods(name: str, seed: int = 0) -> Tree:
    """The state of a case after two periods."""
    run = of(name)
    return run.through(run.start(seed), seed)
