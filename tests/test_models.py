"""The seam to NNX and the models behind it."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metapers import base, inner, members, models, trees
from metapers.models import kinds, layers, seam
from metapers.options import ConfigError
from metapers.scores import objectives

pytestmark = pytest.mark.xdist_group("models")  # two tests share the programs of SMALL

KEY = jax.random.key(0)


class Film(seam.Personal):
    """A group with a name of its own."""


class Two(nnx.Module):
    """y = (x W + b) · w · film, with a list inside and dropout that takes its key at the call."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([layers.Dense(2, 3, rngs)])
        self.weights = seam.Personal(jax.random.normal(rngs.params(), (3,)))
        self.film = Film(jnp.ones(3))

    def __call__(self, x, *, mask, key=None):
        hidden = self.layers[0](x)
        if key is not None:
            hidden = jnp.where(jax.random.bernoulli(key, 0.5, hidden.shape), hidden, 0.0)
        return hidden @ (self.weights[...] * self.film[...])


def rows(n, *shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, *shape)))


def assert_close(a, b, tolerance=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def ratings(n, genres=4):
    rng = np.random.default_rng(3)
    found = {
        "item": rng.integers(0, 7, n),
        "genres": np.where(rng.random((n, genres)) < 0.4, 1.0, 0.0),
        "year": rng.normal(size=n),
        "year_missing": np.where(np.arange(n) == 2, 1.0, 0.0),
        "count": np.log1p(np.arange(float(n))),
        "bias": np.linspace(-0.5, 0.6, n),
    }
    return jax.tree.map(jnp.asarray, found)


def sequences(n):
    return jnp.asarray(1 + (np.arange(4 * n) ** 2 % 5).reshape(n, 4))


SMALL = {
    "mlp": (lambda: models.mlp([2, 3, 1]), lambda n: rows(n, 2), (1,)),
    "mlp_scalar": (lambda: models.mlp([2, 3, 1], scalar=True), lambda n: rows(n, 2), ()),
    "mlp_head": (lambda: models.mlp([2, 3, 1], adapts=(seam.Personal,)), lambda n: rows(n, 2), (1,)),
    "linear": (lambda: models.linear(3), lambda n: rows(n, 3), ()),
    "point": (lambda: models.point(3), lambda n: rows(n, 1), (3,)),
    "embedding_mlp": (lambda: models.embedding_mlp(6, (2, 3, 1)), lambda n: jnp.arange(n) % 6, (1,)),
    "embedding_mlp_scalar": (
        lambda: models.embedding_mlp(6, (2, 3, 1), scalar=True),
        lambda n: jnp.arange(n) % 6,
        (),
    ),
    "mlp_added": (lambda: models.mlp([2, 3, 3, 1], context=2, film=True, low_rank=2), lambda n: rows(n, 2), (1,)),
    "conv4": (lambda: models.conv4(3, 2), lambda n: rows(n, 9, 9, 1), (3,)),
    "conv4_pool": (lambda: models.conv4(3, 2, pool=True, norm=models.layer_norm()), lambda n: rows(n, 16, 16, 1), (3,)),
    "conv4_support": (lambda: models.conv4(3, 2, norm=models.support_norm()), lambda n: rows(n, 9, 9, 1), (3,)),
    "conv4_film": (lambda: models.conv4(3, 2, norm=models.no_norm(), film=True), lambda n: rows(n, 9, 9, 1), (3,)),
    "gru": (lambda: models.gru(6, embed=2, hidden=3, film=True, low_rank=1), sequences, (4, 6)),
    "transformer": (
        lambda: models.transformer(6, length=4, width=4, heads=2, layers=1, film=True, low_rank=1),
        sequences,
        (4, 6),
    ),
    "recommender": (lambda: models.recommender(6, 4, features=2, hidden=3), ratings, ()),
    "recommender_tables": (lambda: models.recommender(6, 4, tables=True, features=2, hidden=3), ratings, ()),
}


def drawn(model, seed=5):
    """Parameters with no weight at its first value: zeros would hide a parameter that is not used."""
    rng, around = np.random.default_rng(seed), lambda path: 1.0 if path[-1].key == "scale" else 0.0
    weights = lambda path, x: jnp.asarray(around(path) + 0.5 * rng.normal(size=x.shape), x.dtype)
    return jax.tree.map_with_path(weights, jax.eval_shape(model.init, KEY))


def started(model, key=KEY):
    return jax.jit(model.init)(key)


def shaped(model):
    """Shapes and types of the first parameters."""
    return jax.eval_shape(model.init, KEY)


def outputs_of(model, params, inputs, mask=None, key=None):
    """Of all rows, if no mask is given."""
    mask = jnp.ones(len(jax.tree.leaves(inputs)[0]), bool) if mask is None else mask
    return jax.jit(model.apply)(params, inputs, mask, key)


def test_seam_returns_plain_dicts_by_type():
    params = shaped(models.model(Two, (seam.Personal,)))
    assert jax.tree.map(jnp.shape, params) == base.Params(
        {"layers": {"0": {"kernel": (2, 3), "bias": (3,)}}}, {"weights": (3,), "film": (3,)}, {}
    )
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(params))


