"""Ragged histories of users turned into a stream: training tasks drawn on the device, cohorts kept on the host."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metapers.base import Cohort, Stream, Tree
from metapers.tasks import splits
from metapers.tasks.past import History, Past, fixed_at, known_at, of_rows, past_of
from metapers.tasks.segments import Segments, family


class Examples(NamedTuple):
    """A source's examples on the host, in any order; ties in ``time`` keep the order they are given in."""

    users: tuple[str, ...]  # outside ids by row
    user: np.ndarray  # int [N], rows
    stage: np.ndarray  # int [N]
    time: np.ndarray  # int or float [N], any unit
    inputs: Tree  # numpy [N, ...]
    targets: Tree  # numpy [N, ...]
    known: Mapping[str, np.ndarray] = {}  # [N, stages]: inputs that grow with the stream, as known after each stage


def stream(
    examples: Examples,
    *,
    stages: int,
    fold: int,
    support: int,
    query: int,
    p_full_support: float = 0.5,
    p_from_first: float = 0.0,
    length_power: float = 0.0,
    history: History | None = None,
    about: Mapping[str, Any],
    oracle: Callable[[Cohort, int, int], Tree] | None = None,
) -> Stream:
    """A stream from dated examples: sorted by (stage, user, time), users split by ``splits.split_of`` in ``fold``.

    A (stage, user) segment of one example can hold no task: it is left out of training and of that stage's cohorts,
    and counted; whole histories (of two examples or more) and ``training`` keep its example. ``returning``: the user
    has a segment that was kept in an earlier stage. Floats become JAX's default float, integers int32.
    Inputs in ``examples.known`` join the others as they stood at the end of a stage: for training that of the window,
    for cohorts as asked. With ``history`` so do ``past_<name>`` [length, ...] of the user's examples just before, of
    all stages, the most recent last, and ``past_there``, 1 or, where there were fewer, 0, as all the others are there.
    ``about``: source, version, boundaries of stages, first in the provenance. The rest as ``segments.family``.

    Raises:
      ValueError: for examples that do not fit together, are not finite or out of range; a stage without training.
    """
    _check_examples(examples, stages)
    split = np.array([splits.split_of(name, fold) for name in examples.users])
    ordered = _take(examples, np.lexsort((examples.time, examples.user, examples.stage)))
    digest = _fingerprint(ordered)
    ordered = ordered._replace(**{name: _canonical(getattr(ordered, name)) for name in ("inputs", "targets", "known")})
    table = _table(ordered, split)
    _check_stages(table, stages)
    past = past_of(history, ordered.user, ordered.inputs, ordered.targets, ordered.known) if history else None
    drawn = family(
        _segments(ordered, table, past),
        stages=stages,
        support=support,
        query=query,
        p_full_support=p_full_support,
        p_from_first=p_from_first,
        length_power=length_power,
    )

    def held_out(wanted: str, stage: int | None, known: int | None = None) -> Cohort:
        if wanted not in splits.SPLITS[1:]:
            raise ValueError(f"split must be one of {splits.SPLITS[1:]}, got {wanted!r}")
        at = functools.partial(_as_known, ordered, past, stages - 1 if known is None else _stage(known, stages))
        if stage is None:
            return _life(at, ordered.user, np.arange(len(ordered.user)), split == wanted, 2)
        return _cohort(at, table, wanted, stage, stages)

    def training(stage: int | None) -> Cohort:
        last = stages - 1 if stage is None else _stage(stage, stages)
        so_far = np.flatnonzero(ordered.stage <= last)
        return _life(functools.partial(_as_known, ordered, past, last), ordered.user, so_far, split == "train", 1)

    provenance = {**about, "sha256": digest, "fold": fold, "stages": stages, **_counts(ordered, table, stages)}
    return Stream(drawn, held_out, stages, examples.users, provenance, training, oracle)


class _Table(NamedTuple):
    start: np.ndarray  # one row for each (stage, user), in order
    length: np.ndarray
    user: np.ndarray
    stage: np.ndarray
    split: np.ndarray
    kept: np.ndarray  # bool, at least two examples
    returning: np.ndarray


def _stage(stage: int, stages: int) -> int:
    if not 0 <= stage < stages:
        raise ValueError(f"stage must be between 0 and {stages - 1}, got {stage}")
    return stage


def _check_examples(examples: Examples, stages: int) -> None:
    total = len(examples.user)
    for name, tree in examples._asdict().items():
        if name != "users" and any(len(leaf) != total for leaf in jax.tree.leaves(tree)):
            raise ValueError(f"{name} must hold {total} examples in every leaf, as user does")
    if len(set(examples.users)) != len(examples.users):
        raise ValueError("users must be distinct ids")
    for name, values, bound in (("user", examples.user, len(examples.users)), ("stage", examples.stage, stages)):
        if total and not (0 <= values.min() and values.max() < bound):
            raise ValueError(f"{name} must be between 0 and {bound - 1}, got {values.min()} to {values.max()}")
    if any(np.shape(leaf)[1:] != (stages,) for leaf in examples.known.values()):
        raise ValueError(f"known must hold a column for each of the {stages} stages in every leaf")
    for name in ("time", "inputs", "targets", "known"):
        for leaf in jax.tree.leaves(getattr(examples, name)):
            if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
                raise ValueError(f"{name} must be finite, got a nan or an infinity")


