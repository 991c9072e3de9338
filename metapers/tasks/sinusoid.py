"""Sine waves, an endless supply of users: y = A sin(x - phi), the family of Finn et al. 2017 (section 5.1)."""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metapers import keys
from metapers.base import Array, Batch, Cohort, Key, Stream, Task, TaskFamily, Tree
from metapers.held_out import take
from metapers.members import Member
from metapers.options import Option
from metapers.tasks.facts import SourceFacts

LOW, HIGH = -5.0, 5.0  # of x
SPLITS = ("validation", "test", "train")


class _Waves(NamedTuple):
    amplitude: tuple[float, float]
    shift: float
    noise: float


def sinusoid(
    *,
    support: int = 10,
    query: int = 10,
    periods: int = 1,
    users: int = 600,
    examples: int | None = None,
    amplitude: tuple[float, float] = (0.1, 5.0),
    shift: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
) -> Stream:
    """y = A sin(x - phi) + noise: A uniform in ``amplitude`` + period * ``shift``, phi in [0, pi], x in [-5, 5].

    Inputs [n, 1], targets [n]. Training tasks are drawn on the device, ``support`` and ``query`` examples of a user
    never seen before, whose row is drawn from the key, at or above len(users) (no bank holds it); ``data`` is two
    numbers. Held out are ``users`` users a period and split with ``examples`` (default: support + query) each, drawn
    from ``seed``; ``training`` gives as many again, for baselines. A user lives in one period, so none returns.

    Raises:
      ValueError: for sizes below 1, a range of amplitudes that is empty or no range, a shift that is not finite, noise
        or seed below 0, or a window outside the periods.
    """
    examples = support + query if examples is None else examples
    for name, size in dict(support=support, query=query, periods=periods, users=users, examples=examples).items():
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")
    if len(amplitude) != 2 or not -np.inf < amplitude[0] < amplitude[1] < np.inf:
        raise ValueError(f"amplitude must be a range (low, high) with low < high, got {amplitude}")
    if not np.isfinite(shift):
        raise ValueError(f"shift must be finite, got {shift}")
    for name, number in (("noise", noise), ("seed", seed)):
        if not 0 <= number < np.inf:
            raise ValueError(f"{name} must be >= 0, got {number}")
    waves = _Waves(amplitude, shift, noise)
    lives = {split: _lives(waves, number, periods, users, examples, seed) for number, split in enumerate(SPLITS)}

    def held_out(split: str, period: int | None) -> Cohort:
        if split not in SPLITS[:2]:
            raise ValueError(f"split must be one of {SPLITS[:2]}, got {split!r}")
        if period is None:
            return lives[split]
        one = _part(lives[split], users * _period(period, periods), users)
        return one._replace(periods=np.full_like(one.periods, period))

    def training(period: int | None) -> Cohort:
        last = periods - 1 if period is None else _period(period, periods)
        return _part(lives["train"], 0, users * (last + 1))

    names = tuple(f"sinusoid-{split}-{row}" for split in SPLITS for row in range(periods * users))
    family = _family(waves, support, query, periods, len(names))
    return Stream(family, held_out, periods, names, _provenance(waves, lives, periods, users, examples, seed), training)


SINUSOID_MEMBER = Member(
    sinusoid,
    options={
        "support": Option(10, least=1, doc="examples to adapt on in a training task"),
        "query": Option(10, least=1, doc="examples to evaluate on in a training task; held-out users have both"),
        "periods": Option(1, least=1, doc="number of periods"),
        "users": Option(600, least=1, doc="held-out users in a period, of each split"),
        "amplitude": Option((0.1, 5.0), doc="range (low, high) of the amplitude in the first period"),
        "shift": Option(0.0, doc="distance by which the range of amplitudes moves from period to period"),
        "noise": Option(0.0, least=0, doc="standard deviation of a target"),
        "seed": Option(0, least=0, doc="seed of the held-out users"),
    },
    paper="Finn, Abbeel, Levine 2017, arXiv:1703.03400",
    example={"users": 60},
    facts=SourceFacts(),
    doc="sine waves, an endless supply of training users",
)


