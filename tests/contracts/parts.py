"""Models, objectives, sources and baselines with small inputs: cases made from the entries.

Inputs follow from the facts of an entry: the kind of inputs that a model takes, and the kind of targets that it
predicts. ``EPISODES`` is written out: its source reads files.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metapers import baselines, keys, models, scores, tasks
from metapers.base import Batch, Cohort, Key, Model, Objective, Stream, Task, Tree
from metapers.members import build, registry, sections
from metapers.models.facts import ModelFacts
from metapers.options import NONE, Choice
from metapers.tasks.facts import SourceFacts

PACKAGES = (baselines, models, scores, tasks)
"""The packages whose members the cases are made of; importing them fills the registries."""

Section = Mapping[str, Any]

ROWS = 4
"""Examples of every input."""


def numbers(*shape: int) -> jax.Array:
    """Fixed inputs of a shape."""
    return jax.random.normal(jax.random.key(5), shape)


def words() -> jax.Array:
    """Four sequences of five, with padding and one token that is in no table."""
    return jnp.array([[1, 2, 3, 4, 5], [6, 0, 0, 0, 0], [0, 0, 2, 6, 1], [3, 3, 3, 9, 0]], jnp.int32)


def films() -> dict[str, jax.Array]:
    """Four films, two of them in no table."""
    return {
        "item": jnp.array([1, 7, 0, 99], jnp.int32),
        "genres": jnp.eye(4)[:, :3],
        "year": jnp.linspace(-1.0, 1.0, 4),
        "year_missing": jnp.array([0.0, 1.0, 0.0, 0.0]),
    }


def rated_films() -> dict[str, jax.Array]:
    """Four films, each with the two that its user rated before it; one user had rated one, one none."""
    past = {f"past_{name}": jnp.stack([leaf, leaf[::-1]], 1) for name, leaf in films().items() if name != "item"}
    there = jnp.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    return films() | past | {"past_rating": jnp.linspace(1.0, 5.0, 8).reshape(4, 2), "past_there": there}


# kind of inputs -> (what a model must know of them, the inputs)
INPUTS: dict[str, tuple[dict[str, int], Callable[[], Tree]]] = {
    "vectors": ({"width": 3}, lambda: numbers(ROWS, 3)),
    "points": ({"width": 3}, lambda: numbers(ROWS, 1)),
    "images": ({"width": 1}, lambda: numbers(ROWS, 10, 10, 1)),
    "large images": ({"width": 1}, lambda: numbers(ROWS, 16, 16, 1)),
    "characters": ({"vocabulary": 7, "length": 5}, words),
    "rows": ({"items": 6}, lambda: jnp.array([1, 6, 0, 99], jnp.int32)),
    "films": ({"items": 7, "genres": 3}, films),
    "films with history": ({"items": 7, "genres": 3, "history": 2}, rated_films),
}
# kind of targets -> targets
TARGETS: dict[str, Callable[[], jax.Array]] = {
    "numbers": lambda: jnp.linspace(1.0, -1.0, ROWS),
    "points": lambda: numbers(ROWS, 3),
    "classes": lambda: jnp.array([0, 2, 1, 1], jnp.int32) % 2,
    "characters": lambda: jnp.array([[1, 4, 2, 0, 0], [3] + 4 * [0], 5 * [0], [2, 2, 1, 6, 5]], jnp.int32),
}


# Models


class ModelCase(NamedTuple):
    """A model of an entry, inputs and targets."""

    section: Section
    inputs: str  # of INPUTS
    targets: str  # of TARGETS

    def model(self) -> Model:
        """The model for these inputs and targets."""
        sizes = INPUTS[self.inputs][0] | ({"classes": 2} if self.targets == "classes" else {})
        return build("model", self.section, {"sizes": sizes})

    @property
    def transductive(self) -> bool:
        """Whether rows of a batch see each other: the normalisation that is chosen says so."""
        name = self.section.get("norm", {"name": NONE})["name"]
        return name != NONE and "transductive" in registry("norm")[name].traits


@cache
def model_cases() -> dict[str, ModelCase]:
    """The example and the variants of every model, and of every member that is an option of a model.

    The example is there for every kind of inputs and of targets that the model takes, a variant for the last.
    """
    found: dict[str, ModelCase] = {}
    for name in registry("model"):
        for place, (label, section) in enumerate(sections("model", name)):
            fitting = list(_fitting(section))
            assert fitting, f"model {name!r}: no inputs in tests/contracts/parts.py for {registry('model')[name].facts}"
            for kinds in fitting if place == 0 else fitting[-1:]:
                _add(found, f"{_short(label, section)}, {' to '.join(kinds)}", ModelCase(section, *kinds))
    for kind in ("head", "norm"):
        for label, section in sections(kind):
            hosted = _hosted(kind, section)
            _add(found, f"{kind}: {label}", ModelCase(hosted, *list(_fitting(hosted))[-1]))
    return found


def _add(found: dict[str, ModelCase], label: str, case: ModelCase) -> None:
    if case not in found.values():
        found[label] = case


def _fitting(section: Section) -> Iterator[tuple[str, str]]:
    facts = registry("model")[section["name"]].facts or ModelFacts()
    known = facts.targets
    if "head" in section:
        known = tuple(one for one in known if one in registry("head")[section["head"]["name"]].facts.targets)
    for inputs in facts.inputs:
        inputs = f"{inputs} with history" if facts.history else inputs
        inputs = f"large {inputs}" if section.get("pool", False) else inputs
        yield from ((inputs, targets) for targets in known if inputs in INPUTS and targets in TARGETS)


def _hosted(kind: str, section: Section) -> Section:
    for _, host in sections("model"):
        for key, option in registry("model")[host["name"]].options.items():
            if isinstance(option, Choice) and option.kind == kind:
                return {**host, key: section}
    raise LookupError(f"{kind} must be the kind of an option of a model")


def _short(label: str, section: Section) -> str:
    for value in section.values():
        if isinstance(value, Mapping):
            label = label.replace(str(dict(value)), value["name"])
    return label


def support(case: ModelCase) -> Batch:
    """Inputs and targets of a case as examples of one user."""
    return Batch(INPUTS[case.inputs][1](), TARGETS[case.targets](), jnp.ones(ROWS, bool))


# Objectives


class ObjectiveCase(NamedTuple):
    """An objective with outputs of a model and targets."""

    objective: Objective
    outputs: Tree
    targets: jax.Array


def objective_case(name: str) -> ObjectiveCase:
    """An objective with the outputs of the first model that needs it.

    Raises:
      LookupError: for an objective that no model and no source has.
    """
    for case in model_cases().values():
        if objective_of(case) == name:
            user = support(case)
            outputs = jax.jit(partial(_adapted_outputs, case.model()))(user, keys.root(3))
            return ObjectiveCase(registry("objective")[name].factory(), outputs, user.targets)
    raise LookupError(f"objective must be that of a model or of a source, got {name!r}")


def _adapted_outputs(model: Model, user: Batch, key: Key) -> Tree:
    params = model.init(key)
    params = params._replace(personal=model.write(params, user, None))
    return model.apply(params, user.inputs, user.mask, None)


def objective_of(case: ModelCase) -> str:
    """The objective of a model's outputs: its own, else that of sources with such targets."""
    facts = registry("model")[case.section["name"]].facts or ModelFacts()
    of_sources = {(one.facts or SourceFacts()).targets: one.facts for _, one in registry("source").items()}
    return facts.objective(case.section) or (of_sources[case.targets] or SourceFacts()).objective