def test_seam_apply_equals_the_module_called():
    model, x, mask = models.model(Two), rows(5, 2), jnp.ones(5, bool)

    @jax.jit
    def both(key):
        module, params = Two(nnx.Rngs(key)), model.init(key)
        called = module(x, mask=mask), module(x, mask=mask, key=key)
        return called, (model.apply(params, x, mask, None), model.apply(params, x, mask, key))

    (plain, dropped), ours = both(KEY)
    assert_close(ours, (plain, dropped))
    assert not np.allclose(plain, dropped)


def test_seam_init_is_a_function_of_the_key_and_maps_over_seeds():
    model, seeds = models.model(Two), jax.random.split(KEY, 3)
    stacked = jax.jit(jax.vmap(model.init))(seeds)
    assert_close(jax.tree.map(lambda x: x[1], jax.device_get(stacked)), started(model, seeds[1]))
    assert not np.allclose(stacked.personal["weights"][0], stacked.personal["weights"][1])


def test_seam_many_list_entries_keep_their_places():
    class Deep(nnx.Module):
        def __init__(self, rngs):
            self.w = nnx.List([seam.Personal(jnp.full(1, 10.0**-i)) for i in range(12)])

        def __call__(self, x, *, mask, key=None):
            total = x
            for i, w in enumerate(self.w):  # a sum in which every weight has its own factor
                total = total + (i + 1) * w[...]
            return total

    model = models.model(Deep)
    expected = sum((i + 1) * 10.0**-i for i in range(12))
    assert_close(outputs_of(model, started(model), jnp.zeros(1)), np.array([expected]))


def test_seam_vmap_over_personal_equals_a_loop():
    model, x, mask = models.model(Two), rows(4, 2), jnp.ones(4, bool)
    params = drawn(model)
    users = jax.tree.map(lambda leaf: np.asarray(leaf)[None] * np.arange(1.0, 4.0)[:, None], params.personal)
    apply = lambda personal: model.apply(params._replace(personal=personal), x, mask, None)
    alone = jax.jit(apply)
    one_by_one = [alone(jax.tree.map(lambda leaf: leaf[i], users)) for i in range(3)]  # noqa: B023
    assert_close(jax.jit(jax.vmap(apply))(users), np.stack(one_by_one))


def test_seam_gradient_inside_a_scan_equals_finite_differences():
    model, x, mask = models.model(Two), rows(4, 2), jnp.ones(4, bool)
    params = drawn(model)

    @jax.jit
    def value(params):
        step = lambda total, row: (total + jnp.sum(jnp.sin(model.apply(params, row[None], mask[:1], None))), None)
        return jax.lax.scan(step, jnp.zeros(()), x)[0]

    direction = drawn(model, 9)
    moved = lambda size: value(jax.tree.map(lambda p, d: np.asarray(p) + size * np.asarray(d), params, direction))
    slopes = jax.jit(jax.grad(value))(params)
    slope = sum(np.sum(np.asarray(g) * d) for g, d in zip(*map(jax.tree.leaves, (slopes, direction)), strict=True))
    np.testing.assert_allclose(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-8)


