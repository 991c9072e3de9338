"""Synthetic users: the oracle is Bayes' rule and nothing beats it; there is something to forget, and no need to."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from metapers.members import build, filled, registry
from metapers.tasks import oracle, synthetic

SIZES = {"support": 3, "query": 4}


def make(**options):
    given = {"drift": synthetic.none(), "periods": 3, "users_per_period": 60, "examples": 12} | SIZES | options
    return synthetic.linear_gaussian(**given)


def test_posterior_mean_is_bayes_rule_by_integration():
    population = oracle.Population(
        np.array([0.7, 0.3]), np.array([[0.5, -0.3], [-1.0, 1.2]]), np.array([[0.6, 0.2], [0.2, 0.4]])
    )
    x, y, variance = (
        np.array([[1.0, 0.5], [-0.3, 0.8], [0.7, -0.2]]),
        np.array([0.1, 0.9, -0.4]),
        np.array([0.3, 0.5, 0.1]),
    )
    line = np.linspace(-7, 7, 701)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    away = grid[:, None] - population.means
    inverse = np.linalg.inv(population.covariance)
    prior = np.exp(-0.5 * np.einsum("gci,ij,gcj->gc", away, inverse, away)) @ population.shares
    for seen in range(4):
        misfit = np.sum((y[:seen] - grid @ x[:seen].T) ** 2 / variance[:seen], axis=1)
        density = prior * np.exp(-0.5 * misfit)
        wanted = density @ grid / density.sum()
        new = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, -3.0]])
        got = oracle.posterior_mean(population, x[:seen], y[:seen], variance[:seen], new)
        np.testing.assert_allclose(got, new @ wanted, atol=1e-9)


def wants(cohort, dim, overlap):
    """What each user wants, by least squares in the user's own coordinates f: [users, dim]."""
    pairs = list(zip(cohort.offsets[:-1], cohort.offsets[1:], strict=True))
    f = cohort.inputs[:, :dim] / np.sqrt(overlap)
    return np.array([np.linalg.lstsq(f[a:b], cohort.targets[a:b], rcond=None)[0] for a, b in pairs])


def test_oracle_knows_the_world_that_the_users_live_in():
    dim, overlap = 2, 0.4
    world = {"drift": synthetic.sudden(3), "dim": dim, "overlap": overlap, "users_per_period": 80, "returning": 0.2}
    bare = world | {"taste": 0.0, "noise": 1e-9}  # the same seed without noise lays the world bare
    stream = make(**world, taste=0.5, noise=0.3, minority=0.4, label_noise=0.3, label_noise_factor=3.0)
    assert stream.oracle is not None
    for period in range(3):
        majority = wants(make(**bare).held_out("test", period), dim, overlap)
        mixed = wants(make(**bare, minority=0.4).held_out("test", period), dim, overlap)
        away = np.linalg.norm(mixed - majority[0], axis=1)
        np.testing.assert_allclose(np.where(away > 1, 2.0, 0.0), away, atol=1e-6)
        assert 0 < np.mean(away > 1) < 1
        means = np.stack([majority[0], mixed[np.argmax(away)]])
        population = oracle.Population(np.array([0.6, 0.4]), means, 0.25 * np.eye(dim))
        cohort = stream.held_out("test", period)
        f = cohort.inputs[:, :dim] / np.sqrt(overlap)
        variance = np.where(cohort.inputs[:, -1] > 0, 0.9**2, 0.3**2)
        for shots in (0, 1, 4):
            got = stream.oracle(cohort, shots, 4)
            for low, high in zip(cohort.offsets[:-1], cohort.offsets[1:], strict=True):
                seen = slice(low, low + shots)
                args = population, f[seen], cohort.targets[seen], variance[seen], f[low:high]
                np.testing.assert_allclose(got[low:high], oracle.posterior_mean(*args), atol=1e-6)


