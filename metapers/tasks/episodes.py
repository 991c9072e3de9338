"""N-way K-shot episodes: an endless supply of small classification tasks, drawn on the device from images."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metapers import keys
from metapers.base import Array, Batch, Cohort, Key, Stream, Task, TaskFamily, Tree

SPLITS = ("validation", "test", "train")


def episodes(
    images: Mapping[str, np.ndarray],
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 1,
    rotations: Sequence[int] = (0,),
    periods: int = 1,
    episodes: int = 600,
    examples: int | None = None,
    train_ways: int | None = None,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> Stream:
    """Episodes of ``ways`` classes: ``shots`` drawings of each to adapt on, ``queries`` others to be judged on.

    ``images``: "train", "validation" and "test", each [classes, drawings, height, width, channels]; the splits share
    no class. Inputs are uint8 / 255, bool as 0 and 1, or floats as they are; a target is the int32 place of the class
    in the episode, 0..ways-1. Each of ``rotations`` (quarter turns counter-clockwise, 0..3) of a class is a class of
    its own, in every split, so that there are classes * len(rotations) of them. An episode draws distinct classes, in
    random order, and distinct drawings of each, all equally likely. Its rows come round by round: one drawing of class
    0, 1, ..., ways - 1, then again; so the first ways * K rows are a K-shot support.

    Training tasks are drawn on the device, where the images lie once and as they are given; a task depends on (key,
    step, its place in the batch), not on n. Its user's row is drawn too, at or above len(users) (no bank holds it).
    Held out are ``episodes`` episodes a period and split with ``examples`` (default: shots + queries) drawings of each
    class, drawn from ``seed``; ``training`` gives as many of training classes. With ``periods`` the classes of every
    split are divided over the periods in order and as evenly as can be; an episode lives in one period, and a window of
    periods gives each period episodes in proportion to its classes. ``train_ways``: tasks to train on have so many
    classes instead, as prototypical networks are trained on harder episodes than they are judged on (Snell, Swersky,
    Zemel 2017, arXiv:1703.05175, section 2.6); ``classes`` in the provenance is the larger of the two. ``about``
    replaces source and version in the provenance and adds to it.

    Raises:
      ValueError: for sizes below 1, rotations that are not distinct or not 0..3, images that do not fit together, are
        not finite, or are not square where a rotation needs it, a period with fewer classes than ``ways`` (or
        ``train_ways``), fewer drawings than an episode needs, or a window outside the periods.
    """
    rounds = shots + queries if examples is None else examples
    harder = ways if train_ways is None else train_ways
    sizes = {"ways": ways, "train_ways": harder, "shots": shots, "queries": queries, "examples": rounds}
    _check_sizes(**sizes, periods=periods, episodes=episodes, rotations=rotations)
    pools = {split: _pool(images, split, periods, tuple(rotations)) for split in SPLITS}
    for split in SPLITS:
        _check_pool(split, pools[split], pools["train"], "ways", ways)
        if split == "train" or examples is None:
            _check_shots(split, pools[split], shots, queries)
        _check_examples(split, pools[split], rounds)
    _check_pool("train", pools["train"], pools["train"], "train_ways", harder)
    fixed = {
        split: _fixed(pools[split], np.random.default_rng([seed, number]), episodes, rounds, ways)
        for number, split in enumerate(SPLITS)
    }
    total = periods * episodes

    def cohort(split: str, first: int, count: int, period: int) -> Cohort:
        part = _Fixed(*(leaf[first : first + count] for leaf in fixed[split]))
        users = np.arange(first, first + count, dtype=np.int32) + SPLITS.index(split) * total
        return _cohort(pools[split], part, users, period, np.arange(first, first + count) // episodes)

    def held_out(split: str, period: int | None) -> Cohort:
        if split not in SPLITS[:2]:
            raise ValueError(f"split must be one of {SPLITS[:2]}, got {split!r}")
        if period is None:
            return cohort(split, 0, total, -1)
        return cohort(split, episodes * _period(period, periods), episodes, period)

    def training(period: int | None) -> Cohort:
        last = periods - 1 if period is None else _period(period, periods)
        return cohort("train", 0, episodes * (last + 1), -1)

    names = tuple(f"episode-{split}-{row}" for split in SPLITS for row in range(total))
    told = {"source": "episodes", "version": "1"} | dict(about or {})
    told |= {"ways": ways, "shots": shots, "queries": queries, "rotations": [int(turn) for turn in rotations]}
    told |= {"classes": max(ways, harder)} | ({} if train_ways is None else {"train_ways": train_ways})
    provenance = told | {"seed": seed} | _counts(pools, fixed, periods, episodes)
    family = _family(pools["train"], harder, shots, queries, len(names))
    return Stream(family, held_out, periods, names, provenance, training)


class _Pool(NamedTuple):
    """One split's classes; ``bounds`` [periods + 1]: period s has the classes bounds[s]:bounds[s + 1]."""

    images: np.ndarray
    bounds: np.ndarray
    rotations: tuple[int, ...]