def test_seam_everything_adapts():
    params = shaped(models.model(Two, seam.EVERYTHING))
    assert params.shared == {}
    assert set(params.personal) == {"layers", "weights", "film"}


def test_seam_one_type_of_personal_leaves_its_parent_shared():
    params = shaped(models.model(Two, (Film,)))
    assert (set(params.personal), set(params.shared)) == ({"film"}, {"layers", "weights"})


def test_seam_groups_come_from_the_types():
    model = models.model(Two)
    params = shaped(model)._replace(inner={"rates": {"weights": jnp.ones(3)}})
    assert model.groups(params) == base.Params(
        {"layers": {"0": {"kernel": "param", "bias": "param"}}},
        {"weights": "personal", "film": "film"},
        {"rates": {"weights": "inner"}},
    )


def test_seam_write_keeps_the_personal_parameters():
    model = models.model(Two)
    params, support = drawn(model), base.Batch(rows(2, 2), rows(2), jnp.ones(2, bool))
    assert_close(model.write(params, support, None), params.personal, 0)


def assert_refused(build, adapts, message):
    with pytest.raises(ValueError, match=message):
        models.model(build, adapts)


def test_seam_refuses_nothing_personal():
    assert_refused(lambda rngs: layers.Dense(2, 2, rngs), (seam.Personal,), r"got \(Personal\) and none has it")


def test_seam_refuses_running_statistics():
    class Statistics(nnx.Module):
        def __init__(self):
            self.weights, self.mean = seam.Personal(jnp.zeros(2)), nnx.BatchStat(jnp.zeros(2))

    assert_refused(lambda rngs: Statistics(), (seam.Personal,), "nnx.Param, got BatchStat at mean")


def test_seam_refuses_kept_random_state():
    class Random(nnx.Module):
        def __init__(self, rngs):
            self.weights, self.drop = seam.Personal(jnp.zeros(2)), nnx.Dropout(0.5, rngs=rngs)

    assert_refused(Random, (seam.Personal,), "got Rng(Count|Key) at drop/rngs")


def test_seam_refuses_bare_arrays():
    class Bare(nnx.Module):
        def __init__(self):
            self.weights, self.table = seam.Personal(jnp.zeros(2)), nnx.data(jnp.zeros(2))

    assert_refused(
        lambda rngs: Bare(), (seam.Personal,), "every array of a module must be an nnx.Param, got .* at table"
    )


@pytest.mark.parametrize("kind", [seam.Personal, nnx.Param])
def test_seam_refuses_integers(kind):
    class Integers(nnx.Module):
        def __init__(self):
            self.weights, self.codes = seam.Personal(jnp.zeros(2)), kind(jnp.arange(2))

    assert_refused(lambda rngs: Integers(), (seam.Personal,), f"must be floating, got int.* {kind.__name__} at codes")


def test_seam_refuses_parameters_of_another_structure():
    model = models.model(Two)
    params = drawn(model)._replace(personal={"weights": jnp.ones(3)})
    with pytest.raises(
        ValueError, match=r"params.personal must have the keys \['film', 'weights'\], got \['weights'\]"
    ):
        model.apply(params, rows(2, 2), jnp.ones(2, bool), None)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(5, 7), (8, 6), (1, 2)])
def test_conv_patches_equals_the_convolution(stride, size):
    x, kernel = rows(3, *size, 2), rows(3, 3, 2, 4, seed=2)

    def convolution(x, kernel):
        sides = ((1, 1), (1, 1))
        return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    ours = lambda x, kernel: layers.conv_patches(x, kernel, stride)
    weights = rows(*jax.eval_shape(ours, x, kernel).shape, seed=4)

    def with_slopes(f):
        outputs, back = jax.vjp(f, x, kernel)
        return outputs, back(weights)

    assert_close(*jax.jit(lambda: (with_slopes(ours), with_slopes(convolution)))(), 1e-10)


def test_conv_patches_refuses():
    with pytest.raises(ValueError, match="stride must be >= 1, got 0"):
        layers.conv_patches(rows(1, 4, 4, 1), rows(3, 3, 1, 2), 0)
    with pytest.raises(ValueError, match=r"kernel must be \[3, 3, 1, filters\], got \[3, 3, 2, 2\]"):
        layers.conv_patches(rows(1, 4, 4, 1), rows(3, 3, 2, 2))