# Sources


def pages() -> dict[str, np.ndarray]:
    """Small images of eight classes in every split, four of each class."""
    rng = np.random.default_rng(0)
    return {split: rng.integers(0, 256, (8, 4, 5, 5, 1), np.uint8) for split in ("train", "validation", "test")}


def reads_files(name: str) -> bool:
    """Whether a source can be read from files: it has tests of its own."""
    return "path" in registry("source").options(name)


EPISODES: dict[str, Callable[[], Stream]] = {
    "episodes": lambda: tasks.episodes(pages(), ways=3, queries=2, rotations=(0, 1), periods=3, episodes=4)
}
"""What a source that reads files is made with, on small data."""


def streams() -> dict[str, Callable[[], Stream]]:
    """A stream of three periods of every source that is computed."""
    made = [name for name in registry("source") if not reads_files(name)]
    found = {
        label: partial(build, "source", section, {})
        for label, section in sections("source", *made, more={"periods": 3})
    }
    return found | EPISODES


def check_times(stream: Stream, tasks: Task) -> None:
    """Holds the times of a source's cohorts and of stacked tasks that it drew against what ``base`` says of them."""
    for part in (tasks.support, tasks.query):
        for days in (part.time, part.available):
            assert days is not None and days.shape == part.mask.shape, "times: one for each example of a task"
            assert days.dtype == jnp.zeros(()).dtype and bool(jnp.isfinite(days).all()), "times: finite floats"
            assert not days[~part.mask].any(), "times: zeros where a task is padded"
        assert bool((part.available >= part.time).all()), "available: not before the example"
    asked = [(split, period) for split in ("validation", "test") for period in (*range(stream.periods), None)]
    for cohort in (*(stream.held_out(*one) for one in asked), stream.training(0), stream.training(None)):
        owner = np.repeat(np.arange(len(cohort.users)), np.diff(cohort.offsets))
        for days in (cohort.time, cohort.available):
            assert days is not None and days.shape == owner.shape, "times: one for each example of a cohort"
            assert days.dtype == np.float32 and np.isfinite(days).all(), "times: finite float32"
        assert (cohort.available >= cohort.time).all(), "available: not before the example"
        assert (np.diff(cohort.time)[np.diff(owner) == 0] >= 0).all(), "times: they never fall within a user"


# Baselines


def cohorts() -> dict[str, Cohort]:
    """Three users with 5, 1 and 4 examples of each kind of targets that a baseline predicts."""
    rng = np.random.default_rng(0)
    offsets, users, each = np.array([0, 5, 6, 10]), np.arange(3, dtype=np.int32), np.zeros(10, np.int32)
    there = np.ones((10, 2))
    past = {"bias": np.zeros(10), "past_there": there, "past_rating": 2 + there, "past_bias": 0 * there}
    films = {"item": np.arange(10, dtype=np.int32) % 4, **past}
    words = rng.integers(0, 5, (2, 10, 6)).astype(np.int32)

    def cohort(inputs: Tree, targets: np.ndarray) -> Cohort:
        return Cohort(inputs, targets, offsets, users, np.zeros(3, np.int32), np.zeros(3, bool), each)

    return {
        "ratings": cohort(films, rng.normal(size=10) + 3),
        "classes": cohort(rng.normal(size=(10, 3)), rng.integers(0, 3, 10).astype(np.int32)),
        "characters": cohort(words[0], words[1]),
    }
