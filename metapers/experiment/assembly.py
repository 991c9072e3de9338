"""Names in a config to members of the house: the one place that knows them all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from metapers import aggregate, base, inner, learners, memory, models, penalties
from metapers.base import (
    Aggregator,
    Array,
    InnerLoop,
    Key,
    Learner,
    Memory,
    Model,
    Objective,
    Penalty,
    Stream,
)
from metapers.experiment import optimizing, starting
from metapers.experiment.adapting import objective, training_loop
from metapers.experiment.architectures import MODELS, solved_head
from metapers.experiment.catalogue import SOURCES
from metapers.experiment.config import Config, from_plain, naming, one_of, plain
from metapers.experiment.defaults import default

Device = Any  # a jax.Device, which type checkers take for a variable


class Strategy(NamedTuple):
    """How a stream is lived through."""

    window: Callable[[int], tuple[int, int]]  # stage -> first and last stage to draw from
    trains: Callable[[int, int], bool]  # (stage, stages) -> does it take outer steps in this stage?
    saves: Callable[[int, int], bool]  # (stage, stages) -> does the stage leave a version?
    known: Callable[[int], int] = lambda stage: stage  # its version's inputs are as known after this stage
    restarts: bool = False  # each stage from the same initialisation
    remembers: bool = False  # with the config's penalty and memory
    learner: str = ""  # instead of the config's


def _always(stage: int, stages: int) -> bool:
    return True


STRATEGIES: dict[str, Strategy] = {
    "static": Strategy(lambda stage: (0, 0), lambda stage, stages: stage == 0, _always, lambda stage: 0),
    "naive": Strategy(lambda stage: (stage, stage), _always, _always),
    "joint_so_far": Strategy(lambda stage: (0, stage), _always, _always, restarts=True),
    "continual": Strategy(lambda stage: (stage, stage), _always, _always, remembers=True),
    # the baseline without an inner loop, on all data so far, with as many steps as the others take in all
    "joint": Strategy(lambda stage: (0, stage), _always, _always, learner="joint"),
}
BASELINE = "joint"

LEARNERS: dict[str, Callable[..., Learner]] = {
    "maml": learners.maml,
    "multi_step": learners.multi_step,
    "reptile": learners.reptile,
    "joint": learners.joint,
}
AGGREGATORS = ("mean", "clipped")
PENALTIES = ("none", "anchor", "ewc")
MEMORIES = ("none", "reservoir")


def strategies(config: Config) -> list[str]:
    """The run's strategies in order, last the joint baseline where one model for all users can be trained.

    There is none where tasks name their classes anew, where a head learns through the support alone (ridge,
    prototypes), and where the config's own learner is the joint one already.

    Raises:
      ValueError: for an unknown name.
    """
    named = [one_of("strategies", name, STRATEGIES) for name in config.strategies]
    head = solved_head(config.model)
    comparable = SOURCES[one_of("data.source", config.data.source, SOURCES)].joint and config.learner.name != "joint"
    comparable = comparable and (head is None or head.alone)
    return [*dict.fromkeys(name for name in named if name != BASELINE), *([BASELINE] if comparable else [])]


def config_for(source: str, model_name: str) -> Config:
    """Every key of a config for a source and a model, with defaults; locked against unknown keys.

    Episodes are judged on the whole of their support; another headline is refused.
    """
    data = {"source": one_of("data.source", source, SOURCES), **SOURCES[source].options}
    chosen = {"name": one_of("model.name", model_name, MODELS), **MODELS[model_name].options}
    config = default(data, chosen)
    ways = SOURCES[source].ways(data)
    if ways:
        support = ways * data["shots"]
        config.evaluation.update(shots=(support,), headline_shots=support)
    return config


def saved_config(saved: Mapping[str, Any]) -> Config:
    """The config that a run wrote down, perhaps under an older version: ``config.from_plain``, and the options of its
    source and model that came later have their defaults too."""
    config = from_plain(saved)
    usual, there = config_for(config.data.source, config.model.name), config.to_dict()
    return ConfigDict(there | {part: usual[part].to_dict() | there[part] for part in ("data", "model")}).lock()


class Parts(NamedTuple):
    """What a config builds before any strategy is chosen."""

    config: Config
    stream: Stream
    sizes: Mapping[str, int]
    model: Model
    objective: Objective
    devices: tuple[Device, ...]
    donor: starting.Donor | None = None  # whose parameters the run's begin with


def parts(config: Config) -> Parts:
    """The stream, model and objective of a config.

    Raises:
      ValueError: for a metric that this objective does not have, a stage that nobody could be judged on, and what the
        members themselves refuse.
      FileNotFoundError: for a ``start_from`` or ``data.path`` where nothing is.
    """
    donor = starting.donor(config.start_from, plain(config)["data"]) if config.start_from else None
    built = stream(config)
    _judged(built, config)
    sizes = SOURCES[config.data.source].sizes(built)
    made = Parts(config, built, sizes, model(config, sizes), objective(config), tuple(devices(config.devices)), donor)
    one_of("evaluation.metric", config.evaluation.metric, metrics(made))
    return made


def _judged(built: Stream, config: Config) -> None:
    more = "more users in each stage, fewer stages" + (" or another data.fold" if "fold" in config.data else "")
    for split, stages in (("validation", (None,)), ("test", (*range(built.stages), None))):
        for stage in stages:
            if not len(built.held_out(split, stage).users):
                where = "the stream" if stage is None else f"stage {stage} of {built.stages}"
                raise ValueError(
                    f"{where} must have a {split} user with two examples or more, got none: {more} would give one"
                )


def metrics(made: Parts) -> list[str]:
    """The names of one user's scores, read off shapes: nothing is computed."""
    cohort = made.stream.held_out("validation", None)
    inputs, targets = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), (cohort.inputs, cohort.targets))
    rows = jnp.ones(len(jax.tree.leaves(inputs)[0]), bool)

    def scores(key: Key) -> dict[str, Array]:
        outputs = made.model.apply(made.model.init(key), inputs, rows, None)
        return made.objective.scores(outputs, targets, rows)

    return list(jax.eval_shape(scores, jax.random.key(0)))