def squared_errors(outputs, cohort, horizon):
    """Each user's mean squared error from row ``horizon`` of its own on."""
    pairs = zip(cohort.offsets[:-1] + horizon, cohort.offsets[1:], strict=True)
    return np.array([np.mean((outputs[a:b] - cohort.targets[a:b]) ** 2) for a, b in pairs])


def ridge(cohort, shots, centre, scale, noise, dim, overlap):
    """The posterior mean of a believer in one Gaussian N(centre, scale^2) on the first block."""
    covariance = np.zeros((len(centre),) * 2)
    covariance[:dim, :dim] = np.eye(dim) * scale**2 / overlap
    one = oracle.Population(np.ones(1), centre[None], covariance)
    width = len(centre)
    return oracle.linear(one, lambda x: x[:, :width], lambda x: np.full(len(x), noise**2))(cohort, shots, shots)


@pytest.mark.parametrize("shots", [0, 1, 5])
def test_oracle_error_is_the_expected_posterior_variance(shots):
    noise, taste, dim, overlap = 0.3, 0.6, 3, 0.4
    stream = make(users_per_period=400, periods=1, noise=noise, taste=taste, dim=dim, overlap=overlap, returning=0.0)
    cohort = stream.training(None)
    assert stream.oracle is not None
    got = squared_errors(stream.oracle(cohort, shots, shots), cohort, shots)
    wanted = []
    for low, high in zip(cohort.offsets[:-1], cohort.offsets[1:], strict=True):
        f = cohort.inputs[low:high, :dim] / np.sqrt(overlap)
        precision = np.eye(dim) / taste**2 + f[:shots].T @ f[:shots] / noise**2
        wanted.append(noise**2 + np.mean(np.sum(f[shots:] @ np.linalg.inv(precision) * f[shots:], axis=1)))
    difference = got - np.array(wanted)
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))
    assert difference.std() / np.sqrt(len(difference)) < 0.1 * np.mean(wanted)  # the check has teeth


@pytest.mark.parametrize("shots", [1, 4])
def test_nothing_beats_the_oracle(shots):
    drift = synthetic.recurring()
    options = {"minority": 0.3, "minority_shift": 2.0, "label_noise": 0.3, "taste": 0.5, "noise": 0.3}
    stream = make(drift=drift, periods=2, users_per_period=500, returning=0.2, **options)
    cohort = stream.training(None)
    assert stream.oracle is not None
    best = squared_errors(stream.oracle(cohort, shots, 4), cohort, 4)
    x, y = cohort.inputs[:, :-1], cohort.targets
    truth = np.linalg.lstsq(x, y, rcond=None)[0]  # the mean of the whole population, minority and all
    rivals = {"mean": squared_errors(x @ truth, cohort, 4)}
    for scale in (0.25, 0.5, 1.0, 4.0):
        for noise in (0.3, 0.8):
            guess = ridge(cohort, shots, truth, scale, noise, 4, 0.5)
            rivals[f"ridge {scale} {noise}"] = squared_errors(guess, cohort, 4)
    rivals["ridge from nothing"] = squared_errors(ridge(cohort, shots, 0 * truth, 2.0, 0.3, 4, 0.5), cohort, 4)
    for name, rival in rivals.items():
        margin = rival - best
        assert margin.mean() > 2 * margin.std() / np.sqrt(len(margin)), name


def test_oracle_knows_only_the_shots_and_starts_afresh():
    stream = make(drift=synthetic.recurring(), returning=0.5)
    cohort = stream.held_out("test", 1)
    assert stream.oracle is not None and cohort.returning.any()
    before = stream.oracle(cohort, 3, 5)
    assert before.shape == cohort.targets.shape and before.dtype == cohort.targets.dtype
    targets = cohort.targets.copy()
    late = np.concatenate([np.arange(a + 3, b) for a, b in zip(cohort.offsets[:-1], cohort.offsets[1:])])
    targets[late] = 1e6
    np.testing.assert_array_equal(stream.oracle(cohort._replace(targets=targets), 3, 5), before)
    targets[cohort.offsets[0]] = 1e6
    assert not np.array_equal(stream.oracle(cohort._replace(targets=targets), 3, 5), before)
    np.testing.assert_array_equal(stream.oracle(cohort._replace(returning=~cohort.returning), 3, 5), before)
    with pytest.raises(ValueError, match="shots must be between 0 and horizon = 2, got 3"):
        stream.oracle(cohort, 3, 2)


