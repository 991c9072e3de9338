"""Candidate configs compared on the validation users of all folds, never on test users."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metapers.options import ConfigError
from metapers.run import search, setup
from metapers.run.loop import Diverged
from metapers.scores import sign
from metapers.scoring import scorer as scoring
from metapers.scoring.curves import NotFinite
from metapers.scoring.records import DIVERGED
from metapers.spec import Config, check, leading, merged, overrides

FAILED = (NotFinite, Diverged)
"""The errors of a candidate whose training or adaptation diverges."""

WHOLE = -1
"""The period of a user's whole history."""


class Candidate(NamedTuple):
    """Values in place of a config's."""

    name: str
    given: Mapping[str, str] = {}  # keys and texts, as on a command line
    arm: str | None = None  # None: continual, or else the config's first
    method: str | None = None  # of the config's file; None: the one that is asked for


class Scores(NamedTuple):
    """Validation users of one or more folds: the headline metric, mean over seeds."""

    values: np.ndarray  # [rows, 2], at the start and adapted
    periods: np.ndarray  # [rows], the period of each row; ``WHOLE`` for a whole history


class Row(NamedTuple):
    """A candidate's means over validation users."""

    periods: float  # adapted, mean over the periods
    periods_start: float  # before adaptation
    users: float  # adapted, whole histories
    users_start: float
    worse: float  # fraction of users who are worse adapted than at the start


def parse(text: str) -> Candidate:
    """The candidate that a text describes: "name: key=value, …".

    The keys ``arm`` and ``config`` name another arm, and another method of the config's file.

    >>> parse("wide: meta_batch=64, evaluation.shots=(4,8), arm=fine_tune")
    Candidate(name='wide', given={'meta_batch': '64', 'evaluation.shots': '(4,8)'}, arm='fine_tune', method=None)

    Raises:
      ConfigError: for a part without "=".
    """
    name, _, rest = text.partition(":")
    given: dict[str, str] = {}
    for part in re.split(r",\s*(?=[\w.]+\s*=)", rest):
        key, equals, value = part.partition("=")
        if not equals and part.strip():
            raise ConfigError("candidate", part.strip(), "'name: key=value, …'")
        if equals:
            given[key.strip()] = value.strip()
    return Candidate(name.strip(), given, given.pop("arm", None), given.pop("config", None))


def evaluate(
    candidate: Candidate, get_config: Callable[[str | None], Config], folds: Sequence[int | None] = (None,)
) -> Row:
    """Trains a candidate on every fold and scores it on the validation users of all of them.

    Args:
      candidate: what to train.
      get_config: method -> config; None for the method that is asked for.
      folds: values of ``data.fold``; None: the config's own.

    Raises:
      ConfigError: for what the config refuses.
      NotFinite, Diverged: where training or a user's adaptation diverges (``FAILED``).
    """
    found = [on_fold(candidate, get_config(candidate.method), fold) for fold in folds]
    values = np.concatenate([one.values for one in found])
    periods = np.concatenate([one.periods for one in found])
    return row(Scores(values, periods), larger_is_better=sign(get_config(None).evaluation.metric) > 0)


def on_fold(candidate: Candidate, config: Config, fold: int | None = None) -> Scores:
    """Trains a candidate on one fold; the scores of its validation users at the headline's shots.

    Args:
      candidate: whose values replace those of the config.
      config: of one method.
      fold: the value of ``data.fold``; None: the config's own.

    Raises:
      ConfigError: for what the config refuses.
      NotFinite, Diverged: where training or a user's adaptation diverges.
    """
    head = config.evaluation
    fixed = {"evaluation.shots": (head.headline_shots,), "evaluation.steps": (0, head.headline_steps)}
    fixed |= {} if fold is None else {"data.fold": fold}
    fixed |= {} if candidate.arm is None else {"arms": candidate.arm}
    config = check(overrides.apply(merged(config, fixed), list(candidate.given.items())))
    arm = leading(config)
    components = setup.components(config)
    params = search.learned(components, [config], arm)
    cohort = scoring.everyone(components.stream, "validation")
    found = scoring.scorer(components).curves(params, arm, cohort)
    lost = found.scores.get(DIVERGED)
    if lost is not None:
        users = int(lost.any(axis=(0, 2, 3)).sum())
        raise NotFinite(f"{users} of {len(cohort.periods)} users and periods diverged")
    return Scores(found.scores[config.evaluation.metric][:, :, 0].mean(axis=0), cohort.periods)


def row(found: Scores, *, larger_is_better: bool) -> Row:
    """The means of ``found``, each period of the same weight.

    >>> values = np.array([[3.0, 1.0], [5.0, 5.0], [2.0, 1.0], [2.0, 3.0]])
    >>> row(Scores(values, np.array([0, 1, WHOLE, WHOLE])), larger_is_better=False)
    Row(periods=3.0, periods_start=4.0, users=2.0, users_start=2.0, worse=0.5)
    """
    by_period = [found.values[found.periods == period].mean(axis=0) for period in sorted(set(found.periods) - {WHOLE})]
    whole = found.values[found.periods == WHOLE]
    gain = (whole[:, 1] - whole[:, 0]) * (1 if larger_is_better else -1)
    (periods_start, periods), (users_start, users) = np.mean(by_period, axis=0), whole.mean(axis=0)
    return Row(*map(float, (periods, periods_start, users, users_start, np.mean(gain < -1e-6))))
