"""A short life of a learner in the small world: updates, the end of a stage, updates, a user forgotten, updates."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from metapers import keys
from metapers.base import Array, Key, Task, Tree
from tests.contracts import table, world

STEPS = 2  # outer steps in a stage
DRAWS = 2  # batches that the end of a stage may ask for


class Life:
    """A learner of the table with its functions compiled, and a count of how often each was traced."""

    def __init__(self, name: str):
        self.learner = table.cases()[name]()
        self.on_mesh = "sharded" in name
        self.traced = {"update": 0, "consolidate": 0, "forget": 0}
        self.init = jax.jit(self.learner.init)
        self.update = jax.jit(self._counted("update", self.learner.update))
        self.consolidate = jax.jit(self._counted("consolidate", self.end_stage))
        self.forget = jax.jit(self._counted("forget", self.learner.forget))

    def _counted(self, name: str, function: Callable) -> Callable:
        def counted(*args):
            self.traced[name] += 1
            return function(*args)

        return counted

    def end_stage(self, state: Tree, batches: tuple[Task, Array], key: Key) -> Tree:
        """``consolidate`` with the stage's batches as data: leaves [DRAWS, users, ...]."""
        return self.learner.consolidate(state, lambda i: jax.tree.map(lambda x: x[i % DRAWS], batches), key)

    def start(self, seed: int = 0) -> Tree:
        """A fresh state."""
        return self.place(self.init(table.MODEL.init(keys.root(seed)), world.tasks(0)[0]))

    def place(self, state: Tree) -> Tree:
        """The state where the first update leaves it; elsewhere the second would be compiled anew."""
        return jax.device_put(state, NamedSharding(table.mesh(), PartitionSpec())) if self.on_mesh else state

    def live(self, state: Tree, seed: int = 0, *, stages: range = range(2), tasks: Callable = world.tasks) -> Tree:
        """The state after the given stages; ``tasks(number)`` gives the batches."""
        for stage in stages:
            for step in range(STEPS):
                key = keys.named(keys.root(seed), "step", stage, step)
                state, _ = self.update(state, *tasks(10 * stage + step), key)
            ended = [tasks(100 + 10 * stage + i) for i in range(DRAWS)]
            batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ended)
            state = self.consolidate(state, batches, keys.named(keys.root(seed), "end", stage))
            state = self.forget(state, jnp.int32(1))
        return state


@cache
def of(name: str) -> Life:
    """The life of a case of the table, compiled once for all contracts."""
    return Life(name)


@cache
def lived(name: str, seed: int = 0) -> Tree:
    """The state after two stages of a case."""
    life = of(name)
    return life.live(life.start(seed), seed)
