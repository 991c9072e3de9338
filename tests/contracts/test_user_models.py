"""One set of contracts for user models: which examples a prediction adapts on, and every inner loop and head on these.

``USERS`` names the support of each prediction, written out by hand. A model that returns its own support shows that the
prequential scan takes these examples. Then ``predict`` of every inner loop and head is ``adapt`` and ``apply`` on them.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from metapers import keys, user_models
from metapers.base import Batch, Example, InnerLoop, Model, Params, UserModel
from metapers.members import build, filled, registry, sections
from tests.contracts import parts, table, world

KEY, ROWS, SUPPORT = keys.root(11), 7, 3
DAYS = np.arange(7.0)
LATE = np.array([0, 4, 2, 3, 5.5, 7, 9])  # when targets become available that are awaited for up to three days
MIXED = np.array([0.0, 2, 1, 5, 4, 3, 6])  # the times of examples that are not observed in order of time
ALL, SOME = np.ones(7, bool), np.array([0, 1, 1, 0, 1, 1, 1], bool)

USERS = {
    # time, available, mask, the support of the prediction of each row: at most the last three in order of time
    "at once": (DAYS, DAYS, ALL, [[], [0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]),
    "late": (DAYS, LATE, ALL, [[], [0], [0], [0, 2], [1, 2, 3], [1, 2, 3], [2, 3, 4]]),
    "mixed": (MIXED, MIXED, ALL, [[], [0], [0], [0, 2, 1], [0, 2, 1], [2, 1], [5, 4, 3]]),
    "masked": (DAYS, DAYS, SOME, [[], [], [1], [], [1, 2], [1, 2, 4], [2, 4, 5]]),
}
"""With ``max_pending`` 1 a state holds four examples. So row 4 of "late" reads target 1 at the time at which it becomes
available, and row 5 reads three targets though another one is awaited."""


NO_PARAMS = Params({}, {}, {})


class Case(NamedTuple):
    """A model, an inner loop, and whether targets are classes."""

    model: Model
    inner_loop: InnerLoop
    classes: bool


def showing() -> Case:
    """The outputs of an example are its inputs, and the support and the key that its user adapted on."""

    def adapt(params: Params, support: Batch, key: Any):
        return params._replace(personal={"support": support, "key": jax.random.key_data(key)}), {}

    def apply(params: Params, inputs: Any, mask: Any, key: Any):
        assert mask.shape == (1,) and key is None
        return jax.tree.map(lambda leaf: leaf[None], params.personal) | {"inputs": inputs}

    nothing = lambda *given: {}
    return Case(Model(nothing, apply, nothing, nothing), InnerLoop(nothing, adapt), False)


@cache
def cases() -> dict[str, Case]:
    """The example of every inner loop in the small world, and every head under the inner loop ``closed_form``."""
    found = {}
    for name in registry("inner_loop"):
        section = sections("inner_loop", name)[0][1]
        loop = build("inner_loop", section, table.context(table.placed("inner_loop", section)))
        found[f"inner_loop: {name}"] = Case(table.MODEL, loop, False)
    solved = [one for one in parts.model_cases().values() if one.section["name"] == "solved"]
    for one in solved[::-1]:  # of several options of a head those that come first
        model = one.model()
        loop = build("inner_loop", filled("inner_loop", {"name": "closed_form"}), {"write": model.write})
        found[f"head: {one.section['head']['name']}"] = Case(model, loop, one.targets == "classes")
    return found


def examples_of(*, poison: float = 0.0, classes: bool = False) -> tuple[Example, np.ndarray]:
    """The examples of all users, leaves [users, rows, ...], with ``poison`` where they are masked; masks."""
    times, available, masks = (np.stack([user[at] for user in USERS.values()]) for at in range(3))
    inputs = np.random.default_rng(0).normal(size=(len(USERS), ROWS, world.DIM))
    targets = np.sin(3 * DAYS + np.arange(len(USERS))[:, None])
    targets = (targets > 0).astype(np.int32) if classes else np.where(masks, targets, poison)
    there = np.where(masks, 0.0, poison)
    marked = Example(inputs + there[..., None], targets, times + there, available + there)
    return jax.tree.map(lambda leaf: leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype)), marked), masks


def supports_of(examples: Example) -> Batch:
    """What ``USERS`` names as support of each prediction: leaves [users, rows, SUPPORT, ...], padded with zeros."""
    found = []
    for user, (_, _, _, named) in enumerate(USERS.values()):
        for rows in named:
            own = [np.zeros((SUPPORT, *leaf.shape[2:]), leaf.dtype) for leaf in (examples.inputs, examples.target)]
            for leaf, every in zip(own, (examples.inputs, examples.target), strict=True):
                leaf[: len(rows)] = np.asarray(every)[user, np.array(rows, int)]
            found.append(Batch(*own, np.arange(SUPPORT) < len(rows)))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    return jax.tree.map(lambda leaf: leaf.reshape(len(USERS), ROWS, *leaf.shape[1:]), stacked)


def spec_of(classes: bool) -> Example:
    """The shapes and types of one example."""
    examples, _ = examples_of(classes=classes)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), examples)


def readapting(case: Case, **options: int) -> UserModel:
    """The user model of a case as its entry makes it."""
    context = {"model": case.model, "inner_loop": case.inner_loop, "example_spec": spec_of(case.classes)}
    section = filled("user_model", {"name": "readapting", "max_support": SUPPORT, "max_pending": 1, **options})
    return build("user_model", section, context)


def test_a_scan_on_two_devices_adapts_on_the_last_examples_that_are_available():
    (clean, masks), (poisoned, _) = examples_of(), examples_of(poison=np.nan)
    one = lambda *own: user_models.prequential(readapting(showing()), NO_PARAMS, *own, KEY)
    users, number = PartitionSpec("users"), np.cumsum(masks, 1) - masks  # of the examples that are there

    @jax.jit
    def scan(examples, masks, number):
        outputs = jax.shard_map(jax.vmap(one), mesh=table.mesh(), in_specs=users, out_specs=users)(examples, masks)
        return outputs, jax.random.key_data(jax.vmap(lambda i: keys.named(KEY, "query", i))(number))

    found, drawn = jax.device_get(scan(poisoned, masks, number.ravel()))
    wanted = {"support": supports_of(clean), "key": drawn.reshape(*number.shape, -1), "inputs": clean.inputs}
    for user, label in enumerate(USERS):
        there, own, named = masks[user], rows_of(found, user), rows_of(wanted, user)
        gap = world.distance(rows_of(own, there), rows_of(named, there))
        assert gap == 0.0, f"supports, {label}: those that USERS names, then zeros"
        hidden = jax.tree.leaves(rows_of(own, ~there))
        assert not any(np.any(leaf) for leaf in hidden), f"masks, {label}: outputs of masked rows are 0"


def rows_of(tree: Any, at: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[at], tree)


def test_served_one_by_one_in_float32_each_function_is_compiled_once():
    with jax.enable_x64(False):
        user_model, (examples, _), traced = readapting(showing()), examples_of(), []

        def counted(function):
            return jax.jit(lambda *given: traced.append(function) or function(NO_PARAMS, *given))

        predict, observe = counted(user_model.predict), counted(user_model.observe)
        late, state = rows_of(examples, 1), user_model.start(NO_PARAMS)
        for row, time in enumerate(DAYS.tolist()):
            example = rows_of(late, row)
            outputs = predict(state, example.inputs, time, KEY)
            named = rows_of(supports_of(examples), (1, row))
            assert world.distance(outputs["support"], named) == 0.0
            state = observe(state, example._replace(available=float(LATE[row])), time, KEY)
    assert len(traced) == 2 and outputs["inputs"].dtype == jnp.float32


@cache
def after_examples(classes: bool) -> Any:
    """The states after 0, 1, 2, ... examples of the first user, leaves [rows, ...]; they hold for any model."""
    user_model, (examples, _) = readapting(showing()._replace(classes=classes)), examples_of(classes=classes)

    def step(state, example):
        return user_model.observe(NO_PARAMS, state, example, example.time, None), state

    first = rows_of(examples, 0)
    return jax.device_get(jax.jit(lambda: jax.lax.scan(step, user_model.start(NO_PARAMS), first)[1])())


def some_params(model: Model) -> Params:
    """Shared parameters of about 1, and a start of zeros, as heads in closed form have."""
    made = jax.eval_shape(model.init, KEY)
    shared = jax.tree.map(lambda leaf: np.sin(1.0 + np.arange(leaf.size)).reshape(leaf.shape), made.shared)
    return Params(shared, jax.tree.map(lambda leaf: np.zeros(leaf.shape), made.personal), {})


@pytest.mark.parametrize("name", cases())
def test_a_prediction_is_that_of_adapting_directly(name):
    case = cases()[name]
    loop = case.inner_loop._replace(adapt=jax.jit(case.inner_loop.adapt))  # traced once for both
    user_model, (examples, _) = readapting(case._replace(inner_loop=loop)), examples_of(classes=case.classes)
    supports, states, traced = supports_of(examples), after_examples(case.classes), []

    @jax.jit
    def both(params, state, time, inputs, support):
        traced.append(time)
        params = params._replace(inner=loop.init(params))
        adapted, _ = loop.adapt(params, support, KEY)
        directly = case.model.apply(adapted, inputs[None], jnp.ones(1, bool), None)
        return user_model.predict(params, state, inputs, time, KEY), rows_of(directly, 0)

    params, found = some_params(case.model), []
    for row, time in enumerate(DAYS):
        given = rows_of(states, row), time, examples.inputs[0, row], rows_of(supports, (0, row))
        predicted, wanted = jax.device_get(both(params, *given))
        assert world.distance(predicted, wanted) < 1e-10, "predict: adapt and apply"
        found.append(np.ravel(jax.tree.leaves(wanted)[0]))
    assert len(traced) == 1, "compilation: the number of examples is no shape"
    assert np.isfinite(found).all() and np.abs(found[0] - found).max() > 1e-3, "values: adapting has an effect"


@pytest.mark.parametrize("name", list(registry("user_model")))
def test_no_user_model_reads_a_target_before_it_is_available(name):
    late = rows_of(examples_of()[0], 1)
    context = table.context(table.standard()).extended(example_spec=lambda: spec_of(False))
    user_model = build("user_model", sections("user_model", name)[0][1], context)

    @jax.jit
    def scan(params, targets):
        params = params._replace(inner=context["inner_loop"].init(params))
        one = lambda own: user_models.prequential(user_model, params, late._replace(target=own), ALL, KEY)
        return jax.vmap(one)(targets)

    awaited = late.available > late.time[:, None]  # [the row that is predicted, the row of a target]
    targets = np.stack([late.target, late.target + 1, *np.where(awaited, np.nan, late.target)])
    whole, other, *parts_of = jax.device_get(scan(some_params(table.MODEL), targets))
    assert awaited[1, 1] and not awaited[4, 1] and np.isfinite(whole).all()
    assert (whole[1:] != other[1:]).all(), "values: a target that is available has an effect"
    for row, found in enumerate(parts_of):
        assert found[row] == whole[row], f"available: the prediction of row {row} reads a target that is awaited"


def test_what_is_no_example_is_refused_by_name():
    user_model, (examples, _) = readapting(showing()), examples_of()
    good, state = rows_of(examples, (0, 0)), user_model.start(NO_PARAMS)
    for wrong in (good._replace(target=good.target[None]), good._replace(target=np.int32(1))):
        with pytest.raises(ValueError, match=r"leaf 'target' must be float64\[\], got (float64\[1\]|int32\[\])"):
            user_model.observe(NO_PARAMS, state, wrong, 0.0, None)
    with pytest.raises(ValueError, match="example must have the structure"):
        user_model.observe(NO_PARAMS, state, good._replace(inputs={"x": good.inputs}), 0.0, None)
    for name, value in (("max_support", 0), ("max_pending", -1)):
        with pytest.raises(ValueError, match=f"{name} must be >= "):
            readapting(showing(), **{name: value})
