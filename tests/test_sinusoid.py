"""Sine waves: the stated population, on the device and on the host; rows no bank holds; one compilation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from metapers.tasks.sinusoid import sinusoid


def fitted(x, y):
    """Amplitude and phase of each wave from y = a sin x - b cos x: [users], [users]."""
    found = [np.linalg.lstsq(np.stack([np.sin(u), -np.cos(u)], 1), v, rcond=None)[0] for u, v in zip(x, y)]
    a, b = np.array(found).T
    return np.hypot(a, b), np.arctan2(b, a)


def check_population(x, y, low, high):
    amplitude, phase = fitted(x, y)
    np.testing.assert_allclose(amplitude[:, None] * np.sin(x - phase[:, None]), y, atol=1e-9)
    for values, a, b in ((amplitude, low, high), (phase, 0, np.pi), (x.ravel(), -5, 5)):
        assert a <= values.min() + 1e-9 and values.max() <= b + 1e-9
        assert values.min() < a + 0.02 * (b - a) and values.max() > b - 0.02 * (b - a)
        share = np.sort((values - a) / (b - a))  # uniform: Kolmogorov-Smirnov at about 1e-4
        assert np.abs(share - np.arange(len(share)) / len(share)).max() < 2.2 / np.sqrt(len(share))


def test_training_tasks_have_the_stated_population():
    stream = sinusoid(support=6, query=9, users=10)
    tasks, mask = jax.jit(stream.family.sample, static_argnums=2)(
        stream.family.data((0, 0), 0, 1), 0, 500, keys.root(0)
    )
    assert mask.all() and tasks.support.mask.all() and tasks.query.mask.all()
    assert tasks.support.inputs.shape == (500, 6, 1) and tasks.query.targets.shape == (500, 9)
    assert tasks.support.inputs.dtype == tasks.query.targets.dtype == jnp.zeros(()).dtype
    x = np.concatenate([tasks.support.inputs, tasks.query.inputs], axis=1)[..., 0]
    check_population(x, np.concatenate([tasks.support.targets, tasks.query.targets], axis=1), 0.1, 5.0)
    rows = np.asarray(tasks.user)
    assert rows.min() >= len(stream.users) == 30 and len(np.unique(rows)) == 500


def test_held_out_users_have_the_stated_population_and_stay_the_same():
    stream = sinusoid(support=6, query=9, users=500)
    for split in ("validation", "test"):
        cohort = stream.held_out(split, 0)
        check_population(cohort.inputs.reshape(500, 15), cohort.targets.reshape(500, 15), 0.1, 5.0)
        np.testing.assert_array_equal(cohort.inputs, sinusoid(support=6, query=9, users=500).held_out(split, 0).inputs)
        assert [stream.users[row].split("-")[1] for row in cohort.users] == [split] * 500
        assert not cohort.returning.any() and not cohort.periods.any()
    assert not np.isin(stream.held_out("test", 0).targets, stream.held_out("validation", 0).targets).any()
    assert not np.isin(stream.training(0).targets, stream.held_out("test", 0).targets).any()


def test_periods_shift_the_amplitude():
    stream = sinusoid(support=6, query=9, users=40, periods=3, shift=10.0, amplitude=(1.0, 2.0))
    for period in range(3):
        cohort = stream.held_out("test", period)
        amplitude, _ = fitted(cohort.inputs.reshape(40, 15), cohort.targets.reshape(40, 15))
        assert (amplitude >= 1 + 10 * period).all() and (amplitude <= 2 + 10 * period).all()
        assert cohort.periods.tolist() == [period] * 40
    traces = []

    @jax.jit
    def run(data, key):
        traces.append(None)
        return stream.family.sample(data, 0, 200, key)[0]

    for window in [(0, 0), (1, 1), (2, 2), (0, 2)]:
        tasks = run(stream.family.data(window, 0, 1), keys.root(1))
        amplitude, _ = fitted(tasks.query.inputs[..., 0], tasks.query.targets)
        np.testing.assert_array_equal(amplitude // 10, tasks.notes["period"])
        assert set(np.asarray(tasks.notes["period"]).tolist()) == set(range(window[0], window[1] + 1))
    assert len(traces) == 1


def test_lives_training_and_provenance():
    stream = sinusoid(users=4, periods=2, examples=7)
    life = stream.held_out("test", None)
    assert life.offsets.tolist() == list(range(0, 57, 7)) and life.periods.tolist() == [-1] * 8
    np.testing.assert_array_equal(life.inputs[28:], stream.held_out("test", 1).inputs)
    assert stream.held_out("test", 1).offsets.tolist() == [0, 7, 14, 21, 28]
    assert len(stream.training(0).users) == 4 and len(stream.training(None).users) == 8
    assert json.loads(json.dumps(stream.provenance)) == stream.provenance
    assert stream.provenance["splits"]["test"] == [{"users": 4, "examples": 28}] * 2
    assert sinusoid(users=4, periods=2, examples=7, seed=1).provenance["sha256"] != stream.provenance["sha256"]


def test_noise_is_added_to_both():
    quiet, loud = (sinusoid(users=300, noise=noise) for noise in (0.0, 0.5))
    added = loud.held_out("test", 0).targets - quiet.held_out("test", 0).targets
    assert abs(added.std() - 0.5) < 0.03
    one, two = (
        jax.jit(s.family.sample, static_argnums=2)(s.family.data((0, 0), 0, 1), 0, 300, keys.root(0))[0]
        for s in (quiet, loud)
    )
    np.testing.assert_array_equal(one.query.inputs, two.query.inputs)
    assert abs(float(jnp.std(two.query.targets - one.query.targets)) - 0.5) < 0.03


def test_bad_arguments_are_named():
    for wrong, message in [
        ({"support": 0}, "support must be >= 1, got 0"),
        ({"users": 0}, "users must be >= 1, got 0"),
        ({"amplitude": (2.0, 2.0)}, "amplitude must be a range"),
    ]:
        with pytest.raises(ValueError, match=message):
            sinusoid(**wrong)
    stream = sinusoid(users=3)
    with pytest.raises(ValueError, match="window must satisfy 0 <= first <= last < 1"):
        stream.family.data((0, 1), 0, 1)
    with pytest.raises(ValueError, match="split must be one of"):
        stream.held_out("train", 0)
    with pytest.raises(ValueError, match="period must be between 0 and 0, got 1"):
        stream.held_out("test", 1)