def test_known_label_noise_counts_less():
    stream = make(label_noise=0.4, label_noise_factor=10.0, users_per_period=300, periods=1)
    cohort = stream.training(None)
    assert stream.oracle is not None
    flags = cohort.inputs[:, -1]
    assert set(np.unique(flags)) == {0.0, 1.0} and abs(flags.mean() - 0.4) < 5 * 0.5 / np.sqrt(len(flags))
    told = squared_errors(stream.oracle(cohort, 4, 4), cohort, 4)
    blind = cohort._replace(inputs=np.concatenate([cohort.inputs[:, :-1], 0 * flags[:, None]], axis=1))
    margin = squared_errors(stream.oracle(blind, 4, 4), cohort, 4) - told
    assert margin.mean() > 3 * margin.std() / np.sqrt(len(margin))


DRIFTS = [synthetic.sudden(3), synthetic.recurring(), synthetic.gradual(3)]


@pytest.mark.parametrize("drift", DRIFTS, ids=["sudden", "recurring", "gradual"])
def test_one_model_serves_all_periods_but_the_newest_period_alone_spoils_the_others(drift):
    periods = 2 if drift is DRIFTS[1] else 3
    stream = make(drift=drift, periods=periods, users_per_period=300, taste=0.2, returning=0.3)
    cohort = stream.training(None)
    data = stream.family.data((0, periods - 1), 0, 1)
    period = np.repeat(np.asarray(data["period"]), np.asarray(data["length"]))
    x, y = np.asarray(data["inputs"]), np.asarray(data["targets"])
    joint, naive = np.linalg.lstsq(cohort.inputs, cohort.targets, rcond=None)[0], np.zeros(x.shape[1])
    for now in range(periods):  # fine-tuning to the end: the nearest weights that fit the newest period
        rows = period == now
        naive = naive + np.linalg.pinv(x[rows], rcond=1e-6) @ (y[rows] - x[rows] @ naive)
        errors = [np.mean((y[period == now] - x[period == now] @ w) ** 2) for w in (joint, naive)]
        assert errors[0] < 1.1 * errors[1]  # joint is as good as what is fitted to this period alone
    first = period == 0
    forgotten, kept = (np.mean((y[first] - x[first] @ w) ** 2) for w in (naive, joint))
    assert forgotten > 3 * kept


def test_drifts_say_which_regime():
    table = {
        "none": (synthetic.none(), [[1], [1], [1], [1]]),
        "sudden": (synthetic.sudden(4), np.eye(4)),
        "once": (synthetic.sudden(4, every=2), [[1, 0], [1, 0], [0, 1], [0, 1]]),
        "recurring": (synthetic.recurring(), [[1, 0], [0, 1], [1, 0], [0, 1]]),
        "gradual": (synthetic.gradual(4), [[1, 0], [np.sqrt(3) / 2, 0.5], [0.5, np.sqrt(3) / 2], [0, 1]]),
    }
    for name, (drift, wanted) in table.items():
        got = np.stack([drift(period) for period in range(4)])
        np.testing.assert_allclose(got, wanted, atol=1e-15, err_msg=name)
        if name in ("sudden", "once", "recurring"):  # blocks of absent regimes are zero
            stream = make(drift=drift, periods=4, dim=2)
            for period in range(4):
                blocks = stream.held_out("test", period).inputs.reshape(-1, 1 + got.shape[1], 2)
                np.testing.assert_array_equal(np.abs(blocks).sum(axis=(0, 2))[1:] > 0, got[period] > 0)
    with pytest.raises(ValueError, match="regimes and every must be >= 1, got 0 and 1"):
        synthetic.recurring(0)


