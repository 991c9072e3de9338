"""Held-out users as arrays: taken, joined, laid into blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import held_out
from metapers.base import InnerLoop, Model, Params, hide_padding
from metapers.scoring.adapting import adaptation
from tests.contracts import world
from tests.test_evaluate import population


def test_take_keeps_each_users_rows():
    cohort = population((3, 2, 4))
    part = held_out.take(cohort, np.array([2, 0]))
    np.testing.assert_array_equal(part.offsets, [0, 4, 7])
    np.testing.assert_array_equal(part.targets, np.concatenate([cohort.targets[5:9], cohort.targets[:3]]))
    np.testing.assert_array_equal(part.inputs["x"][4:], cohort.inputs["x"][:3])
    assert part.users.tolist() == [12, 10] and part.returning.tolist() == [True, True]
    assert part.time.tolist() == [5, 6, 7, 8, 0, 1, 2] and (part.available == part.time + 0.5).all()
    assert held_out.take(cohort._replace(time=None, available=None), np.array([1])).time is None


def test_the_rows_of_a_batch_have_their_times_and_an_adaptation_sees_no_others():
    cohort, members, counts = population((3, 2, 4)), np.array([2, 0]), np.array([3, 2, 2])
    support = held_out.batch(cohort, members, np.array([0, 0, 1]), counts, 3)
    assert support.time.dtype == support.available.dtype == np.zeros(()).dtype
    assert support.time[support.mask].tolist() == [6, 7, 0, 1, 2]
    np.testing.assert_array_equal(support.available, support.time + 0.5)
    assert held_out.batch(cohort._replace(time=None, available=None), members, 0 * counts, counts, 3).time is None

    def adapt(params, support, key):  # personal parameters that say which times an inner loop is given
        found = {"time": support.time, "available": support.available}
        return params._replace(personal=found), jax.tree.map(lambda leaf: leaf[None], found)

    model = Model(lambda key: None, lambda params, inputs, mask, key: jnp.zeros(len(mask)), None, None)
    begun = {name: np.zeros((1, 3)) for name in ("time", "available")}
    compiled = adaptation(model, InnerLoop(lambda params: {}, adapt), steps=(0,), width=3)
    found, _ = compiled.entries(Params({}, begun, {}), cohort, counts, members)
    assert found["time"][0, :, 0].tolist() == [[5, 6, 0], [0, 1, 2]]
    assert found["available"][0, :, 0].tolist() == [[5.5, 6.5, 0], [0.5, 1.5, 2.5]]


def test_hidden_padding_has_no_time():
    tasks, mask = world.tasks(0)
    hidden = hide_padding(world.tasks(0, poisoned=True)[0], mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(hidden))
    keep = np.asarray(hidden.support.mask)
    for name in ("time", "available"):
        found, given = getattr(hidden.support, name), getattr(tasks.support, name)
        np.testing.assert_array_equal(found, np.where(keep, given, 0))


def test_users_whose_examples_differ_in_time_alone_are_two():
    cohort = population((2, 2))
    same = cohort._replace(inputs={"x": np.zeros((4, 3))}, targets=np.zeros(4))
    assert held_out.distinct(same)[1].tolist() == [0, 1]
    known = same._replace(time=np.zeros(4), available=np.array([0, 1, 0, 1]))
    assert held_out.distinct(known)[1].tolist() == [0, 0]
    assert held_out.distinct(known._replace(available=np.array([0, 1, 0, 2])))[1].tolist() == [0, 1]


def test_a_span_is_what_take_gives_without_a_copy():
    cohort = population((3, 2, 4, 6))
    part = held_out.span(cohort, slice(1, 3))
    jax.tree.map(np.testing.assert_array_equal, part, held_out.take(cohort, np.array([1, 2])))
    for name in ("targets", "example_periods", "users"):
        assert np.shares_memory(getattr(part, name), getattr(cohort, name)), name
    whole = list(held_out.parts(cohort.offsets, 5))
    assert whole == [slice(0, 2), slice(2, 3), slice(3, 4)]  # 5, 4 and 6 examples: a user is never cut


def test_merged_is_the_reverse_of_take():
    cohort = population((3, 2, 4, 6))
    parts = [held_out.take(cohort, np.array(members)) for members in ([0, 1], [2], [3])]
    jax.tree.map(np.testing.assert_array_equal, held_out.merged(parts), cohort)
    with pytest.raises(ValueError, match="cohorts must be at least one"):
        held_out.merged([])


@pytest.mark.parametrize("options", [{}, {"users": 3}, {"users": 4, "multiple": 2}, {"users": 1, "multiple": 2}])
def test_blocks_hold_every_user_once_in_rows_enough_and_no_more_users_than_asked(options):
    n_query = np.array([5, 40, 32, 1, 33, 200, 7, 128, 600, 31])
    blocks = list(held_out.blocks(n_query, rows=1024, **options))
    assert sorted(user for block in blocks for user in block.members[: block.count]) == list(range(10))
    multiple = options.get("multiple", 1)
    for block in blocks:
        size = len(block.members)
        assert size % multiple == 0 and size <= max(multiple, min(options.get("users", 32), 1024 // block.width))
        assert (n_query[block.members] <= block.width).all()
        assert block.width == 32 or (n_query[block.members] > block.width // 4).all()  # no wider than it need be
        assert set(block.members[block.count :]) <= {block.members[block.count - 1]}
    assert len({(len(block.members), block.width) for block in blocks}) == len({block.width for block in blocks})


@pytest.mark.parametrize(("users", "size"), [(1, 16), (5, 16), (16, 16), (17, 64), (64, 64), (65, 64)])
def test_a_block_is_hardly_larger_than_what_is_in_it(users, size):
    blocks = list(held_out.blocks(np.full(users, 20), rows=2048))
    assert {len(block.members) for block in blocks} == {size} and len(blocks) == -(-users // 64)