def _period(period: int, periods: int) -> int:
    if not 0 <= period < periods:
        raise ValueError(f"period must be between 0 and {periods - 1}, got {period}")
    return period


def _lives(waves: _Waves, number: int, periods: int, users: int, examples: int, seed: int) -> Cohort:
    rng = np.random.default_rng([seed, number])
    total = periods * users
    low, high = waves.amplitude
    amplitude = rng.uniform(low, high, (total, 1)) + waves.shift * np.repeat(np.arange(periods), users)[:, None]
    phase = rng.uniform(0, np.pi, (total, 1))
    x = rng.uniform(LOW, HIGH, (total, examples))
    y = amplitude * np.sin(x - phase) + waves.noise * rng.standard_normal(x.shape)
    float_, none = jnp.zeros(()).dtype, np.zeros(x.size, np.float32)  # none: no time
    return Cohort(
        x.reshape(-1, 1).astype(float_),
        y.reshape(-1).astype(float_),
        np.arange(total + 1, dtype=np.int64) * examples,
        np.arange(total, dtype=np.int32) + number * total,
        np.full(total, -1, np.int32),
        np.zeros(total, bool),
        np.repeat(np.arange(periods, dtype=np.int32), users * examples),
        time=none,
        available=none,
    )


def _part(life: Cohort, first: int, count: int) -> Cohort:
    return take(life, np.arange(first, first + count))


def _family(waves: _Waves, support: int, query: int, periods: int, first: int) -> TaskFamily:
    low, high = waves.amplitude
    count = support + query

    def data(window: tuple[int, int], step: int, num: int) -> Tree:
        if not 0 <= window[0] <= window[1] < periods:
            raise ValueError(f"window must satisfy 0 <= first <= last < {periods}, got {window}")
        return jax.device_put({"first": np.int32(window[0]), "last": np.int32(window[1])})

    def one(data: Tree, key: Key) -> Task:
        drawn = jax.random.uniform(keys.named(key, "wave"), (3 + count,))
        window = data["last"] + 1 - data["first"]
        offset = (drawn[0] * window.astype(drawn.dtype)).astype(jnp.int32)
        period = data["first"] + jnp.minimum(offset, window - 1)
        height = low + (high - low) * drawn[1] + waves.shift * period.astype(drawn.dtype)
        x = LOW + (HIGH - LOW) * drawn[3:]
        y = height * jnp.sin(x - np.pi * drawn[2])
        if waves.noise:
            y = y + waves.noise * jax.random.normal(keys.named(key, "noise"), (count,))
        none = jnp.zeros_like(y)  # of time
        both = Batch(x[:, None], y, jnp.ones_like(y, bool), none, none)
        cuts = slice(support), slice(support, None)
        before, after = (jax.tree.map(lambda leaf, at=at: leaf[at], both) for at in cuts)
        user = jax.random.randint(keys.named(key, "user"), (), first, 2**31 - 1, jnp.int32)
        return Task(before, after, user, {"period": period})

    def sample(data: Tree, step: Array, n: int, key: Key) -> tuple[Task, Array]:
        drawn = keys.named(key, "tasks", step)
        each = jax.vmap(lambda i: jax.random.fold_in(drawn, i))(jnp.arange(n))
        return jax.vmap(one, in_axes=(None, 0))(data, each), jnp.ones(n, bool)

    return TaskFamily(data, sample)


def _provenance(
    waves: _Waves, lives: dict[str, Cohort], periods: int, users: int, examples: int, seed: int
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(lives[split].inputs.tobytes() + lives[split].targets.tobytes())
    counts = {"users": users, "examples": users * examples}
    return {
        "source": "sinusoid",
        "version": "1",
        **waves._asdict(),
        "amplitude": list(waves.amplitude),
        "seed": seed,
        "sha256": digest.hexdigest(),
        "periods": periods,
        "users": len(SPLITS) * periods * users,
        "examples": len(SPLITS) * periods * users * examples,
        "dropped_segments": 0,
        "splits": {split: [counts] * periods for split in SPLITS},
    }
