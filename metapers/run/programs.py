"""What all arms of a run share, and what each of them is trained by: its learner and compiled steps."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from metapers.base import Array, Boundary, Learner, Params, Tree
from metapers.journal import Journal, Meter
from metapers.options import ConfigError
from metapers.run import lineage, loop
from metapers.scoring.scorer import Scorer
from metapers.spec import Components, building
from metapers.users import Bank


class Snapshot(NamedTuple):
    """All arrays of a version, each with a leading seed axis."""

    params: Params  # what is evaluated and served
    state: Tree  # the whole of the learner
    bank: Bank
    keys: Array
    boundary: Tree = ()  # of the boundary, on the host


class Built(NamedTuple):
    """What an arm is trained by."""

    learner: Learner
    compiled: loop.Program
    boundary: Boundary


class Run(NamedTuple):
    """What every arm of a run has in common; built once."""

    components: Components
    folder: Path
    mesh: Mesh | None
    keys: Array  # [seeds], root keys
    init: Params  # [seeds, ...], the initialisation that all arms share
    programs: dict[str, Built]  # by name of the arm
    scorer: Scorer
    journal: Journal
    meter: Meter
    asked: Callable[[], int]  # the signal that asked to stop, or 0


def program(run: Run, name: str) -> Built:
    """The learner, compiled steps and boundary of an arm. Arms of one structure share the compiled steps."""
    arm, arms = run.components.arms[name], run.components.arms
    if name not in run.programs:
        alike = [other for other in run.programs if arms[other].structure == arm.structure]
        equal = [other for other in alike if arms[other].config == arm.config]
        run.programs[name] = run.programs[equal[0]] if equal else _built(run, name, *alike[:1])
    return run.programs[name]


def _built(run: Run, name: str, like: str | None = None) -> Built:
    """The learner and the program of an arm, its compiled steps those of the arm ``like``."""
    config = run.components.arms[name].config
    learner, boundary = building.learner(config, run.components.model, run.mesh), building.boundary(config)
    compiled = loop.program(
        learner,
        building.sampler(config, run.components.stream.family),
        chunk=min(config.chunk, config.outer_steps),
        mesh=run.mesh,
        watched=boundary.watches,
    )
    if like is not None:
        compiled = run.programs[like].compiled._replace(init=compiled.init)
    return Built(learner, compiled, boundary)


def check_memory(run: Run, name: str) -> None:
    """Refuses an arm whose state the machine cannot hold, before any arm is trained.

    Raises:
      ConfigError: naming the size of the state and the memory of the machine.
    """
    arm, compiled = run.components.arms[name], program(run, name).compiled
    state = jax.eval_shape(compiled.init, run.init, compiled.data(arm.window(0)))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    there = lineage.memory(run.components.devices)
    if size > there:
        memory = arm.config.memory
        smaller = f", memory.capacity ({memory.capacity})" if "capacity" in memory else ""
        raise ConfigError(
            f"arms: the state of {name!r}",
            f"{size / 1e9:,.0f} GB",
            f"at most {there / 1e9:,.0f} GB, the memory of the machine",
            f"lower seeds ({run.components.config.seeds}){smaller} or the size of the model",
        )