class _Fixed(NamedTuple):
    """Episodes by number: turned class (class * rotations + turn) and drawing, int32 [episodes, rounds, ways]."""

    turned: np.ndarray
    drawing: np.ndarray


def _period(period: int, periods: int) -> int:
    if not 0 <= period < periods:
        raise ValueError(f"period must be between 0 and {periods - 1}, got {period}")
    return period


def _check_sizes(*, rotations: Sequence[int], **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")
    turns = list(rotations)
    if not turns or len(set(turns)) != len(turns) or not set(turns) <= {0, 1, 2, 3}:
        raise ValueError(f"rotations must be distinct quarter turns between 0 and 3, at least one, got {turns}")


def _pool(images: Mapping[str, np.ndarray], split: str, periods: int, rotations: tuple[int, ...]) -> _Pool:
    if split not in images:
        raise ValueError(f"images must hold {sorted(SPLITS)}, got {sorted(images)}")
    found = np.asarray(images[split])
    name = f"images[{split!r}]"
    if found.ndim != 5 or 0 in found.shape:
        raise ValueError(f"{name} must be [classes, drawings, height, width, channels], got the shape {found.shape}")
    if np.issubdtype(found.dtype, np.floating):
        if not np.isfinite(found).all():
            raise ValueError(f"{name} must be finite, got a nan or an infinity")
        found = found.astype(jnp.zeros(()).dtype)
    elif found.dtype not in (np.uint8, np.bool_):
        raise ValueError(f"{name} must be uint8, bool or float, got {found.dtype}")
    if found.shape[2] != found.shape[3] and {1, 3} & set(rotations):
        raise ValueError(f"{name} must be square where rotations hold 1 or 3, got the shape {found.shape}")
    return _Pool(found, np.arange(periods + 1) * len(found) // periods, rotations)


def _check_pool(split: str, pool: _Pool, train: _Pool, name: str, ways: int) -> None:
    for what, one, other in (
        ("image shape", pool.images.shape[2:], train.images.shape[2:]),
        ("dtype", pool.images.dtype, train.images.dtype),
    ):
        if one != other:
            raise ValueError(f"images[{split!r}] must have the {what} {other} of images['train'], got {one}")
    fewest = int(np.diff(pool.bounds).min()) * len(pool.rotations)
    if fewest < ways:
        where = f"a period of images[{split!r}], rotations included"
        raise ValueError(f"{name} must be <= {fewest}, the fewest classes of {where}, got {ways}")


def _check_shots(split: str, pool: _Pool, shots: int, queries: int) -> None:
    count = pool.images.shape[1]
    of = f"as a class of images[{split!r}] has {count} drawings"
    if queries >= count:
        raise ValueError(f"queries must be < {count}, {of}, got {queries}")
    if shots > count - queries:
        raise ValueError(f"shots must be <= {count - queries}, {of} and {queries} are queries, got {shots}")


def _check_examples(split: str, pool: _Pool, rounds: int) -> None:
    count = pool.images.shape[1]
    if rounds > count:
        raise ValueError(f"examples must be <= {count}, the drawings of a class in images[{split!r}], got {rounds}")


def _fixed(pool: _Pool, rng: np.random.Generator, episodes: int, rounds: int, ways: int) -> _Fixed:
    turns, drawings = len(pool.rotations), pool.images.shape[1]
    turned, drawing = [], []
    for begin, end in zip(pool.bounds[:-1] * turns, pool.bounds[1:] * turns, strict=True):
        for _ in range(episodes):
            turned.append(np.broadcast_to(begin + rng.choice(end - begin, ways, replace=False), (rounds, ways)))
            order = rng.permuted(np.broadcast_to(np.arange(drawings)[:, None], (drawings, ways)), axis=0)
            drawing.append(order[:rounds])
    return _Fixed(np.stack(turned).astype(np.int32), np.stack(drawing).astype(np.int32))


def _cohort(pool: _Pool, part: _Fixed, users: np.ndarray, period: int, lived: np.ndarray) -> Cohort:
    number, rounds, ways = part.turned.shape
    source, turn = np.divmod(part.turned.reshape(-1), len(pool.rotations))
    inputs = pool.images[source, part.drawing.reshape(-1)]  # a copy
    for place, quarter in enumerate(pool.rotations):
        if quarter:
            inputs[turn == place] = np.rot90(inputs[turn == place], quarter, axes=(1, 2))
    inputs = inputs.astype(jnp.zeros(()).dtype)
    if pool.images.dtype == np.uint8:
        inputs /= 255
    none = np.zeros(len(inputs), np.float32)  # of time
    return Cohort(
        inputs,
        np.tile(np.arange(ways, dtype=np.int32), number * rounds),
        np.arange(number + 1, dtype=np.int64) * rounds * ways,
        users,
        np.full(number, period, np.int32),
        np.zeros(number, bool),
        np.repeat(lived.astype(np.int32), rounds * ways),
        time=none,
        available=none,
    )


def _counts(pools: dict[str, _Pool], fixed: dict[str, _Fixed], periods: int, episodes: int) -> dict[str, Any]:
    digest = hashlib.sha256()
    for split in SPLITS:
        shape = pools[split].images.shape
        digest.update(f"{split}{shape}{pools[split].images.dtype.str}".encode())
        digest.update(np.ascontiguousarray(pools[split].images).tobytes())
        digest.update(fixed[split].turned.tobytes() + fixed[split].drawing.tobytes())
    size = {split: fixed[split].turned[0].size for split in SPLITS}
    table = {
        split: [
            {"users": episodes, "examples": episodes * size[split], "classes": int(classes) * len(pool.rotations)}
            for classes in np.diff(pool.bounds)
        ]
        for split, pool in pools.items()
    }
    return {
        "sha256": digest.hexdigest(),
        "periods": periods,
        "users": len(SPLITS) * periods * episodes,
        "examples": periods * episodes * sum(size.values()),
        "dropped_segments": 0,
        "splits": table,
    }


def _family(pool: _Pool, ways: int, shots: int, queries: int, first: int) -> TaskFamily:
    periods, turns, drawings = len(pool.bounds) - 1, len(pool.rotations), pool.images.shape[1]
    bounds = pool.bounds * turns
    most, rounds = int(np.diff(bounds).max()), shots + queries

    @functools.cache
    def arrays() -> Tree:  # on the device once, when first asked for; the same buffers ever after
        return jax.device_put({"images": pool.images, "bounds": bounds.astype(np.int32)})

    def data(window: tuple[int, int], step: int, num: int) -> Tree:
        if not 0 <= window[0] <= window[1] < periods:
            raise ValueError(f"window must satisfy 0 <= first <= last < {periods}, got {window}")
        return arrays() | jax.device_put({"first": np.int32(window[0]), "last": np.int32(window[1])})

    def one(data: Tree, key: Key) -> Task:
        # a single draw for all that is chosen: one threefry call a task in the hot path
        drawn = jax.random.bits(key, (2 + most + ways * drawings,), jnp.uint32)
        edges = data["bounds"]
        low, high = edges[data["first"]], edges[data["last"] + 1]
        period = jnp.searchsorted(edges, low + _below(drawn[0], high - low), side="right").astype(jnp.int32) - 1
        begin, end = edges[period], edges[period + 1]
        place = jnp.arange(most, dtype=jnp.int32)
        turned = begin + _distinct(drawn[2 : 2 + most], place < end - begin, ways)
        which = _distinct(drawn[2 + most :].reshape(ways, drawings), jnp.ones((ways, drawings), bool), rounds)
        images = data["images"][turned[:, None] // turns, which]  # [ways, rounds, height, width, channels]
        images = jnp.swapaxes(_turn(images, (turned % turns)[:, None], pool.rotations), 0, 1)
        inputs = _float(images).reshape(rounds * ways, *images.shape[2:])
        targets = jnp.tile(jnp.arange(ways, dtype=jnp.int32), rounds)
        mask, none, cut = jnp.ones_like(targets, bool), jnp.zeros(rounds * ways), shots * ways  # none: no time
        user = first + _below(drawn[1], jnp.int32(2**31 - 1 - first))
        notes = {"period": period}
        both = Batch(inputs, targets, mask, none, none)
        before, after = (jax.tree.map(lambda leaf, at=at: leaf[at], both) for at in (slice(cut), slice(cut, None)))
        return Task(before, after, user, notes)

    def sample(data: Tree, step: Array, n: int, key: Key) -> tuple[Task, Array]:
        drawn = keys.named(key, "tasks", step)
        each = jax.vmap(lambda i: jax.random.fold_in(drawn, i))(jnp.arange(n))
        return jax.vmap(one, in_axes=(None, 0))(data, each), jnp.ones(n, bool)

    return TaskFamily(data, sample)


def _below(bits: Array, bound: Array) -> Array:
    return (bits % bound.astype(jnp.uint32)).astype(jnp.int32)


def _distinct(bits: Array, allowed: Array, count: int) -> Array:
    # the places of the largest of random numbers: a random choice in random order. In float32, where XLA has a fast
    # top_k and 24 bits are exact, whatever the default float is.
    order = jnp.where(allowed, (bits >> 8).astype(jnp.float32), -1)
    return jax.lax.top_k(order, count)[1]


def _turn(images: Array, turn: Array, rotations: tuple[int, ...]) -> Array:
    wide = jnp.reshape(turn, turn.shape + (1,) * 3)
    turned = jnp.rot90(images, rotations[0], axes=(-3, -2))
    for place, quarter in enumerate(rotations[1:], 1):
        turned = jnp.where(wide == place, jnp.rot90(images, quarter, axes=(-3, -2)), turned)
    return turned


def _float(images: Array) -> Array:
    wide = images.astype(jnp.zeros(()).dtype)
    return wide / 255 if images.dtype == jnp.uint8 else wide
