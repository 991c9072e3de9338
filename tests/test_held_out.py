"""Held-out users as arrays: taken, joined, laid into blocks."""

import jax
import numpy as np
import pytest

from metapers import held_out
from tests.test_evaluate import population


def test_take_keeps_each_users_rows():
    cohort = population((3, 2, 4))
    part = held_out.take(cohort, np.array([2, 0]))
    np.testing.assert_array_equal(part.offsets, [0, 4, 7])
    np.testing.assert_array_equal(part.targets, np.concatenate([cohort.targets[5:9], cohort.targets[:3]]))
    np.testing.assert_array_equal(part.inputs["x"][4:], cohort.inputs["x"][:3])
    assert part.users.tolist() == [12, 10] and part.returning.tolist() == [True, True]


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


@pytest.mark.parametrize(("users", "size"), [(1, 1), (2, 4), (4, 4), (5, 16), (16, 16), (17, 64), (64, 64), (65, 64)])
def test_a_block_is_hardly_larger_than_what_is_in_it(users, size):
    blocks = list(held_out.blocks(np.full(users, 20), rows=2048))
    assert {len(block.members) for block in blocks} == {size} and len(blocks) == -(-users // 64)
