"""Options that the state carries: a penalty with other values runs the same compiled program."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys, penalties, trees
from metapers.members import build, filled, registry
from metapers.options import ConfigError
from metapers.spec import check, choose, config_for
from tests.contracts import short_run, table, world

pytestmark = pytest.mark.xdist_group("carried")

KEY = keys.root(0)


def carried_section(name, **options):
    return filled("penalty", {"name": name, **registry("penalty")[name].example, **options})


def draw(i):
    return world.tasks(7)


def compiled(made):
    """The end of a period and the value with its gradient, as programs."""
    consolidate = jax.jit(lambda state, params: made.consolidate(state, params, draw, KEY))
    return consolidate, jax.jit(jax.value_and_grad(made.value, argnums=1))


def penalty(section):
    return build("penalty", section, table.context(table.standard()), key=f"penalties.{section['name']}")


@cache
def program(name):
    """The programs of a carried penalty, whatever its values."""
    return compiled(penalty(carried_section(name)))


LOOP = table.context(table.standard())["inner_loop"]
PLAIN = {
    "anchor": penalties.anchor,
    "ewc": partial(penalties.ewc, table.OBJECTIVE, table.MODEL.apply, LOOP, draws=2),
}


@pytest.mark.parametrize(
    ("name", "options"),
    [("anchor", {"strength": 3.0}), ("ewc", {"strength": 3.0}), ("ewc", {"strength": 0.5, "decay": 0.5})],
)
def test_a_carried_penalty_is_the_plain_one_with_its_values_in_the_state(name, options):
    made, plain = penalty(carried_section(name, **options)), PLAIN[name](**options)
    params = jax.jit(table.MODEL.init)(KEY)
    params = params._replace(inner=LOOP.init(params))
    moved = jax.tree.map(lambda x: x + 0.1, params)
    state, other = made.init(params), plain.init(params)
    assert state.values.keys() == {key for key, one in registry("penalty")[name].options.items() if one.traced}
    assert all(isinstance(one, jax.Array) for one in state.values.values())
    assert {key: float(state.values[key]) for key in options} == options
    (consolidate, value), (plain_consolidate, plain_value) = program(name), compiled(plain)
    for _ in range(2):
        state, other = consolidate(state, params), plain_consolidate(other, params)
        assert world.distance(state.state, other) < 1e-12
        found, wanted = value(state, moved), plain_value(other, moved)
        assert world.distance(found, wanted) < 1e-12 and float(found[0]) > 0
    observed = made.observe(state, params, moved, moved)
    assert world.distance(observed, state) == 0.0
    user = jax.tree.map(lambda leaf: leaf[0], world.tasks(7)[0])
    assert float(made.on_task(state, params, moved, user, KEY)) == float(plain.on_task(other, params, moved, user, KEY))


def learner_of(name, strength):
    return table.maml(penalty=penalty(carried_section(name, strength=strength)))


@cache
def weak_run(name):
    """A run under strength 1, and where it ends."""
    run = short_run.Run(learner_of(name, 1.0))
    return run, run.through(run.start(), periods=range(3))


def test_two_strengths_share_one_compiled_program():
    # the contracts ask the same of every carried option
    weak, end = weak_run("anchor")
    strong = short_run.Run(learner_of("anchor", 10.0), program=weak.program)
    ends = [end, strong.through(strong.start(), periods=range(3))]
    assert weak.traced == {"update": 1, "consolidate": 1, "forget": 1}
    assert [float(end.penalty.values["strength"]) for end in ends] == [1.0, 10.0]
    apart = [trees.squared_norm(trees.subtract(end.params, end.penalty.state.anchor)) for end in ends]
    assert world.distance(*(end.params for end in ends)) > 1e-6 and all(np.isfinite(one) for one in apart)


def test_seeds_with_strengths_of_their_own_are_trained_together():
    run, state = weak_run("anchor")
    both = jax.tree.map(lambda leaf: jnp.asarray(np.stack([leaf, leaf])), state)
    both = both._replace(penalty=both.penalty._replace(values={"strength": np.array([1.0, 10.0])}))
    tasks, mask = world.tasks(9)
    update = jax.jit(jax.vmap(world.on_batch(run.learner), in_axes=(0, None, None, None)))
    together, _ = update(both, tasks, mask, KEY)
    together, _ = update(together, tasks, mask, KEY)
    for place, strength in enumerate((1.0, 10.0)):
        own = state._replace(penalty=state.penalty._replace(values={"strength": np.asarray(strength)}))
        for _ in range(2):
            own, _ = run.update(own, tasks, mask, KEY)
        assert world.distance(jax.tree.map(lambda leaf, place=place: np.asarray(leaf)[place], together), own) < 1e-12


def test_what_is_carried_keeps_the_type_of_the_parameters():
    made = penalty(carried_section("anchor"))
    values = lambda: jax.eval_shape(lambda: made.init(table.MODEL.init(KEY)).values)
    with jax.enable_x64(False):
        assert values()["strength"].dtype == jnp.float32
    assert values()["strength"].dtype == jnp.float64


def test_a_value_beyond_its_bound_is_refused_before_it_is_carried():
    with pytest.raises(ConfigError) as error:
        penalty(carried_section("anchor", strength=-1.0))
    assert (error.value.key, error.value.value) == ("penalties.anchor.strength", -1.0)


@pytest.mark.parametrize("name", ["anchor", "ewc"])
@pytest.mark.parametrize("strength", [0.0, -1.0, None])
def test_a_config_with_a_penalty_without_effect_is_refused(name, strength):
    config = config_for("linear_gaussian", "linear")
    choose(config, "penalties", {name: {"strength": 0.5}})
    assert check(config).penalties[name].strength == 0.5
    config.penalties[name].strength = strength
    with pytest.raises(ConfigError) as error:
        check(config)
    assert error.value.key == f"penalties.{name}.strength" and error.value.value == strength
    assert error.value.bound == "a number > 0"
    choose(config, "penalties", (name,))
    with pytest.raises(ConfigError) as error:
        check(config)
    assert (error.value.key, error.value.value) == (f"penalties.{name}.strength", None)
