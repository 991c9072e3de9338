"""Frequencies of classes: counts by hand, sequences, what the support may not see, and the choice for a stream."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers.base import Cohort
from metapers.baselines import bigram, class_prior, user_frequency
from metapers.members import registry
from metapers.scores import cross_entropy, next_token, squared_error
from metapers.scoring import baselines
from metapers.scoring import scorer as scoring
from metapers.tasks import Examples, stream


def cohort(users):
    """A cohort from lists of targets, one list a user."""
    targets = np.concatenate([np.asarray(user, np.int32) for user in users])
    offsets = np.cumsum([0] + [len(user) for user in users])
    n = len(users)
    none, each = np.zeros(n, bool), np.zeros(len(targets), np.int32)
    return Cohort({}, targets, offsets, np.arange(n, dtype=np.int32), np.zeros(n, np.int32), none, each)


TRAIN = cohort([[0, 0, 2], [1, 0, 0, 0, 2]])  # counts 5, 1, 2
PRIOR = np.array([6, 2, 3]) / 11
NEW = cohort([[2, 1, 2, 0], [0], [1, 1]])


def test_class_prior_by_hand():
    predictor = class_prior(TRAIN)
    np.testing.assert_allclose(predictor.predict(NEW, 2, 2), np.log(np.tile(PRIOR, (7, 1))), rtol=1e-12)
    np.testing.assert_allclose(class_prior(TRAIN, classes=4).fitted["prior"], np.array([6, 2, 3, 1]) / 12)
    loss = cross_entropy().loss(jnp.asarray(predictor.predict(NEW, 0, 0)), jnp.asarray(NEW.targets))
    np.testing.assert_allclose(loss, -np.log(PRIOR[NEW.targets]), rtol=1e-12)


def test_user_frequency_by_hand():
    found = user_frequency(TRAIN, shrink=2.0).predict(NEW, 2, 2)
    counts = np.repeat([[0, 1, 1], [1, 0, 0], [0, 2, 0]], [4, 1, 2], axis=0)  # of the first two targets
    expected = (counts + 2 * PRIOR) / (counts.sum(axis=1, keepdims=True) + 2)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-12)
    np.testing.assert_allclose(
        user_frequency(TRAIN).predict(NEW, 0, 2), class_prior(TRAIN).predict(NEW, 0, 2), rtol=1e-12
    )


def test_nothing_beyond_the_support_is_seen():
    predictor = user_frequency(TRAIN)
    later = NEW._replace(targets=np.array([2, 1, 0, 1, 0, 1, 1], np.int32))  # differs after the first two
    np.testing.assert_array_equal(predictor.predict(later, 2, 2), predictor.predict(NEW, 2, 2))
    assert (predictor.predict(later, 3, 3)[:4] != predictor.predict(NEW, 3, 3)[:4]).any()


def test_targets_that_are_sequences_are_counted_place_by_place():
    train = cohort([[[1, 2], [2, 2]], [[1, 0]]])  # counts 1, 2, 3
    new = cohort([[[1, 1], [2, 1]], [[2, 2], [1, 0]]])
    found = user_frequency(train, shrink=1.0).predict(new, 1, 1)
    assert found.shape == (4, 2, 3)
    prior = np.array([2, 3, 4]) / 9
    expected = np.repeat([(np.array([0, 2, 0]) + prior) / 3, (np.array([0, 0, 2]) + prior) / 3], 2, axis=0)
    np.testing.assert_allclose(np.exp(found), np.repeat(expected[:, None], 2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(np.exp(class_prior(train).predict(new, 1, 1)), np.tile(prior, (4, 2, 1)), rtol=1e-12)
    scores = next_token().scores(jnp.asarray(found), jnp.asarray(new.targets), jnp.ones(4, bool))
    assert np.isfinite(float(scores["nll"]))


def sequences(inputs, targets):
    """One user's windows."""
    arrays = np.array(inputs, np.int32), np.array(targets, np.int32)
    return cohort([[0]])._replace(inputs=arrays[0], targets=arrays[1], offsets=np.array([0, len(inputs)]))


def test_bigram_by_hand():
    train = sequences([[1, 2, 1], [2, 1, 2]], [[2, 1, 2], [1, 1, 1]])  # after 1: 2, 2, 1; after 2: 1, 1, 1
    prior = np.array([1, 5, 3]) / 9
    found = bigram(train, shrink=2.0)
    new = sequences([[1, 2], [0, 9]], [[1, 1], [1, 1]])
    after = [(np.array([0, 1, 2]) + 2 * prior) / 5, (np.array([0, 3, 0]) + 2 * prior) / 5]
    np.testing.assert_allclose(np.exp(found.predict(new, 0, 1)), [after, [prior, prior]], rtol=1e-12)
    assert bigram(train, classes=5).predict(new, 0, 1).shape == (2, 2, 5)
    for inputs in (new.inputs.astype(float), new.inputs[:, :1], {"x": new.inputs}):
        with pytest.raises(ValueError, match=r"bigram needs integer inputs \[total, length\] as the targets \[2, 2\]"):
            found.predict(new._replace(inputs=inputs), 0, 1)
    with pytest.raises(ValueError, match="shrink must be > 0, got -1.0"):
        bigram(train, shrink=-1.0)