def test_embed_row_zero_serves_unknown_ids():
    def embedded(ids):
        embed = layers.Embed(4, 2, nnx.Rngs(0))
        return embed.table[...], embed(ids)

    table, found = jax.device_get(jax.jit(embedded)(jnp.array([[3, 0], [4, -1]])))
    assert_close(found, table[np.array([[3, 0], [0, 0]])], 0)


def test_dense_starts_with_variance_one_over_inputs_and_no_bias():
    def made(x):
        dense = layers.Dense(400, 50, nnx.Rngs(0))
        kernel, bias = dense.kernel[...], dense.bias[...]
        dense.bias[...] = jnp.arange(50.0)
        return kernel, bias, dense(x)

    x = rows(2, 3, 400)
    kernel, bias, outputs = jax.device_get(jax.jit(made)(x))
    assert abs(np.var(kernel) * 400 - 1) < 0.03
    assert_close(bias, np.zeros(50), 0)
    assert_close(outputs, np.asarray(x) @ kernel + np.arange(50.0))


@cache
def small(name):
    """A model, parameters, seven rows, and (params, inputs, mask) -> the slopes of a sum over the outputs, these."""
    make, inputs_of, shape = SMALL[name]
    model = make()

    def total(params, inputs, mask):
        outputs = model.apply(params, inputs, mask, None)
        return jnp.sum(jnp.sin(3.0 * outputs)), outputs

    return model, drawn(model), inputs_of(7), shape, jax.jit(jax.grad(total, has_aux=True))


@pytest.mark.parametrize("name", SMALL)
def test_model_shapes_and_masked_rows(name):
    model, params, inputs, shape, slopes_and_outputs = small(name)
    mask = jnp.array([True, True, False, True, False, True, True])
    outputs = slopes_and_outputs(params, inputs, mask)[1]
    assert outputs.shape == (7, *shape)
    spoilt = jax.tree.map(np.array, inputs)
    for leaf in jax.tree.leaves(spoilt):
        leaf[2], leaf[4] = 1, 0
    again = slopes_and_outputs(params, spoilt, mask)[1]
    assert_close(np.asarray(outputs)[mask], np.asarray(again)[mask])
    assert jax.tree.structure(model.groups(params)) == jax.tree.structure(params)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_of_a_model_matters(name):
    _, params, inputs, _, slopes_and_outputs = small(name)
    slopes = slopes_and_outputs(params, inputs, jnp.ones(7, bool))[0]
    largest = [float(np.abs(leaf).max()) for leaf in jax.tree.leaves(slopes)]
    dead = {path for path, size in zip(trees.names(slopes), largest) if size < 1e-9}
    # A norm takes the bias of the convolution before it away again; what adds to all scores alike, the softmax.
    expected = {"conv4": {f"personal/conv_{i}/bias" for i in range(4)}, "transformer": {"shared/block_0/key/bias"}}
    assert dead == expected.get(name, set())


def test_mlp_by_hand():
    model = models.mlp([1, 2, 1])
    layer = lambda w, b: {"kernel": jnp.array(w), "bias": jnp.array(b)}
    personal = {"dense_0": layer([[1.0, -1.0]], [0.0, 1.0]), "dense_1": layer([[2.0], [3.0]], [0.5])}
    params = base.Params({}, personal, {})
    outputs = outputs_of(model, params, jnp.array([[2.0], [-3.0]]))
    assert_close(outputs, np.array([[2 * 2 + 3 * 0 + 0.5], [2 * 0 + 3 * 4 + 0.5]]))
    assert jax.tree.structure(jax.eval_shape(model.init, KEY)) == jax.tree.structure(params)
    scalar = outputs_of(models.mlp([1, 2, 1], scalar=True), params, jnp.array([[2.0], [-3.0]]))
    assert_close(scalar, np.asarray(outputs)[:, 0])


