"""The reservoir: odds by enumeration and by chi-square, forgetting by bytes, a reference that goes one by one."""

import itertools
from collections import Counter
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys, trees
from metapers.memory import reservoir
from metapers.memory.reservoir import _last_writers, _slots

KEY = keys.root(0)
SPEC = {"x": jax.ShapeDtypeStruct((2,), jnp.float64), "id": jax.ShapeDtypeStruct((), jnp.int32)}


@cache
def compiled(capacity):
    """A reservoir whose functions are one program each, and its state when new."""
    memory = reservoir(capacity)
    insert, sample = jax.jit(memory.insert), jax.jit(memory.sample, static_argnums=1)
    empty = jax.jit(lambda: memory.init(SPEC))()
    return memory._replace(insert=insert, sample=sample, forget=jax.jit(memory.forget)), empty


def items_of(ids, xp=np):
    ids = xp.asarray(ids, xp.int32)
    wide = ids.astype(xp.float64)
    return {"x": xp.stack([wide + 0.25, wide + 0.5], axis=1), "id": ids}


def put(memory, state, ids, users=None, mask=None, key=KEY, rows=6):
    """Insert items numbered from 1 (0 means empty); by default each one is its own user's.

    Up to ``rows`` items have masked ones behind them, so that they share a program.
    """
    users, mask = list(ids if users is None else users), list([True] * len(ids) if mask is None else mask)
    behind = [0] * max(rows - len(ids), 0)
    ids, users, mask = [*ids, *behind], np.array([*users, *behind], np.int32), np.array([*mask, *behind], bool)
    return memory.insert(state, *jax.tree.map(jnp.asarray, (items_of(ids), users, {}, mask)), key)


def held(state):
    return sorted(np.asarray(state.items["id"])[np.asarray(state.users) >= 0].tolist())


