"""Baselines of a run: strengths chosen for each table by its own users and metric, and what they know of others."""

import gc
import weakref

import numpy as np
import pyarrow.compute as pc
import pytest

from metapers import spec, tasks
from metapers.evaluation import choices
from metapers.members import registry
from metapers.run import setup
from metapers.scoring import baselines
from metapers.scoring import scorer as scoring
from tests import runs

pytestmark = pytest.mark.xdist_group("small run")
PERIODS, USERS, EACH = 3, 40, 6
GRID = registry("baseline")["user_mean"].options["shrink"].grid


@pytest.fixture(scope="module")
def made():
    """The components of a small config, whose stream is replaced."""
    few = {"seeds": 1, "data.periods": PERIODS, "evaluation.headline_shots": 4, "evaluation.shots": (4,)}
    return setup.components(spec.check(spec.merged(runs.small(arms=("fine_tune",)), few)))


def people(seed=0, change=0.0, changed=None):
    """A user's level is drawn anew in each period: a help within a period, and none for the next.

    ``change`` is added to the targets of training users in the period ``changed``.
    """
    rng = np.random.default_rng(seed)
    names = tuple(f"u{row}" for row in range(USERS))
    user, period = (np.repeat(each.ravel(), EACH) for each in np.indices((USERS, PERIODS)))
    level = rng.normal(size=(USERS, PERIODS))
    targets = 3 + level[user, period] + 0.3 * rng.normal(size=user.size)
    if changed is not None:
        training = np.array([tasks.splits.split_of(name, 0) == "train" for name in names])
        targets = targets + change * (training[user] & (period == changed))
    inputs = np.zeros((user.size, 4), np.float32)
    examples = tasks.Examples(names, user, period, np.arange(user.size), inputs, targets.astype(np.float32))
    return tasks.stream(examples, periods=PERIODS, fold=0, support=4, query=4, about={})


def scorer_of(made, stream, **changes):
    config = spec.check(spec.merged(made.config, changes))
    return scoring.scorer(made._replace(stream=stream, config=config))


def rmse(cohort, mean, shrink, shots=4):
    """Each user's root mean squared error of the shrunken mean of the support, written out."""
    found = []
    for begin, end in zip(cohort.offsets[:-1], cohort.offsets[1:], strict=True):
        y = np.asarray(cohort.targets[begin:end], float)
        cut = shots if len(y) > shots else len(y) // 2
        guess = mean + (y[:cut] - mean).sum() / (cut + shrink)
        found.append(np.sqrt(np.mean((guess - y[cut:]) ** 2)))
    return np.array(found)


def by_hand(stream, shrink):
    """The mean score on validation users' whole lives, and the mean over periods of that on each."""
    mean = float(np.asarray(stream.training(None).targets, float).mean())
    lives = rmse(stream.held_out("validation", None), mean, shrink).mean()
    each = [rmse(stream.held_out("validation", period), mean, shrink).mean() for period in range(PERIODS)]
    return lives, np.mean(each)


def test_strengths_are_chosen_for_each_table_by_hand(made):
    stream = people()
    fitted = baselines.fit_baselines(scorer_of(made, stream, as_of="retrospective"))["user_mean"]
    scores = np.array([by_hand(stream, shrink) for shrink in GRID])
    lives, periods = (GRID[place] for place in scores.argmin(axis=0))
    assert lives > periods  # a user's own mean helps in its period alone
    assert fitted.lives.settings == {"shrink": lives} and fitted.periods.settings == {"shrink": periods}
    assert fitted.lives.score == pytest.approx(scores[:, 0].min(), rel=1e-5)
    assert fitted.periods.score == pytest.approx(scores[:, 1].min(), rel=1e-5)
    told = choices.of_baselines({"user_mean": fitted})["user_mean"]
    assert {key: one["value"] for key, one in told.items()} == {"shrink": lives, "shrink by period": periods}


def test_fits_share_one_copy_of_the_training_examples_and_hold_none_in_the_end(made):
    stream, copies = people(), []

    def training(period):
        found = stream.training(period)
        copies.append((period, weakref.ref(found.targets)))
        return found

    scorer = scorer_of(made, stream._replace(training=training), as_of="end")
    fitted = baselines.fit_baselines(scorer)
    gc.collect()
    assert fitted and not [period for period, kept in copies if kept() is not None]
    grid = sum(
        np.prod([len(each) for each in baselines.grid_of(registry("baseline")[name]).values()]) for name in fitted
    )
    assert 0 < len(copies) < grid  # not one for each value of a grid


def test_each_table_shows_its_own_strength(made):
    stream = people()
    scorer = scorer_of(made, stream, as_of="retrospective")
    found, fitted = baselines.of_baselines(scorer, "test")
    tables = list(baselines.blocks(scorer, found, "test"))
    mean = float(np.asarray(stream.training(None).targets, float).mean())
    for period in (None, *range(PERIODS)):
        chosen = fitted["user_mean"].lives if period is None else fitted["user_mean"].periods
        want = rmse(stream.held_out("test", period), mean, chosen.settings["shrink"])
        rows = values(tables, "user_mean", -1 if period is None else period)
        np.testing.assert_allclose(sorted(rows.values()), sorted(want), rtol=1e-5)


def test_strengths_are_chosen_by_the_headline_metric(made):
    stream = people(seed=3)
    found = {
        metric: baselines.fit_baselines(scorer_of(made, stream, **{"evaluation.metric": metric}))["user_mean"]
        for metric in ("rmse", "mse", "mae")
    }
    scores = {metric: one.lives.score for metric, one in found.items()}
    assert len({round(score, 6) for score in scores.values()}) == 3 and scores["mae"] < scores["rmse"]


def tables_of(scorer):
    """The records of all baselines on test users."""
    return list(baselines.blocks(scorer, baselines.of_baselines(scorer, "test")[0], "test"))


def values(tables, name, period, metric="rmse"):
    """The records of a baseline in one period, by user."""
    found = {}
    for table in tables:
        keep = (pc.field("arm") == name) & (pc.field("period") == period) & (pc.field("metric") == metric)
        found |= {row["user"]: row["value"] for row in table.filter(keep).to_pylist()}
    assert found
    return found


@pytest.mark.parametrize(
    ("as_of", "moved"),
    [("before", [False, False, True]), ("end", [False, True, True]), ("retrospective", [True, True, True])],
)
def test_an_example_is_predicted_by_what_was_known_of_others(as_of, moved, made):
    tables = [tables_of(scorer_of(made, people(change=change, changed=1), as_of=as_of)) for change in (0.0, 2.0)]
    for period, differs in enumerate(moved):
        one, other = (values(table, "global_mean", period) for table in tables)
        assert one.keys() == other.keys() and (one != other) == differs, period
    assert values(tables[0], "global_mean", -1) != values(tables[1], "global_mean", -1)  # lives reach the last period


@pytest.mark.parametrize("as_of", ["before", "retrospective"])
def test_the_last_period_is_known_of_in_retrospect_alone(as_of, made):
    tables = [
        tables_of(scorer_of(made, people(change=change, changed=PERIODS - 1), as_of=as_of)) for change in (0.0, 2.0)
    ]
    for name in ("global_mean", "user_mean") if as_of == "before" else ("global_mean",):
        for period in (-1, *range(PERIODS)):
            same = values(tables[0], name, period) == values(tables[1], name, period)
            assert same == (as_of == "before"), (name, period)