def test_mlp_with_what_is_added_by_hand():
    model = models.mlp([1, 2, 1], context=2, film=True, low_rank=1)
    k = iter(range(9))
    draw = lambda *shape: rows(*shape, seed=next(k))
    dense = lambda a, b: {"kernel": draw(a, b), "bias": draw(b), "down": draw(a, 1), "up": draw(1, b)}
    personal = {"context": jnp.array([0.5, -1.0]), "film_0": {"scale": jnp.array([2.0, -1.0]), "shift": draw(2)}}
    personal |= {"dense_0": dense(3, 2), "dense_1": dense(2, 1)}
    assert jax.tree.map(jnp.shape, jax.eval_shape(model.init, KEY).personal) == jax.tree.map(jnp.shape, personal)
    array = np.asarray
    through = lambda layer, x: (
        x @ (array(layer["kernel"]) + array(layer["down"]) @ array(layer["up"])) + array(layer["bias"])
    )
    whole = np.array([[2.0, 0.5, -1.0], [-3.0, 0.5, -1.0]])
    film = jax.tree.map(np.asarray, personal["film_0"])
    hidden = np.maximum(through(personal["dense_0"], whole) * film["scale"] + film["shift"], 0)
    outputs = outputs_of(model, base.Params({}, personal, {}), jnp.array([[2.0], [-3.0]]))
    assert_close(outputs, through(personal["dense_1"], hidden))


@pytest.mark.parametrize(
    ("adapts", "personal"),
    [
        ("context", {"context": (5,)}),
        ("film", {"film_0": {"scale": (4,), "shift": (4,)}}),
        ("head", {"dense_1": {"kernel": (4, 1), "bias": (1,)}}),
        ("biases", {"dense_0": {"bias": (4,)}, "dense_1": {"bias": (1,)}}),
        (
            "low_rank",
            {"dense_0": {"down": (7, 2), "up": (2, 4)}, "dense_1": {"down": (4, 2), "up": (2, 1)}},
        ),
    ],
)
def test_mlp_layer_sets_name_what_is_personal_and_change_nothing_at_first(adapts, personal):
    model = models.mlp([2, 4, 1], context=5, film=True, low_rank=2, adapts=models.ADAPTS[adapts])
    # operation by operation: the cases have the same ones
    params, x, mask = model.init(KEY), rows(3, 2), jnp.ones(3, bool)
    assert jax.tree.map(jnp.shape, params.personal) == personal
    assert params.shared["dense_0"].get("kernel", jnp.zeros(0)).shape == (7, 4)
    simple = models.mlp([7, 4, 1])
    plain = jax.eval_shape(simple.init, KEY).personal  # the same weights under inputs with five zeros beside them
    known = params
    weights = {
        name: {
            leaf: (known.shared | known.personal)[name].get(leaf, known.shared.get(name, {}).get(leaf))
            for leaf in layer
        }
        for name, layer in plain.items()
    }
    padded = jnp.asarray(np.concatenate([x, np.zeros((3, 5))], 1))
    expected = simple.apply(base.Params({}, weights, {}), padded, mask, None)
    assert_close(model.apply(params, x, mask, None), expected)


def test_linear_by_hand():
    model = models.linear(2)
    params = started(model)
    assert_close(params, base.Params({"map": np.eye(2)}, {"weights": np.zeros(2)}, {}), 0)
    params = base.Params({"map": jnp.array([[1.0, 2.0], [3.0, 4.0]])}, {"weights": jnp.array([10.0, 1.0])}, {})
    assert_close(outputs_of(model, params, jnp.array([[5.0, 6.0]])), np.array([170.0 + 39.0]))


def test_point_repeats_the_personal_vector():
    model = models.point(2)
    params = drawn(model)._replace(personal={"weights": jnp.array([1.0, 2.0])})
    assert_close(outputs_of(model, params, rows(3, 1)), np.array([[1.0, 2.0]] * 3), 0)


def test_conv4_depends_on_the_other_rows():
    model, x, mask = models.conv4(2, 3), rows(3, 8, 8, 1), jnp.ones(3, bool)
    params, apply = drawn(model), jax.jit(model.apply)
    first = apply(params, x, mask, None)[0]
    other = apply(params, np.asarray(x) * np.array([1.0, 1.0, 3.0])[:, None, None, None], mask, None)[0]
    assert not np.allclose(first, other)


