"""What it costs the mean that fewer users are worse adapted than at the start, and what it costs at least.

    python benchmarks/price_of_sparing.py                     # configs/movielens.py, validation users of all five folds
    python benchmarks/price_of_sparing.py --folds 0 --draws 100

A gate decides from a user's support alone whether the user adapts; it cannot know the user's later ratings. Under the
model's own belief (the posterior of the user's weights after the support, and the noise) each validation user has a
probability to become worse and an expected gain on the very films that he rated later. Training leaves the scale of the
belief open; it is set so that later errors are as large as the belief says. The cheapest choice of how far each user
goes, from the start (0) to the adapted weights (1), follows from the belief, and no gate does better where the belief
is right. Beside it the table has what happened where users with the least gain for their probability stayed at the
start, and where those who move least on their support did, as the gate ``min_shift`` has it. RMSE, averaged over users;
seeds averaged first.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.validation_sweep import shipped  # noqa: E402
from metapers import held_out  # noqa: E402
from metapers.base import Array, Cohort, Params, Tree  # noqa: E402
from metapers.models import sums  # noqa: E402
from metapers.placement import host  # noqa: E402
from metapers.run import search, setup  # noqa: E402
from metapers.spec import check, merged  # noqa: E402

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # of users who stay at the start
WAYS = (0.0, 0.25, 0.5, 0.75, 1.0)  # how far a user may go


class User(NamedTuple):
    """A user of one seed: features [n, d] and residuals [n] around the start's prediction, and the prior."""

    support: np.ndarray
    support_error: np.ndarray
    query: np.ndarray
    query_error: np.ndarray
    prior: sums.Prior  # of the weights less their mean


class Found(NamedTuple):
    """Of every user [users, seeds]: RMSE at the start and adapted, the support's move; what the model believes, by how
    far the user goes [users, seeds, ways]."""

    start: np.ndarray
    adapted: np.ndarray
    move: np.ndarray
    gain: np.ndarray  # expected RMSE at the start less that there
    chance: np.ndarray  # probability of being worse than at the start


@jax.jit
def posterior(phi: Array, errors: Array, prior: sums.Prior) -> tuple[Array, Array]:
    """(mean [d], covariance [d, d]) of a user's weights less their prior mean, after the support."""
    seen = sums.absorb(sums.nothing(phi.shape[1]), phi, errors[:, None], jnp.ones(len(errors), bool))
    mean, covariance = sums.posterior(seen, prior)
    return mean[:, 0], covariance


def belief(user: User) -> tuple[np.ndarray, np.ndarray]:
    """``posterior`` after the user's support, on the host."""
    mean, covariance = posterior(user.support, user.support_error, user.prior)
    return np.asarray(mean, float), np.asarray(covariance, float)


def scale_of(users: Sequence[User]) -> float:
    """By how much variances are to be multiplied so that later errors are as large as believed, averaged over users.

    Where a mean alone is trained, prior and noise are learned up to a common factor, which no prediction depends on.
    """
    real, expected = [], []
    for user in users:
        mean, covariance = belief(user)
        real.append(np.mean(np.square(user.query_error - user.query @ mean)))
        expected.append(float(user.prior.noise) + np.mean(np.sum(user.query @ covariance * user.query, 1)))
    return float(np.mean(real) / np.mean(expected))


def believed(user: User, scale: float, random: np.random.Generator, draws: int) -> Found:
    """A user's row of ``Found``; ``draws`` histories are drawn from the belief, its variances times ``scale``."""
    mean, covariance = belief(user)
    weights = random.multivariate_normal(mean, scale * covariance, draws, method="eigh")
    noise = (scale * float(user.prior.noise)) ** 0.5 * random.standard_normal((draws, len(user.query)))
    errors, shift = weights @ user.query.T + noise, user.query @ mean
    before, after = rmse(errors), np.stack([rmse(errors - way * shift) for way in WAYS])
    real = rmse(user.query_error), rmse(user.query_error - shift)
    move = np.mean(np.square(user.support @ mean))
    return Found(*real, move, np.mean(before - after, 1), np.mean(after > before, 1))


def joined(rows: list[list[Found]]) -> Found:
    """Rows of users [users][seeds] as arrays [users, seeds]."""
    return Found(*(np.array([[getattr(one, name) for one in row] for row in rows]) for name in Found._fields))


def rmse(errors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(np.square(errors), -1))


def least_price(gain: np.ndarray, chance: np.ndarray, share: float) -> float:
    """The least mean gain to give up so that the mean probability to be worse falls to ``share`` of what it is.

    ``gain`` and ``chance`` [users, ways]; the last way is full adaptation. The dual of the linear program
    in which each user goes one way, or several with some probability: the largest of many lower bounds.

    >>> round(least_price(np.array([[0.0, 1.0], [0.0, 4.0]]), np.array([[0.0, 0.5], [0.0, 0.5]]), 0.25), 2)
    1.5
    """
    allowed = share * chance[:, -1].mean()
    prices = np.concatenate([[0.0], np.geomspace(1e-6, 1e3, 5000)])  # of a chance of one, in RMSE
    bounds = [np.mean(np.min(gain[:, -1:] - gain + price * chance, 1)) - price * allowed for price in prices]
    return float(max(bounds))


