"""What the pictures show, as arrays: from records and the summary to curves, users and periods."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metapers.members import registry
from metapers.scores.bootstrap import ends, weights


class Cube(NamedTuple):
    """The last version's scores of an arm on whole lives."""

    users: np.ndarray  # [users], hashes in order
    shots: np.ndarray
    steps: np.ndarray
    values: np.ndarray  # [seeds, users, shots, steps]

    def at(self, shots: int, steps: int) -> np.ndarray:
        """[seeds, users] at one point of the curves."""
        return self.values[:, :, int(np.searchsorted(self.shots, shots)), int(np.searchsorted(self.steps, steps))]


class Band(NamedTuple):
    """Means over users with the ends of their intervals, each [shots, steps]."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Found(NamedTuple):
    """Everything that the pictures read."""

    cubes: dict[str, Cube]
    bands: dict[str, Band]
    arms: list[str]  # that take inner steps, the leader last so that it is drawn on top
    references: list[str]
    banked: list[dict[str, Any]]


def needed(summary: Mapping[str, Any]) -> pc.Expression:
    """The records that the pictures read: whole histories, and what returning users have at the headline's shots."""
    head = summary["headline"]
    own = (pc.field("arm") == head["arm"]) & (pc.field("shots") == head["shots"])
    return (pc.field("metric") == head["metric"]) & ((pc.field("period") == -1) | own)


def read(table: pa.Table, summary: Mapping[str, Any], draws: int) -> Found:
    """Curves of the last version, and of those who return the gain of their own row, at the summary's metric."""
    head = summary["headline"]
    rows = _only(table, metric=head["metric"], split="test")
    rows = rows.select(["arm", "seed", "version", "period", "user", "start", "shots", "steps", "value"])
    last = pc.max(rows["version"]).as_py()  # pyright: ignore
    lives = _only(rows, period=-1, version=last, start="fresh")
    names = lives["arm"].unique().to_pylist()
    cubes = {name: cube(_only(lives, arm=name)) for name in names}
    known = [name for name in head["arms"] if name in cubes and name != head["arm"]]
    return Found(
        cubes=cubes,
        bands={name: band(found, draws) for name, found in cubes.items()},
        arms=[*known, head["arm"]],
        references=[name for name in (*registry("baseline"), "oracle") if name in cubes],
        banked=banked(_only(rows, arm=head["arm"], shots=head["shots"]), summary, draws),
    )


def cube(rows: pa.Table) -> Cube:
    """Rows of one arm as an array; ValueError where a seed, user, shots or steps is missing or given twice."""
    axes, places = [], []
    for name in ("seed", "user", "shots", "steps"):
        coded = rows[name].combine_chunks().dictionary_encode()
        words = coded.dictionary.to_numpy(zero_copy_only=False)  # pyright: ignore
        order = np.argsort(words)
        axes.append(words[order])
        places.append(np.argsort(order)[coded.indices.to_numpy()])  # pyright: ignore
    shape = tuple(axis.size for axis in axes)
    flat = np.ravel_multi_index(places, shape)
    if flat.size != np.prod(shape) or np.unique(flat).size != flat.size:
        raise ValueError(f"records must hold each of {shape} seeds, users, shots and steps once, got {flat.size} rows")
    values = np.empty(flat.size)
    values[flat] = rows["value"].to_numpy()
    return Cube(axes[1], axes[2], axes[3], values.reshape(shape))


def band(found: Cube, draws: int) -> Band:
    """95 % intervals over users, seeds averaged first: ``scores.mean_interval`` for all points at once."""
    users = found.values.mean(axis=0)
    flat, shape = users.reshape(len(users), -1), users.shape[1:]
    low, high = ends(flat.mean(axis=0), resampled(flat, draws), units=len(users))
    return Band(users.mean(axis=0), low.reshape(shape), high.reshape(shape))


def resampled(values: np.ndarray, draws: int) -> np.ndarray:
    """Means [draws, points] of ``values`` [users, points], users drawn with replacement."""
    return np.concatenate([drawn @ values / len(values) for drawn in weights(len(values), draws, 0)])


def banked(rows: pa.Table, summary: Mapping[str, Any], draws: int) -> list[dict[str, Any]]:
    """The summary's rows of those who returned, with the paired difference, banked - fresh, and its interval."""
    steps = summary["headline"]["steps"]
    found = []
    for row in summary["banked"]:
        period = row["period"]
        here = _only(rows, version=period, period=period)
        own, fresh = (cube(_only(here, start=start)) for start in ("banked", "fresh"))
        same = np.isin(fresh.users, own.users)
        more: dict[str, Any] = dict(row)
        for taken in (0, steps):
            gap = (own.at(own.shots[0], taken) - fresh.at(own.shots[0], taken)[:, same]).mean(axis=0)
            low, high = ends(gap.mean(), resampled(gap[:, None], draws)[:, 0], units=len(gap))
            more[f"gap_{taken}"] = {"mean": float(gap.mean()), "low": float(low), "high": float(high)}
        found.append(more)
    return found


def gains(found: Found, summary: Mapping[str, Any], reference: str, steps: int) -> np.ndarray:
    """[seeds * users]: how much better the leader is than ``reference`` at ``steps``, for each user and seed."""
    head = summary["headline"]
    ours = found.cubes[head["arm"]].at(head["shots"], head["steps"])
    theirs = found.cubes[reference].at(head["shots"], steps)
    difference = ours - theirs if head["larger_is_better"] else theirs - ours
    return difference.ravel()


def strongest(summary: Mapping[str, Any], among: tuple[str, ...] | None = None) -> str | None:
    """The best comparison of the headline table, the oracle apart; None where there is none."""
    head = summary["headline"]
    better = -1.0 if head["larger_is_better"] else 1.0
    names = [name for name in head["baselines"] if name != "oracle" and (among is None or name in among)]
    return min(names, key=lambda name: better * head["baselines"][name]["mean"], default=None)


def _only(table: pa.Table, **where: Any) -> pa.Table:
    keep = None
    for name, value in where.items():
        same = pc.call_function("equal", [table[name], pa.scalar(value, table.schema.field(name).type)])
        keep = same if keep is None else pc.call_function("and", [keep, same])
    return table.filter(keep)