def test_under_a_head_of_zeros_the_first_step_moves_the_head_alone_towards_its_classes():
    model, x, mask = models.conv4(4, 4, head_scale=0.0), rows(6, 8, 8, 1), jnp.ones(6, bool)
    params, targets = started(model), jnp.array([0, 1, 2, 3, 1, 2])
    says = params.personal | {"head": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}  # what the head is given

    def loss(personal):
        outputs = model.apply(params._replace(personal=personal), x, mask, None)
        return -jnp.mean(jax.nn.log_softmax(outputs)[jnp.arange(6), targets]), outputs

    slopes = jax.jit(jax.grad(loss, has_aux=True))
    (_, features), (slope, _) = slopes(says), slopes(params.personal)
    assert all(not np.any(leaf) for part, leaf in slope.items() if part != "head" for leaf in jax.tree.leaves(leaf))
    towards, head = (np.eye(4)[np.asarray(targets)] - 0.25) / 6, jax.tree.map(np.asarray, slope["head"])
    assert_close(-head["kernel"], np.asarray(features).T @ towards, 1e-10)  # of uniform answers
    assert_close(-head["bias"], towards.sum(0), 1e-10)


def test_a_head_from_class_means_answers_as_prototypes_do():
    whole, solved = models.conv4(3, 4, prototypes=True), models.embedded(models.conv_body(4), models.prototypes(3))
    params, theirs = drawn(whole), started(solved)
    body = {name: leaf for name, leaf in params.personal.items() if name != "head"}
    theirs = theirs._replace(shared={"body": body})
    x, targets = rows(7, 9, 9, 1), jnp.array([0, 1, 2, 1, 0, 2, 1])
    support = base.Batch(x.at[6].set(jnp.nan), targets, jnp.arange(7) < 6)  # padding is not read
    queries, all_of_it = rows(4, 9, 9, 1, seed=5), jnp.ones(4, bool)

    def answers(model, params):
        written = params._replace(personal=model.write(params, support, None))
        return written.personal, jax.nn.log_softmax(model.apply(written, queries, all_of_it, None))

    (written, ours), (_, prototypes) = jax.jit(lambda *params: tuple(map(answers, (whole, solved), params)))(
        params, theirs
    )
    assert_close(ours, prototypes, 1e-10)
    assert np.ptp(ours) > 1e-3
    assert_close(body, {name: leaf for name, leaf in written.items() if name != "head"}, 0)


def test_a_class_without_an_example_is_far_below_and_no_example_at_all_leaves_the_head():
    model = models.conv4(3, 4, prototypes=True, head_scale=0.7)
    params, x, everyone = drawn(model), rows(4, 9, 9, 1), jnp.ones(4, bool)

    @jax.jit
    def write(targets, mask):
        personal = model.write(params, base.Batch(x, targets, mask), None)
        return personal, model.apply(params._replace(personal=personal), rows(4, 9, 9, 1, seed=8), everyone, None)

    logits = np.asarray(write(jnp.array([0, 2, 2, 0]), everyone)[1])
    assert np.all(logits[:, 1] <= np.minimum(logits[:, 0], logits[:, 2]) - 30)
    none, _ = write(jnp.zeros(4, int), jnp.zeros(4, bool))
    assert_close(none, params.personal, 0)


def test_the_meta_gradient_passes_through_the_head_from_class_means():
    # of a shared body, so that the step between is a short program
    model = models.conv4(2, 3, prototypes=True, adapts=models.ADAPTS["head"])
    loss_fn, params = base.example_loss(model, objectives.cross_entropy()), drawn(model)
    support = base.Batch(rows(4, 9, 9, 1), jnp.array([0, 1, 0, 1]), jnp.ones(4, bool))
    query = base.Batch(rows(4, 9, 9, 1, seed=9), jnp.array([1, 1, 0, 0]), jnp.ones(4, bool))
    loop = inner.gradient(loss_fn, 1, 0.1, write=model.write)

    @jax.jit
    @jax.value_and_grad
    def outer(params):
        adapted, _ = loop.adapt(params, support, None)
        return base.masked_mean(loss_fn(adapted, query, None), query.mask)

    slope, (layer, leaf, place) = outer(params)[1], ("conv_1", "kernel", (1, 1, 0, 2))

    def moved(by):
        kernel = np.array(params.shared[layer][leaf])
        kernel[place] += by
        return params._replace(shared=params.shared | {layer: params.shared[layer] | {leaf: kernel}})

    found = (outer(moved(1e-5))[0] - outer(moved(-1e-5))[0]) / 2e-5
    np.testing.assert_allclose(slope.shared[layer][leaf][place], found, rtol=1e-6)
    assert abs(found) > 1e-4
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope.personal["head"]))  # where it was says nothing
    inputs = np.array(support.inputs)
    inputs[3] = np.nan
    padded = base.Batch(jnp.asarray(inputs), support.targets, jnp.asarray(np.arange(4) < 3))
    means = lambda params: jnp.sum(model.write(params, padded, None)["head"]["kernel"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(means))(params)))


