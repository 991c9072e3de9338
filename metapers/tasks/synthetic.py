"""Users whose truth is known: linear-Gaussian tastes under a map of the world that drifts from period to period.

A drift says how much each *regime* of the world counts in a period. The inputs carry it (each regime has a block of
columns), so one linear model can serve all regimes at once; but all of them also share a block, and a model that is
fitted to the newest regime only spoils it for the others: there is something to forget, and no need to.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from metapers.base import Cohort, Stream, Tree
from metapers.members import Member
from metapers.options import Option
from metapers.tasks import oracle, ragged
from metapers.tasks.facts import CUT_OPTIONS, FOLD, SourceFacts

Drift = Callable[[int], np.ndarray]  # period -> weights of the regimes, [regimes] in every period


def none() -> Drift:
    """One regime for ever."""
    return lambda period: np.ones(1)


def sudden(periods: int, every: int = 1) -> Drift:
    """A regime never seen before after every ``every`` periods.

    >>> sudden(4, every=2)(1), sudden(4, every=2)(2)
    (array([1., 0.]), array([0., 1.]))
    """
    return recurring(-(-periods // every), every)


def recurring(regimes: int = 2, every: int = 1) -> Drift:
    """Regimes in turn, each for ``every`` periods: A B A B ... for two.

    >>> recurring()(0), recurring()(1), recurring()(2)
    (array([1., 0.]), array([0., 1.]), array([1., 0.]))
    """
    if regimes < 1 or every < 1:
        raise ValueError(f"regimes and every must be >= 1, got {regimes} and {every}")
    return lambda period: np.eye(regimes)[(period // every) % regimes]


def gradual(periods: int) -> Drift:
    """A quarter turn from one regime in the first period to another in the last: (cos a, sin a), a = 0 ... pi/2."""
    return lambda period: np.array([np.cos(a := np.pi / 2 * period / max(periods - 1, 1)), np.sin(a)])


DRIFTS: Mapping[str, Callable[[int], Drift]] = {
    "none": lambda periods: none(),
    "gradual": gradual,
    "sudden": sudden,
    "recurring": lambda periods: recurring(),
}
"""The drifts by name, each for a number of periods."""


class _World(NamedTuple):
    regimes: np.ndarray  # [regimes, dim], what all users want in each regime
    minority: np.ndarray  # [dim], what the minority wants on top
    tastes: np.ndarray  # [users, dim], what each user wants on top


def linear_gaussian(
    *,
    drift: Drift,
    periods: int,
    users_per_period: int,
    examples: int,
    dim: int = 4,
    spread: float = 1.0,
    taste: float = 0.5,
    noise: float = 0.3,
    overlap: float = 0.5,
    returning: float = 0.3,
    minority: float = 0.0,
    minority_shift: float = 2.0,
    label_noise: float = 0.0,
    label_noise_factor: float = 5.0,
    seed: int = 0,
    fold: int = 0,
    **sizes: Any,
) -> Stream:
    """Users u with y = (m_t + taste_u) . f + noise in period t, m_t = sum_r drift(t)_r theta_r, f ~ N(0, I) [dim].

    theta_r has a random direction and length ``spread`` sqrt(dim); taste_u ~ N(0, ``taste``^2 I), for a fraction
    ``minority`` of users around a common vector of length ``minority_shift`` instead of 0; a user's taste never
    changes. A fraction ``returning`` of each later period's users was seen before. Targets [N]; the noise has standard
    deviation ``noise``, and ``label_noise_factor`` times as much in a fraction ``label_noise`` of the examples.

    Inputs [N, width] are (sqrt(o) f, sqrt(1-o) drift_1 f, sqrt(1-o) drift_2 f, ...) for ``overlap`` o, and if
    ``label_noise`` > 0 a last column that is 1 where the label is noisier. So y = w_u . x + noise with the same
    w_u ~ N(M, S) in every period: M = (0, theta_1, theta_2, ...)/sqrt(1-o), S = ``taste``^2/o on the first block;
    the oracle is exact (see ``oracle.linear``). ``sizes``: support, query and what else ``ragged.stream`` takes.

    Raises:
      ValueError: for a number out of its range, naming it.
    """
    given = {name: value for name, value in locals().items() if name not in ("drift", "sizes")}
    _check(given)
    deviation = lambda noisier: noise * np.where(noisier, label_noise_factor, 1.0)
    rng = np.random.default_rng(seed)
    weights = np.stack([np.asarray(drift(period), np.float64) for period in range(periods)])
    period, user, users = _visits(rng, periods, users_per_period, returning)
    world = _world(rng, weights.shape[1], users, dim, spread, taste, minority, minority_shift)
    time = np.tile(np.arange(examples), len(user))
    period, user = np.repeat(period, examples), np.repeat(user, examples)
    base = rng.standard_normal((len(user), dim))
    width = dim * (1 + weights.shape[1])
    noisier = rng.random(len(user)) < label_noise
    targets = _without_noise(world, weights[period], user, base)
    targets += deviation(noisier) * rng.standard_normal(len(user))

    def rows(places: np.ndarray) -> np.ndarray:
        found = encode(base[places], weights[period[places]], overlap)
        return np.concatenate([found, noisier[places, None]], axis=1) if label_noise else found

    inputs = ragged.Computed((len(user), width + bool(label_noise)), np.dtype(np.float64), rows)
    names = tuple(f"synthetic-{row}" for row in range(users))
    return ragged.stream(
        ragged.Examples(names, user, period, time, inputs, targets),
        periods=periods,
        fold=fold,
        about={"source": "synthetic.linear_gaussian", "version": "1", "drift": weights.tolist(), **given},
        oracle=_oracle(_population(world, taste, minority, overlap), width, deviation),
        **sizes,
    )


def _from_options(*, drift: str, periods: int, **options: Any) -> Stream:
    return linear_gaussian(drift=DRIFTS[drift](periods), periods=periods, **options)


LINEAR_GAUSSIAN_MEMBER = Member(
    _from_options,
    options={
        "drift": Option("recurring", choices=tuple(DRIFTS), doc="how the common weights change from period to period"),
        "periods": Option(4, least=1, doc="number of periods"),
        "users_per_period": Option(200, least=1, doc="users in a period, of all splits together"),
        "examples": Option(40, least=2, doc="examples of a user in a period"),
        "dim": Option(4, least=1, doc="features of an example before the regimes encode them"),
        "spread": Option(1.0, least=0, doc="length of a regime's common weights, over sqrt(`dim`)"),
        "taste": Option(0.5, least=0, doc="standard deviation of a user's own weights around the common ones"),
        "noise": Option(0.3, above=0, doc="standard deviation of a target"),
        "overlap": Option(0.5, above=0, below=1, doc="share of the inputs that all regimes use; it can be forgotten"),
        "returning": Option(0.3, least=0, below=1, doc="fraction of a later period's users that an earlier period had"),
        "minority": Option(0.0, least=0, below=1, doc="fraction of users whose own weights have another mean"),
        "minority_shift": Option(2.0, least=0, doc="distance of that mean from the mean of the other users"),
        "label_noise": Option(0.0, least=0, below=1, doc="fraction of examples with a noisier target"),
        "label_noise_factor": Option(5.0, above=0, doc="factor on the standard deviation of these targets"),
        "seed": Option(0, least=0, doc="seed of the users and their examples"),
        "fold": FOLD,
        **CUT_OPTIONS,
    },
    example={"periods": 3, "users_per_period": 40, "examples": 12, "support": 4, "query": 8},
    facts=SourceFacts(),
    doc="synthetic users with linear targets and a known optimum, under drift",
)


def encode(base: np.ndarray, weights: np.ndarray, overlap: float) -> np.ndarray:
    """(sqrt(o) f, sqrt(1-o) c_1 f, sqrt(1-o) c_2 f, ...) [N, dim (1 + regimes)] from f [N, dim] and c [N, regimes]."""
    blocks = weights[:, :, None] * base[:, None, :]
    return np.concatenate([np.sqrt(overlap) * base, np.sqrt(1 - overlap) * blocks.reshape(len(base), -1)], axis=1)


def _check(given: dict[str, Any]) -> None:
    for name, least in (("periods", 1), ("users_per_period", 1), ("examples", 2), ("dim", 1)):
        if given[name] < least:
            raise ValueError(f"{name} must be >= {least}, got {given[name]}")
    for name in ("returning", "minority", "label_noise"):
        if not 0 <= given[name] < 1:
            raise ValueError(f"{name} must be >= 0 and < 1, got {given[name]}")
    if not 0 < given["overlap"] < 1:
        raise ValueError(f"overlap must be strictly between 0 and 1, got {given['overlap']}")
    for name in ("noise", "label_noise_factor"):
        if not given[name] > 0:
            raise ValueError(f"{name} must be > 0, got {given[name]}")
    for name in ("spread", "taste", "minority_shift"):
        if not given[name] >= 0:
            raise ValueError(f"{name} must be >= 0, got {given[name]}")


def _visits(rng: np.random.Generator, periods: int, each: int, returning: float) -> tuple[np.ndarray, np.ndarray, int]:
    users, visits = 0, []
    for _ in range(periods):
        back = rng.choice(users, round(returning * each), replace=False) if users else np.arange(0)
        visits.append(np.concatenate([back, np.arange(users, users + each - len(back))]))
        users += each - len(back)
    return np.repeat(np.arange(periods), each), np.concatenate(visits), users


def _world(
    rng: np.random.Generator,
    regimes: int,
    users: int,
    dim: int,
    spread: float,
    taste: float,
    minority: float,
    minority_shift: float,
) -> _World:
    directions = rng.standard_normal((regimes + 1, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    shift = minority_shift * directions[-1]
    tastes = taste * rng.standard_normal((users, dim)) + (rng.random((users, 1)) < minority) * shift
    return _World(spread * np.sqrt(dim) * directions[:-1], shift, tastes)


def _without_noise(world: _World, weights: np.ndarray, user: np.ndarray, base: np.ndarray) -> np.ndarray:
    # in place: of a large stream no more than one such array is held
    own = weights @ world.regimes
    own += world.tastes[user]
    own *= base
    return np.sum(own, axis=1)


def _oracle(
    population: oracle.Population, width: int, deviation: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Cohort, int, int], Tree]:
    return oracle.linear(population, lambda x: x[:, :width], lambda x: deviation(x[:, width:].any(axis=1)) ** 2)


def _population(world: _World, taste: float, minority: float, overlap: float) -> oracle.Population:
    dim = len(world.minority)
    far = world.regimes.reshape(-1) / np.sqrt(1 - overlap)
    groups = [np.zeros(dim), world.minority / np.sqrt(overlap)] if minority else [np.zeros(dim)]
    covariance = np.zeros((dim + len(far),) * 2)
    covariance[:dim, :dim] = np.eye(dim) * taste**2 / overlap
    shares = np.array([1 - minority, minority] if minority else [1.0])
    return oracle.Population(shares, np.stack([np.concatenate([near, far]) for near in groups]), covariance)