def test_returning_users_keep_their_taste():
    stream = make(drift=synthetic.sudden(3), returning=0.5, noise=1e-6, taste=1.0, dim=2, minority=0.5)
    life = stream.training(None)
    wants = {}
    for row, low, high in zip(life.users, life.offsets[:-1], life.offsets[1:], strict=True):
        x = life.inputs[low:high].reshape(high - low, 4, 2)
        for period in np.unique(np.abs(x[:, 1:]).sum(axis=2).argmax(axis=1)):
            mine = np.abs(x[:, 1:]).sum(axis=2).argmax(axis=1) == period
            f = x[mine, 0] / np.sqrt(0.5)
            wants[period, row] = np.linalg.lstsq(f, life.targets[low:high][mine], rcond=None)[0]
    both = [row for period, row in wants if period == 0 and (1, row) in wants]
    assert len(both) > 5
    for row in both[1:]:  # the world's part is the same for two users of a period, so it drops out of a difference
        apart = [wants[period, row] - wants[period, both[0]] for period in (0, 1)]
        np.testing.assert_allclose(apart[0], apart[1], atol=1e-4)
        assert np.linalg.norm(apart[0]) > 1e-2


def test_fractions_counts_and_provenance():
    stream = make(users_per_period=50, returning=0.4, minority=0.2)
    assert len(stream.users) == 50 + 30 + 30
    counts = stream.provenance["splits"]
    for period in range(3):
        assert sum(counts[split][period]["users"] for split in counts) == 50
    back = [stream.held_out(split, 2).returning for split in ("validation", "test")]
    assert not stream.held_out("test", 0).returning.any() and 0 < np.concatenate(back).mean() < 1
    assert json.loads(json.dumps(stream.provenance)) == stream.provenance
    assert stream.provenance["drift"] == [[1.0]] * 3 and stream.provenance["minority"] == 0.2
    assert make(seed=1).provenance["sha256"] != make(seed=0).provenance["sha256"] == make().provenance["sha256"]
    minority = make(users_per_period=2000, periods=1, minority=0.3, minority_shift=50.0, taste=0.1, examples=4)
    life = minority.training(None)
    far = [np.abs(life.targets[a:b]).max() > 15 for a, b in zip(life.offsets[:-1], life.offsets[1:])]
    assert abs(np.mean(far) - 0.3) < 0.05


def test_tasks_come_out_of_the_family():
    stream = make(drift=synthetic.sudden(3))
    sample = jax.jit(stream.family.sample, static_argnums=2)
    tasks, _ = sample(stream.family.data((1, 1), 0, 1), 0, 5, keys.root(0))
    assert tasks.support.inputs.shape == (5, 3, 16) and tasks.query.targets.shape == (5, 4)
    assert tasks.support.inputs.dtype == jnp.zeros(()).dtype and set(np.asarray(tasks.notes["period"])) == {1}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("periods", 0, "periods must be >= 1, got 0"),
        ("dim", 0, "dim must be >= 1, got 0"),
        ("examples", 1, "examples must be >= 2, got 1"),
        ("returning", 1.0, "returning must be >= 0 and < 1, got 1.0"),
        ("minority", -0.1, "minority must be >= 0 and < 1, got -0.1"),
        ("overlap", 0.0, "overlap must be strictly between 0 and 1, got 0.0"),
        ("noise", 0.0, "noise must be > 0, got 0.0"),
        ("taste", float("nan"), "taste must be >= 0, got nan"),
    ],
)
def test_bad_numbers_are_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        make(**{name: value})


@pytest.mark.parametrize("name", synthetic.DRIFTS)
def test_a_config_names_the_drift(name):
    small = registry("source")["linear_gaussian"].example
    stream = build("source", filled("source", {"name": "linear_gaussian", **small, "drift": name}), {})
    expected = {
        "none": synthetic.none(),
        "gradual": synthetic.gradual(3),
        "sudden": synthetic.sudden(3),
        "recurring": synthetic.recurring(),
    }[name]
    assert stream.provenance["drift"] == [expected(period).tolist() for period in range(3)]