def devices(count: int) -> list[Device]:
    """The first ``count`` devices, or all for 0.

    Raises:
      ValueError: if there are fewer.
    """
    there = jax.devices()
    if count > len(there):
        raise ValueError(f"devices must be <= {len(there)}, the number there are, got {count}")
    return there[:count] if count else there


def stream(config: Config) -> Stream:
    """The stream of users that ``config.data`` describes.

    Raises:
      ValueError: for an empty ``data.path`` where the source is read from files, and as the source itself.
      FileNotFoundError: if there is nothing at ``data.path``.
    """
    options = config.data.to_dict()
    names, name = tuple(options), options.pop("source")
    source = SOURCES[one_of("data.source", name, SOURCES)]
    if source.files(options):
        if not options["path"]:
            raise ValueError(f"data.path must name the folder with the files of data.source {name!r}, got ''")
        if not Path(options["path"]).exists():
            raise FileNotFoundError(f"data.path must name a folder that is there, got {options['path']!r}")
    with naming("data", names):
        return source.build(options)


def model(config: Config, sizes: Mapping[str, int]) -> Model:
    """The model for inputs of the stream's ``sizes``; no data is read."""
    options = config.model.to_dict()
    build = MODELS[one_of("model.name", options.pop("name"), MODELS)].build
    with naming("model", tuple(options)):
        return build(options, sizes, adapts(config.learner.adapts))


def adapts(names: str) -> tuple[type, ...]:
    """The Variable types of a layer set, or of several joined by "+".

    >>> [kind.__name__ for kind in adapts("head+biases")]
    ['Head', 'Bias']
    """
    sets = [one_of("learner.adapts", name.strip(), models.ADAPTS) for name in names.split("+")]
    return tuple(dict.fromkeys(kind for name in sets for kind in models.ADAPTS[name]))


def aggregator(config: Config, mesh: Mesh | None) -> Aggregator:
    """Users to one gradient: clipped or not, in blocks or not, over the mesh's "users" or not."""
    chosen = config.learner
    made = aggregate.mean()
    if one_of("learner.aggregator", chosen.aggregator, AGGREGATORS) == "clipped":
        made = aggregate.clipped(chosen.clip)
    if chosen.block:
        made = aggregate.blocks(made, chosen.block)
    return aggregate.sharded(made, mesh) if mesh is not None and "users" in mesh.axis_names else made


def penalty(config: Config, built: Model, loop: InnerLoop) -> Penalty:
    """The sum of the penalties that ``config.continual`` names."""
    chosen = config.continual

    def one(name: str) -> Penalty:
        match one_of("continual.penalty", name, PENALTIES):
            case "anchor":
                return penalties.anchor(chosen.anchor_strength)
            case "ewc":
                return penalties.ewc(
                    objective(config),
                    built.apply,
                    loop,
                    chosen.ewc_strength,
                    decay=chosen.ewc_decay,
                    draws=chosen.ewc_draws,
                    exact=chosen.ewc_exact,
                )
        return penalties.none()

    made = [one(name) for name in chosen.penalty]
    return penalties.sum_of(*made) if len(made) > 1 else (made or [penalties.none()])[0]


def remembered(config: Config) -> Memory | None:
    """The memory that ``config.continual`` names, or None."""
    chosen = config.continual
    name = one_of("continual.memory", chosen.memory, MEMORIES)
    return memory.reservoir(chosen.capacity) if name == "reservoir" and chosen.replayed else None


def learner(config: Config, built: Model, strategy: Strategy, mesh: Mesh | None) -> Learner:
    """The outer loop of a strategy."""
    name = one_of("learner.name", strategy.learner or config.learner.name, LEARNERS)
    loss_fn = base.example_loss(built, objective(config))
    # joint training does not adapt: its penalty's Fisher information is that of the parameters as they are
    loop = inner.none() if name == "joint" else training_loop(config, built)
    options: dict[str, Any] = {"aggregator": aggregator(config, mesh)}
    if strategy.remembers:
        options["penalty"] = penalty(config, built, loop)
    steps = optimizing.optimizer(config, built.groups)
    if name == "maml" and config.learner.root:
        options["root"] = config.learner.root
    if name == "multi_step":
        first = training_loop(config, built, first_order=True) if config.learner.second_from else None
        options |= {"anneal": config.learner.anneal, "second_from": config.learner.second_from, "first_order": first}
    needed = (loss_fn, steps) if name == "joint" else (loss_fn, loop, steps)
    made = LEARNERS[name](*needed, **options)
    made = learners.serial(made) if config.learner.serial else made
    kept, chosen = remembered(config) if strategy.remembers else None, config.continual
    return made if kept is None else learners.replay(made, kept, chosen.replayed, draws=chosen.draws)


def mesh_for(config: Config, there: tuple[Device, ...]) -> Mesh | None:
    """Several devices share the seeds where they divide evenly, else each step's users."""
    if len(there) < 2:
        return None
    axis = "seeds" if config.seeds % len(there) == 0 else "users"
    return Mesh(np.array(there), (axis,), axis_types=(AxisType.Auto,))
