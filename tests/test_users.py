"""The bank: rows written are rows read, and nothing else moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import store, users
from metapers.base import Params

PARAMS = Params({}, {"w": jnp.array([9.0, 8.0]), "b": jnp.asarray(7.0)}, {})


write, read, forget = jax.jit(users.write), jax.jit(users.read), jax.jit(users.forget)


def rows(*numbers) -> jax.Array:
    return jnp.array(numbers, jnp.int32)


def personal(*values) -> dict:
    column = np.array(values, np.float64)
    return jax.tree.map(jnp.asarray, {"w": np.stack([column, -column], axis=1), "b": column * 10})


def every(n: int) -> jax.Array:
    return jnp.array([True] * n)


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b))


def test_an_empty_bank_gives_everyone_the_start():
    bank = users.empty(PARAMS, 3)
    assert bank.personal["w"].shape == (3, 2) and bank.personal["b"].shape == (3,)
    assert bank.period.tolist() == [-1, -1, -1] and bank.period.dtype == jnp.int32
    got, banked = read(bank, PARAMS, rows(0, 2, -1, 3))
    assert not banked.any() and got["w"].tolist() == [[9.0, 8.0]] * 4 and got["b"].tolist() == [7.0] * 4
    with pytest.raises(ValueError, match="rows must be >= 1, got 0"):
        users.empty(PARAMS, 0)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_written_is_read(compiled):
    put, get = (write, read) if compiled else (users.write, users.read)
    bank = put(users.empty(PARAMS, 4), rows(2, 0), personal(1, 2), jnp.asarray(5, jnp.int32), every(2))
    assert bank.period.tolist() == [5, -1, 5, -1]
    assert bank.personal["w"].tolist() == [[2.0, -2.0], [0.0, 0.0], [1.0, -1.0], [0.0, 0.0]]
    got, banked = get(bank, PARAMS, rows(2, 1, 0, 2))
    assert banked.tolist() == [True, False, True, True]
    assert got["w"].tolist() == [[1.0, -1.0], [9.0, 8.0], [2.0, -2.0], [1.0, -1.0]]
    assert got["b"].tolist() == [10.0, 7.0, 20.0, 10.0]


def test_masked_rows_no_user_and_rows_beyond_change_nothing():
    bank = write(users.empty(PARAMS, 3), rows(0, 1, 2), personal(1, 2, 3), 0, every(3))
    bad = personal(jnp.nan, jnp.nan, jnp.nan, jnp.nan)
    after = write(bank, rows(1, -1, 3, -3), bad, 4, jnp.array([False, True, True, True]))
    assert same(after, bank)


def test_no_user_and_rows_beyond_are_never_banked():
    bank = write(users.empty(PARAMS, 3), rows(0, 1, 2), personal(1, 2, 3), 0, every(3))
    got, banked = read(bank, PARAMS, rows(-1, 3, -2, 1))
    assert banked.tolist() == [False, False, False, True] and got["b"].tolist() == [7.0, 7.0, 7.0, 20.0]


def test_a_masked_nan_stays_outside_and_one_row_alone_moves():
    bank = write(users.empty(PARAMS, 3), rows(0, 1, 2), personal(1, 2, 3), 0, every(3))
    after = write(bank, rows(0, 1), personal(jnp.nan, 5), rows(8, 9), jnp.array([False, True]))
    assert after.personal["b"].tolist() == [10.0, 50.0, 30.0] and after.period.tolist() == [0, 9, 0]


@pytest.mark.parametrize("compiled", [False, True])
def test_of_a_user_written_twice_the_last_unmasked_stays(compiled):
    put = write if compiled else users.write
    mask = jnp.array([True, True, True, False, True])
    bank = put(users.empty(PARAMS, 3), rows(1, 0, 1, 1, 2), personal(1, 2, 3, 4, 5), rows(1, 2, 3, 4, 5), mask)
    assert bank.personal["b"].tolist() == [20.0, 30.0, 50.0] and bank.period.tolist() == [2, 3, 5]


def test_seeds_are_a_vmap_away():
    banks = jax.tree.map(lambda x: np.stack([x, x]), users.empty(PARAMS, 3))
    who, values = (
        jnp.array([[0, 1], [2, -1]], jnp.int32),
        jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), personal(1, 2, 3, 4)),
    )
    together = jax.jit(jax.vmap(users.write, in_axes=(0, 0, 0, None, None)))(
        banks, who, values, jnp.asarray(1, jnp.int32), every(2)
    )
    got, banked = jax.jit(jax.vmap(users.read, in_axes=(0, None, 0)))(together, PARAMS, who)
    for seed in range(2):
        pick = lambda tree, seed=seed: jax.tree.map(lambda x: np.asarray(x)[seed], tree)
        alone = write(users.empty(PARAMS, 3), pick(who), pick(values), 1, every(2))
        assert same(pick(together), alone)
        assert same(pick((got, banked)), read(alone, PARAMS, pick(who)))


def test_forgotten_means_zeros_and_a_fresh_start():
    full = write(users.empty(PARAMS, 3), rows(0, 1, 2), personal(1, 2, 3), 2, every(3))
    bank = forget(full, jnp.asarray(1, jnp.int32))
    assert bank.period.tolist() == [2, -1, 2] and bank.personal["w"].tolist() == [[1.0, -1.0], [0.0, 0.0], [3.0, -3.0]]
    assert read(bank, PARAMS, rows(1))[0]["b"].tolist() == [7.0]
    assert same(forget(full, -1), full) and same(forget(full, 3), full)
    assert same(users.forget(full, 1), bank)  # interpreted, the row a plain number


def test_float32_and_other_dtypes_are_kept():
    params = Params({}, {"h": jnp.ones(2, jnp.bfloat16), "f": jnp.ones((), jnp.float32)}, {})
    bank = write(users.empty(params, 2), rows(1), jax.tree.map(lambda x: x[None] * 3, params.personal), 0, every(1))
    got, _ = read(bank, params, rows(0, 1))
    assert got["h"].dtype == jnp.bfloat16 and got["f"].dtype == jnp.float32 and got["f"].tolist() == [1.0, 3.0]


def test_rows_are_checked_on_the_host():
    bank = users.empty(PARAMS, 3)
    users.check(bank, np.array([-1, 0, 2]))
    for wrong in (3, -2):
        with pytest.raises(ValueError, match=rf"users must lie in -1 \.\. 2, got {wrong}"):
            users.check(bank, np.array([0, wrong]))


def test_the_store_takes_a_bank(tmp_path):
    bank = write(users.empty(PARAMS, 3), rows(2), personal(4), 1, every(1))
    store.save_version(tmp_path, 0, bank, {})
    assert same(store.load_version(tmp_path, 0, bank)[0], bank)
