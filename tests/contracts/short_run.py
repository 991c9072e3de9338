"""A short run of a learner in the small world: updates, the end of a stage, a user forgotten; then all of it again."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from metapers import keys
from metapers.base import Array, Key, Learner, Task, Tree
from tests.contracts import table, world

STEPS = 2  # outer steps in a stage
DRAWS = 2  # batches that the end of a stage may ask for


class Program:
    """The functions of a learner, compiled, and a count of how often each was traced."""

    def __init__(self, learner: Learner):
        def end_stage(state: Tree, batches: tuple[Task, Array], key: Key) -> Tree:
            # ``consolidate`` with the batches of the stage as data: leaves [DRAWS, users, ...]
            return learner.consolidate(state, lambda i: jax.tree.map(lambda x: x[i % DRAWS], batches), key)

        self.traced = {"update": 0, "consolidate": 0, "forget": 0}
        self.update = jax.jit(self._counted("update", learner.update))
        self.consolidate = jax.jit(self._counted("consolidate", end_stage))
        self.forget = jax.jit(self._counted("forget", learner.forget))

    def _counted(self, name: str, function: Callable) -> Callable:
        def counted(*args):
            self.traced[name] += 1
            return function(*args)

        return counted


class Run:
    """A learner with its program, or with that of a learner which differs in values that the state carries."""

    def __init__(self, learner: Learner, *, on_mesh: bool = False, program: Program | None = None):
        self.learner, self.on_mesh = learner, on_mesh
        self.program = program or Program(learner)
        self.traced, self.update, self.forget = self.program.traced, self.program.update, self.program.forget
        self.init = jax.jit(learner.init)

    def start(self, seed: int = 0) -> Tree:
        """A fresh state."""
        return self.place(self.init(table.MODEL.init(keys.root(seed)), world.tasks(0)[0]))

    def place(self, state: Tree) -> Tree:
        """The state where the first update leaves it; elsewhere the second would be compiled anew."""
        return jax.device_put(state, NamedSharding(table.mesh(), PartitionSpec())) if self.on_mesh else state

    def through(self, state: Tree, seed: int = 0, *, stages: range = range(2), tasks: Callable = world.tasks) -> Tree:
        """The state after the given stages; ``tasks(number)`` gives the batches."""
        for stage in stages:
            for step in range(STEPS):
                key = keys.named(keys.root(seed), "step", stage, step)
                state, _ = self.update(state, *tasks(10 * stage + step), key)
            ended = [tasks(100 + 10 * stage + i) for i in range(DRAWS)]
            batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ended)
            state = self.program.consolidate(state, batches, keys.named(keys.root(seed), "end", stage))
            state = self.forget(state, jnp.int32(1))
        return state


def fresh(name: str) -> Run:
    """A run of a case that shares nothing with other runs of it."""
    case = table.named()[name]
    return Run(case.make(), on_mesh=case.on_mesh)


@cache
def of(name: str) -> Run:
    """The run of a case of the table, compiled once for all contracts."""
    return fresh(name)


@cache
def after_two_stages(name: str, seed: int = 0) -> Tree:
    """The state of a case after two stages."""
    run = of(name)
    return run.through(run.start(seed), seed)