def _check_stages(table: _Table, stages: int) -> None:
    for stage in range(stages):
        if not (table.kept & (table.split == "train") & (table.stage == stage)).any():
            raise ValueError(f"stage {stage} is empty: it has no training user with two examples or more")


def _as_known(ordered: Examples, past: Past | None, stage: int, rows: np.ndarray) -> Examples:
    part = _take(ordered, rows)
    if not part.known and past is None:
        return part
    inputs = dict(part.inputs) | {name: leaf[:, stage] for name, leaf in part.known.items()}
    if past is not None:
        inputs |= fixed_at(past, rows) | known_at(past, rows, stage)
    return part._replace(inputs=inputs, known={})


def _take(examples: Examples, rows: np.ndarray) -> Examples:
    return Examples(examples.users, *jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tuple(examples[1:])))


def _fingerprint(ordered: Examples) -> str:
    digest = hashlib.sha256(json.dumps(ordered.users).encode())
    for path, leaf in jax.tree.leaves_with_path(ordered._replace(users=())._asdict()):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.dtype.str}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _canonical(tree: Tree) -> Tree:
    def one(leaf: np.ndarray) -> np.ndarray:
        if np.issubdtype(leaf.dtype, np.floating):
            return leaf.astype(jnp.zeros(()).dtype)
        if not np.issubdtype(leaf.dtype, np.integer):
            return leaf
        if leaf.size and not (-(2**31) <= leaf.min() and leaf.max() < 2**31):
            raise ValueError(f"integers must fit int32, got {leaf.min()} to {leaf.max()}")
        return leaf.astype(np.int32)

    return jax.tree.map(one, tree)


def _table(ordered: Examples, split: np.ndarray) -> _Table:
    changes = (np.diff(ordered.stage) != 0) | (np.diff(ordered.user) != 0)
    start = np.concatenate([[0], np.flatnonzero(changes) + 1])[: max(len(ordered.user), 0)]
    length = np.diff(np.append(start, len(ordered.user)))
    user, stage, kept = ordered.user[start], ordered.stage[start], length >= 2
    first = np.full(len(ordered.users), np.iinfo(np.int32).max)
    np.minimum.at(first, user[kept], stage[kept])
    return _Table(start, length, user, stage, split[user], kept, first[user] < stage)


def _rows(table: _Table, chosen: np.ndarray) -> np.ndarray:
    pairs = zip(table.start[chosen], table.length[chosen], strict=True)
    return np.concatenate([np.arange(0), *(np.arange(s, s + n) for s, n in pairs)])


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _segments(ordered: Examples, table: _Table, past: Past | None) -> Segments:
    trained = table.split == "train"
    chosen = table.kept & trained
    rows = _rows(table, chosen)
    part = _take(ordered, rows)
    lengths = table.length[chosen]
    numbers = (_offsets(lengths)[:-1], lengths, table.user[chosen], table.stage[chosen])
    start, length, user, stage = (x.astype(np.int32) for x in numbers)
    before = of_rows(past, rows, _rows(table, trained)) if past is not None else ()
    return Segments(part.inputs, part.targets, start, length, user, stage, part.known, before)


def _cohort(at: Callable[[np.ndarray], Examples], table: _Table, wanted: str, stage: int, stages: int) -> Cohort:
    chosen = table.kept & (table.split == wanted) & (table.stage == _stage(stage, stages))
    part = at(_rows(table, chosen))
    users = table.user[chosen].astype(np.int32)
    offsets = _offsets(table.length[chosen])
    return Cohort(part.inputs, part.targets, offsets, users, np.full_like(users, stage), table.returning[chosen])


def _life(
    at: Callable[[np.ndarray], Examples], user: np.ndarray, rows: np.ndarray, chosen: np.ndarray, least: int
) -> Cohort:
    counts = np.bincount(user[rows], minlength=len(chosen))
    wanted = chosen & (counts >= least)
    rows = rows[np.argsort(user[rows], kind="stable")]
    part = at(rows[wanted[user[rows]]])
    users = np.flatnonzero(wanted).astype(np.int32)
    none = np.zeros(len(users), bool)
    return Cohort(part.inputs, part.targets, _offsets(counts[wanted]), users, np.full_like(users, -1), none)


def _counts(ordered: Examples, table: _Table, stages: int) -> dict[str, Any]:
    def of(split: str, stage: int) -> dict[str, int]:
        chosen = table.kept & (table.split == split) & (table.stage == stage)
        return {"users": int(chosen.sum()), "examples": int(table.length[chosen].sum())}

    return {
        "users": len(ordered.users),
        "examples": len(ordered.user),
        "dropped_segments": int((~table.kept).sum()),
        "splits": {split: [of(split, stage) for stage in range(stages)] for split in splits.SPLITS},
    }