@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize("statistics", [False, True])
def test_recommender_by_hand(tables, statistics):
    model = models.recommender(2, 2, tables=tables, features=1, hidden=1, offset=3.0)
    kernel = np.array([[1.0], [0.0], [0.5], [0.0], [0.25], [2.0], [-1.5]])
    shared = {
        "hidden": {"kernel": jnp.array(kernel), "bias": jnp.array([0.1])},
        "output": {"kernel": jnp.array([[2.0, -1.0]]), "bias": jnp.array([0.3, 0.4])},
    }
    if tables:
        shared["bias"] = {"table": jnp.array([[0.1], [0.2], [0.3]])}
        shared["embed"] = {"table": jnp.array([[1.0], [2.0], [3.0]])}
    weights = np.array([0.5, -0.5, 0.2, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])[: 9 + tables]
    params = base.Params(shared, {"weights": jnp.array(weights)}, {})
    assert jax.tree.map(jnp.shape, jax.eval_shape(model.init, KEY)) == jax.tree.map(jnp.shape, params)
    inputs = {
        "item": jnp.array([2, 9]),
        "genres": jnp.array([[1.0, 1.0], [0.0, 0.0]]),
        "year": jnp.array([0.7, jnp.nan]),
        "year_missing": jnp.array([0.0, 1.0]),
        "count": jnp.array([3.0, 0.0]),
        "bias": jnp.array([0.25, -0.5]),
    }
    if not statistics:
        inputs = {name: inputs[name] for name in ("item", "genres", "year", "year_missing")}
    year, expected = np.tanh(0.7), []
    films = ((2, [2**-0.5, 2**-0.5, year, year**2, 0.0, 0.3, 0.25]), (0, [0.0, 0.0, 0.0, 0.0, 1.0, -0.7, -0.5]))
    for item, description in films:
        description = np.array(description if statistics else [*description[:5], 0.0, 0.0])
        net = np.tanh(float(description @ kernel[:, 0]) + 0.1)
        level = 2 * net + 0.3 + description[-1] + (0.1 * (item + 1) if tables else 0.0)
        feature = -net + 0.4 + (item + 1.0 if tables else 0.0)
        phi = np.array([1.0, feature, *description, *([level] if tables else [])])
        expected.append(3.0 + level + phi @ weights)
    assert_close(outputs_of(model, params, inputs), np.array(expected))