def gated(found: Found, score: np.ndarray, share: float) -> tuple[float, float]:
    """(RMSE, fraction of users worse) where of each seed the ``share`` with the lowest ``score`` stay at the start."""
    adapts = score >= np.quantile(score, share)
    reached = np.where(adapts, found.adapted, found.start).mean(axis=1)
    return float(reached.mean()), float(np.mean(reached - found.start.mean(axis=1) > 1e-6))


def price(found: Found, score: np.ndarray, share: float) -> float:
    """How much the RMSE rises where so many stay at the start that the fraction worse falls to ``share`` of it."""
    curve = np.array([gated(found, score, one) for one in np.linspace(0, 1, 101)])
    rise, worse = curve[:, 0] - curve[0, 0], curve[:, 1]
    return float(rise[np.flatnonzero(worse <= share * worse[0])[0]])


def users_of(fold: int) -> list[list[User]]:
    """A fold's validation users after all periods of the shipped config without its gate: [users][seeds]."""
    config = shipped("configs/movielens.py")
    head = config.evaluation
    given = {"gate": "none", "data.fold": fold}
    given |= {"evaluation.shots": (head.headline_shots,), "evaluation.steps": (0, head.headline_steps)}
    components = setup.components(check(merged(config, given)))
    params = host(search.learned(components, [components.config], "continual"))
    cohort = components.stream.held_out("validation", None, components.stream.periods - 1)
    starts, _ = held_out.cut(cohort, head.headline_shots)
    seeds = [jax.tree.map(lambda leaf, at=i: leaf[at], params) for i in range(config.seeds)]
    seen_by = [seen(components.model.apply, one, cohort) for one in seeds]
    bounds = list(zip(cohort.offsets[:-1], cohort.offsets[:-1] + starts, cohort.offsets[1:], strict=True))
    return [[User(phi[a:s], e[a:s], phi[s:b], e[s:b], prior) for phi, e, prior in seen_by] for a, s, b in bounds]


def seen(apply: Any, params: Params, cohort: Cohort) -> tuple[np.ndarray, np.ndarray, sums.Prior]:
    """(features [rows, d], residuals around the start's prediction [rows], prior) under one seed's params."""
    params = jax.tree.map(jnp.asarray, params)
    head = params.shared["head"]
    nobody = params._replace(personal=jax.tree.map(jnp.zeros_like, params.personal))

    def start(mean: Array, inputs: Tree) -> Array:
        ours = nobody._replace(shared={**nobody.shared, "head": {**head, "mean": mean}})
        return apply(ours, inputs, jnp.ones(len(jax.tree.leaves(inputs)[0]), bool), None)

    both = jax.jit(lambda inputs: (jax.jacfwd(start)(head["mean"], inputs)[..., 0], start(head["mean"], inputs)))
    phi, guess = (np.asarray(leaf, float) for leaf in both(cohort.inputs))
    factor, noise = jnp.exp(head["log_deviation"]), jnp.exp(2 * head["log_noise"])
    return phi, np.asarray(cohort.targets) - guess, sums.Prior(jnp.zeros_like(head["mean"]), factor, noise)


def table(found: Found) -> str:
    """What was believed and what happened, by the share of users who stay at the start."""
    gain, chance = found.gain[..., -1], found.chance[..., -1]
    orders = found.move, gain / np.maximum(chance, 1e-12)
    rows = [
        "| stay at the start | by the move on the support | worse | by gain over probability later | worse |",
        "|---|---|---|---|---|",
    ]
    for share in SHARES:
        cells = [f"{value:.4f} | {worse:.1%}" for value, worse in (gated(found, by, share) for by in orders)]
        rows.append(f"| {share:.0%} | {' | '.join(cells)} |")
    least = np.mean([least_price(found.gain[:, i], found.chance[:, i], 0.5) for i in range(gain.shape[1])])
    start, mean = found.start.mean(), found.adapted.mean()
    prices = [price(found, by, 0.5) for by in orders]
    rows += [
        "",
        f"{len(found.start)} validation users: {start:.4f} at the start, {mean:.4f} adapted. Of users and seeds "
        f"{np.mean(found.adapted > found.start):.1%} worse, {chance.mean():.1%} believed; gain "
        f"{start - mean:.4f}, {gain.mean():.4f} believed.",
        f"To halve the fraction worse costs {prices[0]:.4f} ({prices[0] / mean:.1%}) by the move on the support, "
        f"{prices[1]:.4f} ({prices[1] / mean:.1%}) by the belief on the later films, and at least {least:.4f} "
        f"({least / mean:.1%}) if the belief is right.",
    ]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--draws", type=int, default=400, help="histories drawn for each user and seed")
    given = parser.parse_args()
    if given.draws < 1:
        parser.error(f"--draws must be >= 1, got {given.draws}")
    users: list[list[User]] = []
    for fold in given.folds.split(","):
        print(f"fold {fold}: training", file=sys.stderr, flush=True)
        users += users_of(int(fold))
    scale, random = scale_of([user for seeds in users for user in seeds]), np.random.default_rng(0)
    rows = [[believed(user, scale, random, given.draws) for user in seeds] for seeds in users]
    print(table(joined(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