def stream(memory, key, total, batch):
    """``total`` items numbered from 1, in batches, each batch with its own key."""

    def step(state, i):
        ids = i * batch + jnp.arange(1, batch + 1, dtype=jnp.int32)
        there, own = jnp.ones(batch, bool), keys.named(key, "batch", i)
        return memory.insert(state, items_of(ids, jnp), ids, {}, there, own), state.seen

    return jax.lax.scan(step, memory.init(SPEC), jnp.arange(total // batch, dtype=jnp.int32))


def consistent(state):
    """Every leaf of a slot belongs to the same item; an empty slot holds zeros."""
    ids, full = np.asarray(state.items["id"]), np.asarray(state.users) >= 0
    expected = np.where(full[:, None], ids[:, None] + np.array([0.25, 0.5]), 0.0)
    np.testing.assert_array_equal(state.items["x"], expected)
    assert np.all(ids[~full] == 0)


# -- equal odds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity, total", [(1, 4), (2, 4), (3, 5), (4, 3)])
def test_by_enumeration_every_subset_is_equally_likely(capacity, total):
    # the s-th item draws one of 0 .. s - 1: every combination of draws is equally likely, and so must be every content
    place = jax.jit(
        lambda draws: _last_writers(_slots(jnp.full((capacity,), -1), jnp.ones(total, bool), draws), capacity)
    )
    count = Counter()
    for draws in itertools.product(*(range(s) for s in range(1, total + 1))):
        content = [-1] * capacity
        for item, slot in enumerate(np.asarray(place(jnp.array(draws, jnp.int32)))):
            if slot < capacity:
                assert content[slot] == -1  # no slot is written twice in one batch
                content[slot] = item
        count[frozenset(content) - {-1}] += 1
    subsets = [frozenset(c) for c in itertools.combinations(range(total), min(capacity, total))]
    assert set(count) == set(subsets) and len(set(count.values())) == 1


@pytest.mark.parametrize("batch", [4, 8])
def test_every_item_ever_seen_has_the_same_odds(batch):
    capacity, total, runs = 6, 24, 3000
    memory = reservoir(capacity)
    run = lambda i: stream(memory, keys.named(KEY, "odds", i), total, batch)[0]
    states = jax.jit(jax.vmap(run))(np.arange(runs))
    ids = np.asarray(states.items["id"])
    assert np.all(np.sort(ids, axis=1)[:, 1:] > np.sort(ids, axis=1)[:, :-1]) and ids.min() == 1  # full, no copies
    p = capacity / total
    count = np.bincount(ids.ravel(), minlength=total + 1)[1:]
    z = (count / runs - p) / np.sqrt(p * (1 - p) / runs)
    assert np.max(np.abs(z)) < 4.5
    # the counts add up to runs * capacity: z'z * (total - 1) / total is chi-square of total - 1 degrees of freedom
    chi2 = np.sum(z**2) * (total - 1) / total
    assert 5.1 < chi2 < 65  # chi2(23): beyond either bound less than once in 20,000


def test_the_first_item_beyond_capacity_is_dropped_with_odds_one_in_capacity_plus_one():
    # the famous off-by-one draws from 0 .. s or 0 .. s - 2 here: odds 2/5 or 0 instead of 1/4
    capacity, runs = 3, 4000
    memory = reservoir(capacity)
    states = jax.jit(jax.vmap(lambda i: stream(memory, keys.named(KEY, "first", i), 4, 4)[0]))(np.arange(runs))
    dropped = np.mean(~np.any(np.asarray(states.items["id"]) == 4, axis=1))
    assert abs(dropped - 1 / 4) < 4.5 * np.sqrt(3 / 16 / runs)


def test_everything_is_held_until_the_memory_is_full():
    memory, state = compiled(6)
    for n, ids in enumerate([[1, 2], [3], [4, 5, 6]]):
        state = put(memory, state, ids)
        assert held(state) == list(range(1, ids[-1] + 1)) and int(state.seen) == ids[-1], n
    consistent(state)


@jax.jit
def draw(key, s):
    return jax.random.randint(keys.named(key, "reservoir", s), (), 0, s, jnp.int32)


@pytest.mark.parametrize("batch", [1, 3, 12])
def test_a_batch_equals_its_items_one_by_one(batch):
    capacity, content = 4, [0] * 4
    memory, state = compiled(capacity)
    for i in range(12 // batch):
        ids = list(range(i * batch + 1, (i + 1) * batch + 1))
        key = keys.named(KEY, "step", i)
        state = put(memory, state, ids, key=key, rows=0)
        for s in ids:  # item s is the s-th ever seen: Algorithm R as it is written down
            j = int(draw(key, s))
            slot = s - 1 if s <= capacity else j
            if slot < capacity:
                content[slot] = s
    assert state.items["id"].tolist() == content == state.users.tolist()
    consistent(state)


# -- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 3, 9])
def test_masked_items_change_nothing_wherever_they_stand(before):
    memory, start = compiled(4)
    start = put(memory, start, list(range(1, before + 1))) if before else start
    clean = put(memory, start, [21, 22, 23], rows=0)
    padded = put(memory, start, [90, 21, 91, 22, 23, 92], mask=[False, True, False, True, True, False])
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(padded), strict=True):
        np.testing.assert_array_equal(a, b)
    ownerless = put(memory, start, [21, 90, 22, 23], users=[21, -1, 22, 23], rows=0)
    np.testing.assert_array_equal(ownerless.items["id"], clean.items["id"])
    assert int(ownerless.seen) == before + 3


# -- sample --------------------------------------------------------------------------------------------------------


def test_sample_draws_filled_slots_without_replacement_and_uniformly():
    runs, (memory, empty) = 4000, compiled(8)
    state = memory.forget(put(memory, empty, [1, 2, 3, 4, 5, 6]), 2)  # a hole in the middle, two at the end
    sample = lambda i: memory.sample(state, 3, keys.named(KEY, "sample", i))
    items, slots, mask = jax.jit(jax.vmap(sample))(np.arange(runs))
    ids = np.asarray(items["id"])
    np.testing.assert_array_equal(np.asarray(state.items["id"])[np.asarray(slots)], ids)
    assert np.all(mask) and ids.shape == (runs, 3) and items["x"].shape == (runs, 3, 2)
    assert all(len(set(row)) == 3 for row in ids.tolist())
    np.testing.assert_array_equal(np.asarray(items["x"])[..., 0], ids + 0.25)
    for place in range(3):  # every place of the sample is uniform over the five that are there
        count = np.bincount(ids[:, place], minlength=7)
        assert count[0] == count[2] == 0
        assert np.all(np.abs(count[[1, 3, 4, 5, 6]] / runs - 0.2) < 4.5 * np.sqrt(0.2 * 0.8 / runs))


@pytest.mark.parametrize("n", [1, 3, 6])
def test_sample_from_fewer_masks_the_surplus(n):
    memory, empty = compiled(4)
    state = put(memory, empty, [1, 2])
    items, _, mask = memory.sample(state, n, KEY)
    assert mask.tolist() == [i < 2 for i in range(n)] and mask.dtype == bool
    assert sorted(items["id"].tolist()) == ([0] * (n - 2) + [1, 2] if n > 1 else items["id"].tolist())
    assert not np.any(np.asarray(items["x"])[~np.asarray(mask)])


def test_sample_from_nothing_is_all_masked():
    memory, empty = compiled(4)
    items, slots, mask = memory.sample(empty, 6, KEY)
    assert slots.tolist() == [-1] * 6
    assert not np.any(mask) and not np.any(items["x"])


def test_sample_depends_on_its_key():
    memory, empty = compiled(8)
    state = put(memory, put(memory, empty, [1, 2, 3, 4]), [5, 6, 7, 8])
    one, two = (memory.sample(state, 4, keys.root(seed))[0]["id"].tolist() for seed in (1, 2))
    assert one != two and memory.sample(state, 4, keys.root(1))[0]["id"].tolist() == one


# -- forget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [4, 6, 40])
def test_no_byte_of_a_forgotten_user_is_left(total):
    (memory, state), secret = compiled(6), 0x5EC2E7
    users = [7 if i % 2 else i for i in range(total)]
    ids = [secret + i if i % 2 else i + 1 for i in range(total)]
    state = put(memory, state, ids, users=users)
    marks = [np.asarray(v, d).tobytes() for i in ids for v, d in ((i, "int32"), (i + 0.25, "f8")) if i >= secret]

    def found(state):
        return [m for m in marks for leaf in jax.tree.leaves(state) if m in np.asarray(leaf).tobytes()]

    assert found(state) and 7 in state.users.tolist()
    after = memory.forget(state, jnp.int32(7))
    assert not found(after) and 7 not in after.users.tolist()
    assert held(after) == [i for i in held(state) if i < secret]  # the others stay
    rest = np.asarray(state.users) != 7
    np.testing.assert_array_equal(np.asarray(after.items["id"])[rest], np.asarray(state.items["id"])[rest])
    np.testing.assert_array_equal(np.asarray(after.items["x"])[~rest], 0)


def test_before_an_overflow_forgetting_is_as_if_the_user_had_never_come():
    memory, empty = compiled(6)
    with_user = put(memory, empty, [1, 2, 3, 4, 5], users=[1, 9, 2, 9, 3])
    state = memory.forget(with_user, 9)
    assert int(state.seen) == 3 and held(state) == [1, 3, 5]
    state = put(memory, state, [11, 12, 13])  # the holes first, then the end
    assert state.items["id"].tolist() == [1, 11, 3, 12, 5, 13] and int(state.seen) == 6


def test_after_an_overflow_the_odds_of_the_others_stay():
    # 40 seen, 8 held, 2 of them forgotten: 40 * 6 / 8 = 30 insertions are what the remaining 6 stand for
    memory, empty = compiled(8)
    state = put(memory, empty, list(range(1, 41)))
    state = state._replace(users=jnp.array([5, 9, 6, 9, 7, 8, 10, 11], jnp.int32))
    after = memory.forget(state, 9)
    assert int(after.seen) == 30
    after = put(memory, after, [101, 102])
    assert {101, 102} <= set(held(after)) and int(after.seen) == 32 and not np.any(np.asarray(after.users) < 0)


def test_seen_is_scaled_without_overflowing_32_bits():
    memory, empty = compiled(4)
    state = put(memory, empty, [1, 2, 3, 4])._replace(seen=jnp.int32(2_000_000_003))
    assert int(memory.forget(state, 2).seen) == 2_000_000_003 - 2_000_000_003 // 4


@pytest.mark.parametrize(("seen", "removed", "filled"), [(199_999, 50_000, 100_000), (2**31 - 5, 99_999, 100_000)])
def test_no_share_of_a_large_memory_overflows_32_bits(seen, removed, filled):
    memory = reservoir(filled)
    state = memory.init(jnp.zeros(()))
    users = np.where(np.arange(filled) < removed, 7, 8).astype(np.int32)
    state = state._replace(users=jnp.asarray(users), seen=jnp.int32(seen))
    assert int(jax.jit(memory.forget)(state, 7).seen) == seen - seen * removed // filled


def test_forgetting_everybody_leaves_a_memory_as_new():
    memory, empty = compiled(4)
    state = put(memory, empty, [1, 2, 3, 4, 5], users=[4] * 5)
    for a, b in zip(jax.tree.leaves(memory.forget(state, 4)), jax.tree.leaves(empty), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("user", [77, -1])
def test_forgetting_no_user_changes_nothing(user):
    memory, empty = compiled(4)
    for ids in ([1, 2], [1, 2, 3, 4, 5, 6]):
        state = put(memory, empty, ids)
        for a, b in zip(jax.tree.leaves(memory.forget(state, user)), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)


# -- transformations -----------------------------------------------------------------------------------------------


def later(memory, state, key):
    state = memory.forget(state, 11)
    state = put(memory, state, [31, 32], key=keys.named(key, "late"))
    return state, memory.sample(state, 6, key)


def test_seeds_under_vmap_equal_a_loop_and_compiled_equals_interpreted():
    memory = reservoir(5)

    def run(seed):
        key = keys.named(KEY, "seed", seed)
        state, _ = stream(memory, key, 12, 3)
        return state, later(memory, state, key)

    together, alone = jax.jit(jax.vmap(run))(np.arange(4)), jax.jit(run)
    for i in range(4):
        first, end = alone(i)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves((first, end)), strict=True):
            np.testing.assert_array_equal(np.asarray(a)[i], b)
    interpreted = later(memory, first, keys.named(KEY, "seed", 3))
    for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(interpreted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_is_carried_through_a_scan_with_one_shape():
    memory, loop = compiled(4)
    state, seen = jax.jit(partial(stream, reservoir(4), total=12, batch=2))(KEY)
    assert seen.tolist() == [0, 2, 4, 6, 8, 10] and int(state.seen) == 12
    for i in range(6):
        loop = put(memory, loop, [2 * i + 1, 2 * i + 2], key=keys.named(KEY, "batch", i))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(loop), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_snapshot_does_not_alias_the_live_memory():
    memory, empty = compiled(4)
    live = put(memory, empty, [1, 2, 3], users=[0, 1, 2])
    snapshot, before = trees.copy(live), [np.array(x) for x in jax.tree.leaves(live)]
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((live, snapshot))]
    assert len(set(pointers)) == len(pointers)  # nor do two leaves share a buffer, which donation would refuse
    step = jax.jit(reservoir(4).insert, donate_argnums=0)
    live = put(memory._replace(insert=step), memory.forget(live, 1), [7, 8, 9], users=[0, 1, 2])
    assert 7 in live.items["id"].tolist()
    for a, b in zip(jax.tree.leaves(snapshot), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_inserting_never_copies_the_whole_storage():
    # donated storage is written in place: no temporary as large as it is
    memory, spec = reservoir(4096), {"x": jax.ShapeDtypeStruct((256,), jnp.float64)}
    state = jax.eval_shape(lambda: memory.init(spec))
    arguments = ({"x": jax.ShapeDtypeStruct((4, 256), jnp.float64)}, jax.ShapeDtypeStruct((4,), jnp.int32))
    lowered = jax.jit(memory.insert, donate_argnums=0).lower(
        state, *arguments, {}, jax.ShapeDtypeStruct((4,), bool), KEY
    )
    analysis = lowered.compile().memory_analysis()
    assert analysis.alias_size_in_bytes >= 4096 * 256 * 8 > 10 * analysis.temp_size_in_bytes


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, -3])
def test_a_capacity_below_one_is_refused(capacity):
    with pytest.raises(ValueError, match=f"capacity must be >= 1, got {capacity}"):
        reservoir(capacity)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda items: {"x": items["x"]}, "items must have the structure"),
        (lambda items: {**items, "x": items["x"][:, :1]}, r"leaf 'x' must be float64\[2, 2\], got float64\[2, 1\]"),
        (lambda items: {**items, "x": items["x"][:1]}, r"leaf 'x' must be float64\[2, 2\], got float64\[1, 2\]"),
        (lambda items: {**items, "id": items["x"][:, 0]}, r"leaf 'id' must be int32\[2\], got float64\[2\]"),
    ],
)
def test_items_of_another_kind_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        reservoir(3).insert(compiled(3)[1], change(items_of([1, 2])), jnp.arange(2), {}, jnp.ones(2, bool), KEY)