def test_outputs_are_in_jaxs_default_float():
    assert class_prior(TRAIN).predict(NEW, 1, 1).dtype == np.float64
    with jax.enable_x64(False):
        assert user_frequency(TRAIN).predict(NEW, 1, 1).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: class_prior(TRAIN._replace(targets=np.ones(8))),
            r"class_prior predicts classes: .* got float64 \[8\]",
        ),
        (lambda: class_prior(TRAIN._replace(targets={"y": TRAIN.targets})), "got dict"),
        (lambda: class_prior(cohort([[]])), "class_prior needs at least one training example, got none"),
        (lambda: class_prior(cohort([[0, -1]])), "class_prior needs targets between 0, got -1 to 0"),
        (lambda: class_prior(TRAIN, classes=2), "class_prior needs targets between 0 and 1, got 0 to 2"),
        (lambda: user_frequency(TRAIN).predict(cohort([[3, 1]]), 1, 1), "between 0 and 2, got 0 to 3"),
        (lambda: user_frequency(TRAIN, shrink=0.0), "shrink must be > 0, got 0.0"),
        (lambda: user_frequency(TRAIN).predict(NEW, 3, 2), r"shots must be in \[0, horizon = 2\], got 3"),
    ],
)
def test_what_cannot_be_fitted_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def a_scorer(targets, objective, metric, inputs=None, **sizes):
    """As much of a scorer as the fit of baselines reads: 40 users of 20 examples with these targets."""
    users, each = 40, 20
    user = np.repeat(np.arange(users), each)
    names, inputs = tuple(map(str, range(users))), np.zeros((user.size, 1)) if inputs is None else inputs
    examples = Examples(names, user, np.zeros_like(user), np.arange(user.size), inputs, targets)
    made = stream(examples, periods=1, fold=0, support=4, query=4, about={})
    chosen = SimpleNamespace(metric=metric, headline_shots=8, shots=(8,))
    config = SimpleNamespace(evaluation=chosen, objective=objective, as_of="before")
    components = SimpleNamespace(stream=made, objective=objective, sizes=sizes, config=config)
    cohorts = functools.cache(functools.partial(scoring.everyone, made))
    own = SimpleNamespace(components=components, shots=(8,), cohorts=cohorts)
    own.everyone = functools.partial(scoring.Scorer.everyone, own)
    return own


@pytest.fixture(autouse=True)
def own_objective(monkeypatch):
    """The objective of a source that no config names."""
    monkeypatch.setattr(baselines, "source_objective", lambda config: config.objective)


def fitted(scorer):
    """The baselines by name, as validation users chose them on their whole lives."""
    found = baselines.fit_baselines(scorer)
    for one in found.values():  # in a stream of one period both tables show the same
        assert one.lives.settings == one.periods.settings
    return {name: one.lives for name, one in found.items()}


def predicted(chosen, scorer):
    """Outputs for the test users from no shot."""
    return np.asarray(chosen.predictor.predict(scorer.components.stream.held_out("test", None), 0, 1))


FAVOURITES = np.repeat(np.random.default_rng(0).integers(0, 3, 40), 20)  # each user has one class


@pytest.mark.parametrize("metric", ["nll", "accuracy"])
def test_a_stream_of_classes_gets_class_baselines_shrunk_as_validation_users_like_it(metric):
    scorer = a_scorer(FAVOURITES, cross_entropy(), metric, classes=4)
    found = fitted(scorer)
    assert list(found) == ["class_prior", "user_frequency"]
    assert predicted(found["class_prior"], scorer).shape[1:] == (4,)
    assert (
        found["user_frequency"].settings["shrink"] == registry("baseline")["user_frequency"].options["shrink"].grid[0]
    )


@pytest.mark.parametrize("metric", ["nll", "accuracy"])
def test_where_users_are_alike_much_shrinking_is_chosen(metric):
    alike = np.random.default_rng(1).choice(3, 800, p=[0.4, 0.35, 0.25])
    found = fitted(a_scorer(alike, cross_entropy(), metric))
    assert found["user_frequency"].settings["shrink"] >= 20


def test_a_stream_of_sequences_gets_bigrams_too():
    tokens = np.random.default_rng(2).integers(1, 5, (800, 3))
    scorer = a_scorer(tokens % 4 + 1, next_token(), "nll", inputs=tokens, vocabulary=6)
    found = fitted(scorer)
    assert list(found) == ["class_prior", "user_frequency", "bigram"]
    outputs, new = predicted(found["bigram"], scorer), scorer.components.stream.held_out("test", None)
    assert outputs.shape == (*new.inputs.shape, 6) and found["bigram"].settings == {"shrink": 1.0}
    assert (outputs.argmax(axis=-1) == new.inputs % 4 + 1).all() and set(new.inputs.ravel()) == {1, 2, 3, 4}


def test_numbers_keep_their_baselines_and_vectors_have_none():
    numbers = fitted(a_scorer(FAVOURITES.astype(float), squared_error(), "rmse"))
    assert list(numbers) == ["global_mean", "user_mean", "user_last", "user_ewma", "ridge_residual", "nearest"]
    assert numbers["user_mean"].settings["shrink"] == 0.0
    assert fitted(a_scorer(np.zeros((800, 2)), squared_error(), "rmse")) == {}
