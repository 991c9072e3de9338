"""The next rating by a GRU and by a decoder against numpy; what a prediction may depend on, and what it must."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import models
from metapers.models.rating_sequence import places
from tests.test_sequence_models import assert_close, dense, directly, drawn, merged, sigmoid, unit

pytestmark = pytest.mark.xdist_group("rating_sequence")  # the tests share programs

KEY = jax.random.key(0)
MASK = np.ones(4, bool)
MAKERS = {
    "rating_gru": lambda **options: models.rating_gru(3, hidden=4, **options),
    "rating_transformer": lambda layers=2, **options: models.rating_transformer(
        3, history=3, width=4, heads=2, layers=layers, **options
    ),
}


def example(length=3):
    """Four users: with a whole past, with one film, with two, with none; genres, years and stars of all differ."""
    rng = np.random.default_rng(0)
    films = lambda *shape: {
        "genres": rng.integers(0, 2, (*shape, 3)).astype(float),
        "year": rng.normal(size=shape),
        "year_missing": rng.integers(0, 2, shape).astype(float),
        "count": rng.uniform(0, 5, shape),
        "bias": rng.normal(size=shape),
    }
    there = np.array([[1, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0]], float)
    past = {f"past_{name}": leaf for name, leaf in films(4, 3).items()}
    past |= {"past_rating": rng.uniform(0.5, 5, (4, 3)), "past_there": there}
    past = {name: leaf[:, 3 - length :] for name, leaf in past.items()}
    return jax.tree.map(jnp.asarray, films(4) | past)


@cache
def prepared(name):
    """A model without what may be added for a user, its parameters, and (params, inputs) -> outputs."""
    model = MAKERS[name]()
    return model, drawn(model), jax.jit(lambda params, inputs: model.apply(params, inputs, MASK, None))


@cache
def with_all_that_is_added(name):
    """A model with it, and (params, inputs) -> ((the sum over the outputs, these), the slopes)."""
    model = MAKERS[name](film=True, low_rank=2)

    def total(params, inputs):
        outputs = model.apply(params, inputs, MASK, None)
        return jnp.sum(outputs), outputs

    return drawn(model), jax.jit(jax.value_and_grad(total, has_aux=True))


def outputs_and_parameters(name, added):
    """Of the example."""
    if not added:
        _, params, apply = prepared(name)
        return apply(params, example()), params
    params, of = with_all_that_is_added(name)
    return of(params, example())[0][1], params


def described(inputs, name=""):
    """What a film is described by, in numpy: [..., genres + 5]."""
    genres, year, missing, count, bias = (
        np.asarray(inputs[f"{name}{part}"]) for part in ("genres", "year", "year_missing", "count", "bias")
    )
    year = np.where(missing > 0, 0, np.tanh(year))
    share = genres / np.sqrt(np.maximum(genres.sum(-1), 1))[..., None]
    return np.concatenate([share, np.stack([year, year**2, missing, count / 3 - 0.7, bias], -1)], -1)


def sequence(inputs, row):
    """The places of one user that are there, in order: [length, genres + 7]."""
    past = [
        np.append(described(inputs, "past_")[row, i], [float(inputs["past_rating"][row, i]) - 3.5 - bias, 1.0])
        for i, bias in enumerate(np.asarray(inputs["past_bias"][row]))
        if inputs["past_there"][row, i]
    ]
    return np.stack([*past, np.append(described(inputs)[row], [0.0, 0.0])])


def rated(p, inputs, row, state):
    now = described(inputs)[row]
    return 3.5 + now[-1] + dense(p["head"], np.append(state, now))[0]


@pytest.mark.parametrize("added", [False, True])
def test_the_gru_by_hand(added):
    outputs, params = outputs_and_parameters("rating_gru", added)
    p, expected, inputs = merged(params), [], jax.tree.map(np.asarray, example())
    for row in range(4):
        h = np.zeros(4)
        for x in sequence(inputs, row):
            gates, own = dense(p["input"], x), dense(p["recurrent"], h)
            if added:
                gates = gates * p["film_input"]["scale"] + p["film_input"]["shift"]
            reset, update = sigmoid(gates[:4] + own[:4]), sigmoid(gates[4:8] + own[4:8])
            h = (1 - update) * np.tanh(gates[8:] + reset * own[8:]) + update * h
        read = h * p["film_hidden"]["scale"] + p["film_hidden"]["shift"] if added else h
        expected.append(rated(p, inputs, row, read))
    assert_close(outputs, np.array(expected), 1e-11)


@pytest.mark.parametrize("added", [False, True])
def test_the_transformer_by_hand(added):
    outputs, params = outputs_and_parameters("rating_transformer", added)
    p, expected, inputs = merged(params), [], jax.tree.map(np.asarray, example())
    for row in range(4):
        x = dense(p["enter"], sequence(inputs, row))
        x = (x + p["positions"][-len(x) :])[None]  # the present film is always the last place
        seen = np.tril(np.ones((1, x.shape[1], x.shape[1]), bool))
        for i in range(2):
            block = p[f"block_{i}"]
            films = [block.get(f"film_{j}", {"scale": 1.0, "shift": 0.0}) for j in range(2)]
            y = unit(block["norm_0"], x) * films[0]["scale"] + films[0]["shift"]
            heads = [dense(block[name], y).reshape(1, -1, 2, 2) for name in ("query", "key", "value")]
            x = x + dense(block["out"], directly(*heads, seen).reshape(x.shape))
            y = dense(block["up"], unit(block["norm_1"], x) * films[1]["scale"] + films[1]["shift"])
            x = x + dense(block["down"], 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))))
        expected.append(rated(p, inputs, row, unit(p["norm"], x)[0, -1]))
    assert_close(outputs, np.array(expected), 1e-10)


def test_the_last_block_computes_the_present_film_alone():
    model, inputs = MAKERS["rating_transformer"](), example()
    traced = jax.make_jaxpr(lambda params: model.apply(params, inputs, MASK, None))(drawn(model))
    shapes = [e.outvars[0].aval.shape for e in traced.eqns if e.primitive.name == "dot_general"]
    hidden = [shape for shape in shapes if shape[-1] == 4 * 4]  # of the blocks' networks, 4 times the width
    assert [int(np.prod(shape[:-1])) for shape in hidden] == [4 * 4, 4], shapes


@pytest.mark.parametrize("name", MAKERS)
def test_what_lies_where_nothing_was_rated_is_not_seen_not_even_a_nan(name):
    (params, value), inputs = with_all_that_is_added(name), example()
    absent = np.asarray(inputs["past_there"]) == 0

    def rubbish(path, leaf):
        if not path[0].key.startswith("past_") or path[0].key == "past_there":
            return leaf
        return np.where(absent if leaf.ndim == 2 else absent[..., None], np.nan, leaf)

    clean, other = value(params, inputs), value(params, jax.tree.map_with_path(rubbish, inputs))
    assert_close(clean, other, 0)
    assert all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(clean))


@pytest.mark.parametrize("name", MAKERS)
def test_a_rating_depends_on_each_rating_before_it_and_on_no_other_example(name):
    (_, params, apply), inputs = prepared(name), example()
    slopes = jax.jit(jax.jacobian(lambda stars: apply(params, inputs | {"past_rating": stars})))(inputs["past_rating"])
    inputs, all_four = jax.tree.map(np.asarray, inputs), np.asarray(apply(params, inputs))
    own = np.einsum("iil->il", np.asarray(slopes))
    assert ((np.abs(own) > 1e-6) == (np.asarray(inputs["past_there"]) > 0)).all()
    assert not np.asarray(slopes)[~np.eye(4, dtype=bool)].any()
    for row in range(4):
        among_itself = apply(params, jax.tree.map(lambda leaf, row=row: leaf[[row] * 4], inputs))
        assert_close(among_itself, all_four[[row] * 4])
    order = np.array([2, 0, 1])  # the order of what was rated counts
    turned = {name: leaf[:, order] if name.startswith("past_") else leaf for name, leaf in inputs.items()}
    assert abs(float(np.asarray(apply(params, turned))[0] - all_four[0])) > 1e-6


def test_a_longer_history_with_nothing_in_it_is_the_shorter_one():
    (_, params, apply), longer = prepared("rating_gru"), jax.tree.map(np.array, example())
    longer["past_there"][:, 0] = 0.0
    shorter = {name: leaf[:, 1:] if name.startswith("past_") else leaf for name, leaf in longer.items()}
    assert_close(apply(params, longer), apply(params, shorter))
    x, there = jax.jit(lambda told: places(told, 3.5))(shorter)
    assert x.shape == (4, 3, 10) and there.tolist() == [
        [True] * 3,
        [False, True, True],
        [True] * 3,
        [False, False, True],
    ]


@pytest.mark.parametrize("name", MAKERS)
def test_count_and_bias_need_not_be_given(name):
    (_, params, apply), inputs = prepared(name), example()
    bare = {key: leaf for key, leaf in inputs.items() if key.removeprefix("past_") not in ("count", "bias")}
    told = {key: leaf for key, leaf in inputs.items() if key not in bare}
    zero = {key: np.full(leaf.shape, 2.1 if "count" in key else 0.0) for key, leaf in told.items()}
    assert_close(apply(params, bare), apply(params, bare | zero))


@pytest.mark.parametrize("name", MAKERS)
def test_a_rating_begins_near_what_is_known_of_the_film(name):
    model, inputs = MAKERS[name](**({"layers": 1} if name == "rating_transformer" else {})), example()
    begin = jax.jit(jax.vmap(lambda key: model.apply(model.init(key), inputs, MASK, None)))
    start = np.asarray(begin(jax.random.split(KEY, 50)))
    assert np.std(start - 3.5 - np.asarray(inputs["bias"])) < 0.2


@pytest.mark.parametrize(
    ("name", "adapts", "expected"),
    [
        ("rating_gru", "personal", {"head", "recurrent", "film_input", "film_hidden"}),
        ("rating_gru", "head", {"head"}),
        ("rating_gru", "low_rank", {"recurrent", "head"}),
        ("rating_gru", "film", {"film_input", "film_hidden"}),
        ("rating_transformer", "personal", {"head", "block_0", "block_1"}),
        ("rating_transformer", "head", {"head"}),
        ("rating_transformer", "low_rank", {"block_0", "block_1"}),
        ("rating_transformer", "film", {"block_0", "block_1"}),
    ],
)
def test_layer_sets(name, adapts, expected):
    params = jax.eval_shape(MAKERS[name](film=True, low_rank=1, adapts=models.ADAPTS[adapts]).init, KEY)
    assert set(params.personal) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.rating_gru(0), "genres must be >= 1, got 0"),
        (lambda: models.rating_gru(3, hidden=0), "hidden must be >= 1, got 0"),
        (lambda: models.rating_gru(3, low_rank=-1), "low_rank must be >= 0, got -1"),
        (lambda: models.rating_transformer(3, history=0), "history must be >= 1, got 0"),
        (lambda: models.rating_transformer(3, history=2, layers=0), "layers must be >= 1, got 0"),
        (lambda: models.rating_transformer(3, history=2, width=6), "heads must be a divisor of width = 6, got 4"),
        (
            lambda: jax.eval_shape(
                lambda params: MAKERS["rating_transformer"]().apply(params, example(2), MASK, None),
                drawn(MAKERS["rating_transformer"]()),
            ),
            "past_there must have 3 places, got 2",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
