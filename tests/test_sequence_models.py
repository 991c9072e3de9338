"""The recurrent network and the decoder against numpy, what a place may see, and what is added for a user."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType

from metapers import aggregate, base, inner, learners, models, scores
from metapers.models import layers
from metapers.models.transformer import attention
from tests.contracts import world
from tests.test_models import assert_close, drawn, outputs_of, started

KEY = jax.random.key(0)
IDS = jnp.array([[3, 1, 4, 1, 5], [2, 6, 5, 3, 0], [0, 0, 2, 1, 6]], jnp.int32)
MASK = np.ones(3, bool)
MAKERS = {
    "gru": lambda **options: models.gru(7, embed=3, hidden=4, **options),
    "transformer": lambda layers=2, **options: models.transformer(
        7, length=6, width=4, heads=2, layers=layers, **options
    ),
}
ONE_LAYER = {"gru": {}, "transformer": {"layers": 1}}


pytestmark = pytest.mark.xdist_group("sequence_models")  # the tests share programs


@cache
def prepared(name, added=False):
    """A model, with what may be added for a user or without it, its parameters, and (params, ids) -> outputs."""
    model = MAKERS[name](film=added, low_rank=2 if added else 0)
    return model, drawn(model), jax.jit(lambda params, ids: model.apply(params, ids, MASK, None))


def merged(params):
    """Shared and personal parameters in one tree of numpy arrays."""

    def join(a, b):
        if not (isinstance(a, dict) and isinstance(b, dict)):
            raise AssertionError("a leaf on both sides")
        return {k: join(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k)) for k in {*a, *b}}

    return jax.tree.map(np.asarray, join(params.shared, params.personal))


def dense(layer, x):
    low = layer["down"] @ layer["up"] if "down" in layer else 0.0
    return x @ (layer["kernel"] + low) + layer["bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("added", [False, True])
def test_gru_is_the_recurrence(added):
    _, params, apply = prepared("gru", added)
    p, expected = merged(params), np.empty((3, 5, 7))
    for row in range(3):
        h = np.zeros(4)
        for place in range(5):
            token = int(IDS[row, place])
            gates = dense(p["input"], p["embed"]["table"][token])
            if added:
                gates = gates * p["film_input"]["scale"] + p["film_input"]["shift"]
            own = dense(p["recurrent"], h)
            reset, update = sigmoid(gates[:4] + own[:4]), sigmoid(gates[4:8] + own[4:8])
            new = np.tanh(gates[8:] + reset * own[8:])
            h = h if token == 0 else (1 - update) * new + update * h
            read = h * p["film_hidden"]["scale"] + p["film_hidden"]["shift"] if added else h
            expected[row, place] = dense(p["head"], read)
    assert_close(apply(params, IDS), expected, 1e-11)
    if added:  # of any length
        assert_close(apply(params, IDS[:, :1]), expected[:, :1], 1e-11)


def directly(query, key, value, seen):
    n, length, heads, size = query.shape
    result = np.zeros(query.shape)
    for row, place, head in np.ndindex(n, length, heads):
        others = [k for k in range(length) if seen[row, place, k]]
        weights = np.exp([query[row, place, head] @ key[row, k, head] / np.sqrt(size) for k in others])
        weights /= weights.sum()
        result[row, place, head] = sum(w * value[row, k, head] for w, k in zip(weights, others, strict=True))
    return result


def test_attention_is_a_weighted_mean_of_what_may_be_seen():
    query, key, value = np.random.default_rng(0).normal(size=(3, 2, 3, 2, 4))
    seen = np.array([[[1, 0, 0], [1, 1, 0], [0, 1, 1]], [[1, 1, 1], [0, 1, 0], [1, 0, 1]]], bool)
    assert_close(jax.jit(attention)(query, key, value, seen), directly(query, key, value, seen))


def unit(norm, x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * norm["scale"] + norm["shift"]


@pytest.mark.parametrize("added", [False, True])
def test_transformer_by_hand(added):
    _, params, apply = prepared("transformer", added)
    p, ids = merged(params), np.asarray(IDS)
    seen = np.tril(np.ones((3, 5, 5), bool)) & ((ids != 0)[:, None] | np.eye(5, dtype=bool))
    x = p["embed"]["table"][ids] + p["positions"][:5]
    for i in range(2):
        block = p[f"block_{i}"]
        films = [block.get(f"film_{j}", {"scale": 1.0, "shift": 0.0}) for j in range(2)]
        y = unit(block["norm_0"], x) * films[0]["scale"] + films[0]["shift"]
        heads = [dense(block[name], y).reshape(3, 5, 2, 2) for name in ("query", "key", "value")]
        x = x + dense(block["out"], directly(*heads, seen).reshape(3, 5, 4))
        y = dense(block["up"], unit(block["norm_1"], x) * films[1]["scale"] + films[1]["shift"])
        gelu = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + dense(block["down"], gelu)
    assert_close(apply(params, IDS), dense(p["head"], unit(p["norm"], x)), 1e-10)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("place", range(5))
def test_a_place_sees_itself_and_what_came_before(name, place):
    (_, params, apply), other = prepared(name, True), np.array(IDS)
    other[:, place] = [2, 1, 5]
    before, after = np.asarray(apply(params, IDS)), np.asarray(apply(params, jnp.asarray(other)))
    assert_close(before[:, :place], after[:, :place])
    moved = np.abs(before - after).max(-1)
    assert (moved[:2, place:4] > 1e-6).all()  # and everything from there on
    assert before.shape == (3, 5, 7)


@pytest.mark.parametrize("name", MAKERS)
def test_nobody_sees_padding(name):
    _, params, apply = prepared(name)
    table = np.array(params.shared["embed"]["table"])
    table[0] += np.arange(float(table.shape[1]))  # by different amounts: a norm would take equal ones away
    other = params._replace(shared=params.shared | {"embed": {"table": table}})
    there = np.asarray(IDS) != 0
    one, two = (np.asarray(apply(p, IDS)) for p in (params, other))
    assert_close(one[there], two[there])
    empty = apply(params, jnp.zeros_like(IDS))
    assert np.isfinite(empty).all()


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_added_for_a_user_changes_nothing_at_first(name):
    whole = {"adapts": models.EVERYTHING} | ONE_LAYER[name]
    plain, added = MAKERS[name](**whole), MAKERS[name](**whole, film=True, low_rank=2)
    start = drawn(plain)

    def over(new, old):
        return {k: over(v, old[k]) if isinstance(v, dict) and k in old else old.get(k, v) for k, v in new.items()}

    params = started(added)
    params = params._replace(personal=over(params.personal, start.personal))
    assert_close(outputs_of(added, params, IDS), outputs_of(plain, start, IDS), 1e-13)
    assert len(jax.tree.leaves(params)) > len(jax.tree.leaves(start))


@pytest.mark.parametrize(
    ("name", "adapts", "expected"),
    [
        ("gru", "personal", {"head", "recurrent", "film_input", "film_hidden"}),
        ("gru", "head", {"head"}),
        ("gru", "low_rank", {"recurrent", "head"}),
        ("gru", "film", {"film_input", "film_hidden"}),
        ("transformer", "personal", {"head", "block_0", "block_1"}),
        ("transformer", "low_rank", {"block_0", "block_1"}),
        ("transformer", "film", {"block_0", "block_1"}),
    ],
)
def test_layer_sets_of_sequence_models(name, adapts, expected):
    params = jax.eval_shape(MAKERS[name](film=True, low_rank=1, adapts=models.ADAPTS[adapts]).init, KEY)
    assert set(params.personal) == expected
    if (name, adapts) == ("transformer", "low_rank"):
        assert jax.tree.map(jnp.shape, params.personal["block_0"]) == {
            "query": {"down": (4, 1), "up": (1, 4)},
            "value": {"down": (4, 1), "up": (1, 4)},
        }


def learner(model, aggregator):
    loss_fn = base.example_loss(model, scores.next_token())
    return learners.maml(loss_fn, inner.gradient(loss_fn, 2, 0.3), optax.sgd(0.5), aggregator=aggregator)


@pytest.mark.parametrize("name", MAKERS)
def test_sequence_models_learn_alike_on_one_device_and_on_two(name):
    # all that a user may have of the recurrence, whose scan is in every step; no more than the head of the decoder
    adapts = models.ADAPTS["personal" if name == "gru" else "head"]
    model = MAKERS[name](adapts=adapts, **ONE_LAYER[name])
    ids = np.random.default_rng(3).integers(0, 7, (4, 2, 6), np.int32)
    part = base.Batch(jnp.asarray(ids[..., :-1]), jnp.asarray(ids[..., 1:]), jnp.ones((4, 2), bool))
    start = drawn(model)
    users = jnp.arange(4, dtype=jnp.int32)
    tasks, mask = base.Task(part, part, users, {"period": jnp.zeros_like(users)}), jnp.ones(4, bool)
    mesh = jax.make_mesh((2,), ("users",), axis_types=(AxisType.Auto,))
    found = []
    for aggregator in (aggregate.mean(), aggregate.sharded(aggregate.mean(), mesh)):
        one = learner(model, aggregator)
        step = lambda start, one=one: world.on_batch(one)(one.init(start, tasks), tasks, mask, KEY)
        state, info = jax.jit(step)(start)
        found.append((one.params(state), info["losses"]))
    assert_close(*found, 1e-10)
    assert not np.allclose(found[0][0].shared["embed"]["table"], start.shared["embed"]["table"])


def test_dense_low_rank_is_a_product_on_top_of_the_kernel():
    numbers, beside = np.random.default_rng(0), jnp.arange(3.0)
    x, up = jnp.asarray(numbers.normal(size=(3, 2))), jnp.asarray(numbers.normal(size=(2, 4)))

    @jax.jit
    def made():
        layer, plain = layers.Dense(5, 4, nnx.Rngs(0), low_rank=2), layers.Dense(5, 4, nnx.Rngs(0))
        kernel, down, first_up = layer.kernel[...], layer.down[...], layer.up[...]
        layer.up[...], layer.bias[...] = up, jnp.arange(4.0)
        wide = layers.Dense(400, 50, nnx.Rngs(0), low_rank=50)
        return kernel, plain.kernel[...], down, first_up, layer(x, beside), wide.down[...]

    kernel, plain, down, first_up, outputs, wide = jax.device_get(made())
    assert_close(kernel, plain, 0)
    assert (down.shape, first_up.shape) == ((5, 2), (2, 4))
    whole = np.concatenate([np.asarray(x), np.tile(np.arange(3.0), (3, 1))], 1)
    assert_close(outputs, whole @ (kernel + down @ np.asarray(up)) + np.arange(4.0))
    assert abs(np.var(wide) * 400 - 1) < 0.03


def test_layer_norm_of_rows():
    norm, x = layers.LayerNorm(4), jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, (2, 3, 4)))
    norm.scale[...], norm.shift[...] = jnp.arange(1.0, 5.0), jnp.arange(4.0)
    assert_close(norm(x), unit({"scale": np.arange(1.0, 5.0), "shift": np.arange(4.0)}, np.asarray(x)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.gru(0), "vocabulary must be >= 1, got 0"),
        (lambda: models.gru(3, hidden=0), "hidden must be >= 1, got 0"),
        (lambda: models.gru(3, low_rank=-1), "low_rank must be >= 0, got -1"),
        (lambda: models.transformer(3, length=0), "length must be >= 1, got 0"),
        (lambda: models.transformer(3, length=2, width=6, heads=4), "heads must be a divisor of width = 6, got 4"),
        (lambda: models.transformer(3, length=2, low_rank=-1), "low_rank must be >= 0, got -1"),
        (
            lambda: jax.eval_shape(
                lambda params: models.transformer(3, length=2).apply(
                    params, jnp.ones((1, 3), jnp.int32), np.ones(1, bool), None
                ),
                drawn(models.transformer(3, length=2)),
            ),
            "inputs must have at most 2 places, the model's length, got 3",
        ),
    ],
)
def test_sequence_models_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()