def test_recommender_starts_near_the_statistics_with_named_groups():
    model = models.recommender(6, 4, tables=True, features=2, hidden=3, offset=3.2)
    params, inputs = started(model), ratings(5)
    assert model.groups(params).shared["bias"] == {"table": "table"}
    assert model.groups(params).shared["hidden"] == {"kernel": "param", "bias": "param"}
    assert model.groups(params).personal == {"weights": "personal"}
    assert_close(params.personal["weights"], np.zeros(13), 0)
    gap = np.asarray(outputs_of(model, params, inputs)) - inputs["bias"] - 3.2
    assert float(np.abs(gap).max()) < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.mlp([3]), r"sizes must be at least two numbers >= 1, got \[3\]"),
        (lambda: models.mlp([3, 0]), r"sizes must be at least two numbers >= 1, got \[3, 0\]"),
        (lambda: models.mlp([3, 2], scalar=True), r"sizes must end in 1 for scalar outputs, got \[3, 2\]"),
        (lambda: models.mlp([3, 2], film=True), r"sizes must have a hidden layer for film, got \[3, 2\]"),
        (lambda: models.mlp([3, 2], context=-1), "context must be >= 0, got -1"),
        (lambda: models.mlp([3, 2], low_rank=-1), "low_rank must be >= 0, got -1"),
        (lambda: models.linear(0), "dim must be >= 1, got 0"),
        (lambda: models.point(0), "dim must be >= 1, got 0"),
        (lambda: models.embedding_mlp(0), "items must be >= 1, got 0"),
        (lambda: models.embedding_mlp(3, (2,)), r"sizes must be at least two numbers >= 1, got \[2\]"),
        (lambda: models.embedding_mlp(3, (2, 3), scalar=True), r"sizes must end in 1 for scalar outputs, got \[2, 3\]"),
        (lambda: models.conv4(2, 0), "filters must be >= 1, got 0"),
        (lambda: models.conv4(2, 3, head_scale=-1.0), "head_scale must be finite and >= 0, got -1.0"),
        (lambda: models.conv4(2, 3, head_scale=float("inf")), "head_scale must be finite and >= 0, got inf"),
        (
            lambda: models.conv4(2, 3, prototypes=True, adapts=models.ADAPTS["body"]),
            r"prototypes must be False where adapts has no Head, whose start they are, got \(Body\)",
        ),
        (lambda: models.recommender(5, 0), "genres must be >= 1, got 0"),
        (lambda: models.recommender(0, 5), "items must be >= 1, got 0"),
    ],
)
def test_factories_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_adapted_joins_layer_sets_each_type_once():
    assert kinds.adapted("head + biases+head") == (kinds.Head, kinds.Bias)
    assert kinds.adapted("all") == models.EVERYTHING


def built(name, sizes, **options):
    return members.build("model", members.filled("model", {"name": name, **options}), {"sizes": sizes})


@pytest.mark.parametrize(
    ("name", "options", "sizes", "expected"),
    [
        ("mlp", {"adapts": "all"}, {"width": 3}, lambda: models.mlp((3, 40, 40, 1), scalar=True)),
        ("mlp", {"hidden": (), "adapts": "head"}, {"width": 3, "classes": 2}, lambda: models.mlp((3, 2))),
        ("conv4", {"filters": 3, "norm": "none", "adapts": "all"}, {"width": 2, "classes": 4}, None),
        ("recommender", {}, {"items": 7, "genres": 3}, lambda: models.recommender(7, 3, tables=True)),
        ("embedding_mlp", {}, {"items": 7}, lambda: models.embedding_mlp(8, scalar=True)),
    ],
)
def test_members_are_the_factories_at_the_sizes_of_a_source(name, options, sizes, expected):
    make = expected or (lambda: models.conv4(4, 3, channels=2, norm=models.no_norm()))
    found, wanted = (jax.eval_shape(model.init, KEY) for model in (built(name, sizes, **options), make()))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, wanted)


IMAGES = {"width": 1, "classes": 2}


@pytest.mark.parametrize(
    ("name", "options", "sizes", "key", "hint"),
    [
        ("mlp", {"adapts": "head+bises"}, {"width": 3}, "model.adapts", "did you mean 'biases'?"),
        ("mlp", {"adapts": "film"}, {"width": 3}, "model.adapts", ""),
        ("mlp", {"hidden": (), "film": True}, {"width": 3}, "model.film", ""),
        ("conv4", {"filters": 6, "norm": "group"}, IMAGES, "model.filters", ""),
        ("solved_conv4", {"filters": 6, "norm": "group"}, IMAGES, "model.filters", ""),
        ("conv4", {"prototypes": True, "adapts": "body"}, IMAGES, "model.prototypes", ""),
        ("transformer", {"heads": 5}, {"vocabulary": 7, "length": 4}, "model.heads", ""),
    ],
)
def test_members_refuse_under_the_whole_key(name, options, sizes, key, hint):
    with pytest.raises(ConfigError) as refused:
        built(name, sizes, **options)
    assert (refused.value.key, refused.value.hint) == (key, hint)
    assert refused.value.value == members.filled("model", {"name": name, **options})[key.partition(".")[2]]
