"""Several values of config keys in one command, ranked on validation users; never on test users.

Combinations that differ only in what a learner's state carries (the rates of optimizers, the start of learned inner
rates) are one program, vmapped beside the seeds; others are built one after the other.
"""

import ast
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from metapers import placement, store, workdir
from metapers.base import Params, Tree
from metapers.journal import meter
from metapers.options import ConfigError
from metapers.run import lineage, loop, setup
from metapers.run.resume import Interrupted, interruptions
from metapers.scores import sign
from metapers.scoring import curves
from metapers.scoring import scorer as scoring
from metapers.spec import Arm, Components, Config, arms, building, check, leading, merged, unused
from metapers.spec.building import learner as build_learner
from metapers.spec.root import OPERATIONAL
from metapers.spec.tree import at, binding, options, plain
from metapers.workdir import SWEEP


def run(config: Config, specs: Sequence[str], folder: Path) -> dict[str, Any]:
    """Trains every combination of ``specs`` ("key=value,value") and writes ``sweep.json``, best first; returns the
    best one's keys and values.

    The arm is ``spec.leading``. The rank is that of the headline score on the validation
    users' whole lives, mean over seeds; a combination whose training diverged comes last, without a score. The same
    sweep in the same folder goes on with the combinations that are not there yet.

    Raises:
      ValueError: for an unknown key, one that changes no number or by what is ranked, one that is given twice, a value
        of another type, a spec without values, a folder that holds a run or another sweep, and a combination that is
        refused, before any is trained; and where all diverged.
      Interrupted: after Ctrl-C or SIGTERM; the combinations that ended are kept.
    """
    grid: dict[str, tuple[Any, ...]] = {}
    for key, values in (parse(config, spec) for spec in specs):
        if key in grid:
            raise ValueError(f"sweep must name a key once, got {key!r} twice")
        grid[key] = values
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    name = leading(config)
    notes = [unused(check(merged(config, one))) for one in combinations]
    for key, values in grid.items():
        if any(_unread(config, {key: value}, name) for value in values):
            raise ValueError(f"sweep must name keys that arm {name!r} reads, got {key!r}, which does not change it")
    _check_boundaries(config, combinations, name)
    folder = workdir.open_workdir(folder)
    if (folder / "config.json").exists():
        raise ValueError(f"the workdir of a sweep must hold no run, got {folder}, which has a config.json")
    with (
        workdir.lock(folder),
        meter(len(combinations), title="sweep", shown=config.progress) as told,
        interruptions() as asked,
        lineage.trace(config.profile),
    ):
        rows = kept(config, grid, folder)
        for note in dict.fromkeys(itertools.chain(*notes)):
            print(f"note: {note}")
        left = [one for one in combinations if not any(_same(one, row) for row in rows)]
        told.advance(len(combinations) - len(left), worked=False)
        if left:
            told.waiting("reading, compiling")
        for group in grouped(config, left):
            rows += scored(config, group, name, asked)
            told.advance(len(group))
            rows.sort(key=lambda row: -math.inf if row["rank_by"] is None else row["rank_by"], reverse=True)
            workdir.write_json(folder / SWEEP, {"arm": name, "config": _digest(config), "grid": grid, "rows": rows})
    print(table(rows, config.evaluation.metric))
    print(f"\nsweep: {folder / SWEEP}")
    if rows[0]["rank_by"] is None:
        raise ValueError("sweep must hold a combination whose training does not diverge, got none")
    return {key: rows[0][key] for key in grid}


def _check_boundaries(config: Config, combinations: Sequence[dict[str, Any]], name: str) -> None:
    for one in combinations:
        chosen = arms(merged(config, one))[name].config.boundary.name
        if chosen != "calendar":
            raise ConfigError("boundary", chosen, "'calendar' in a sweep", "a sweep consolidates where periods end")


def _unread(config: Config, change: Mapping[str, Any], name: str) -> bool:
    """Whether a change of the config leaves an arm as it is."""
    new = merged(config, change)
    return plain(new) != plain(config) and plain(arms(new)[name].config) == plain(arms(config)[name].config)


def kept(config: Config, grid: Mapping[str, tuple[Any, ...]], folder: Path) -> list[dict[str, Any]]:
    """The rows that the same sweep left in the folder; ValueError for another one's."""
    if not (folder / SWEEP).exists():
        return []
    other = ValueError(f"the workdir of a sweep must hold no other sweep, got {folder}: choose a new one")
    held = workdir.read_json(folder / SWEEP)
    if held.get("config") != _digest(config) or held["grid"].keys() != grid.keys():
        raise other
    if any(tuple(_typed(config, key, one) for one in held["grid"][key]) != grid[key] for key in grid):
        raise other
    return [row | {key: _typed(config, key, row[key]) for key in grid} for row in held["rows"]]


def _digest(config: Config) -> str:
    return store.digest(binding(config))


def _typed(config: Config, key: str, value: Any) -> Any:
    """A value of a key as the config has it: a tuple for a list, a float for an int, a name for a section."""
    found = at(merged(config, {key: value}), key)
    if not isinstance(found, ConfigDict):
        return found
    return found.name if "name" in found else tuple(found)


def _same(one: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return all(row[key] == value for key, value in one.items())


def parse(config: Config, spec: str) -> tuple[str, tuple[Any, ...]]:
    """("key", values) of "key=value,value"; values are read as Python literals, or as text where they are none."""
    key, _, listed = spec.partition("=")
    if not listed:
        raise ValueError(f"sweep must be key=value,value,…, got {spec!r}")
    if key.startswith("evaluation.") or key in (*OPERATIONAL, "arms"):
        why = "is what combinations are ranked by" if key.startswith("evaluation.") else "changes no number of a sweep"
        raise ValueError(f"sweep must name a key that training reads, got {key!r}, which {why}")
    values = _literal(f"[{listed}]") if "(" in listed else listed
    values = [_literal(part) for part in listed.split(",")] if isinstance(values, str) else values
    return key, tuple(_typed(config, key, value) for value in values)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def in_state(config: Config, key: str) -> bool:
    """Whether a learner's state carries the value of a key, so that it may differ along a vmapped axis."""
    arm = arms(config)[leading(config)]
    if key.startswith("inner.") and not arm.adapts:
        return False  # joint training never reads it, and evaluation does
    return any(leaf.key == key and leaf.option.traced for leaf in options(arm.config))


def grouped(config: Config, combinations: Sequence[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Combinations that share one program, together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in combinations:
        fixed = {key: value for key, value in one.items() if not in_state(merged(config, one), key)}
        groups.setdefault(repr(fixed), []).append(one)
    return groups.values()


def scored(
    config: Config, group: Sequence[dict[str, Any]], name: str, asked: Callable[[], int] = lambda: 0
) -> list[dict[str, Any]]:
    """Trains a group in one program; one row for each combination: its settings and its validation scores.

    Where somebody diverges the program stops for all: then they are trained one by one, and who diverges alone has None
    for scores.
    """
    first = check(merged(config, group[0]))
    components = setup.components(first)
    members = [check(merged(config, one)) for one in group]
    try:
        params = learned(components, members, name, asked)
        wide = components._replace(config=merged(first, {"seeds": first.seeds * len(group)}))
        _, values = scoring.scorer(wide).life(params, name)
    except (loop.Diverged, curves.NotFinite) as error:
        if len(group) > 1:
            return [row for one in group for row in scored(config, [one], name, asked)]
        print(f"{', '.join(f'{key}={value}' for key, value in group[0].items())}: {error}")
        none = {first.evaluation.metric: None, f"{first.evaluation.metric}_start": None}
        return [dict(group[0]) | none | {"over_seeds": None, "rank_by": None}]
    by_member = np.asarray(values).reshape(2, len(group), first.seeds)
    metric = first.evaluation.metric
    return [
        dict(one)
        | {
            metric: float(by_member[1, place].mean()),
            f"{metric}_start": float(by_member[0, place].mean()),
            "over_seeds": [float(value) for value in by_member[1, place]],
            "rank_by": float(sign(metric) * by_member[1, place].mean()),
        }
        for place, one in enumerate(group)
    ]


def learned(
    components: Components, members: Sequence[Config], name: str, asked: Callable[[], int] = lambda: 0
) -> Params:
    """Params after all periods, [members * seeds, ...]; members share the program of the first. Raises Interrupted once
    ``asked`` gives a signal."""
    config, arm = members[0], components.arms[name]
    mesh = placement.training_mesh(config.seeds * len(members), components.devices)
    learner = build_learner(arms(config)[name].config, components.model, mesh)
    sampler, periods = building.sampler(arm.config, components.stream.family), components.stream.periods
    compiled = loop.program(learner, sampler, chunk=min(config.chunk, config.outer_steps), mesh=mesh)
    initial = scoring.scorer(components).initial()
    roots = jnp.concatenate([scoring.roots(components)] * len(members))
    roots = placement.place(roots, mesh, by_seed=True)
    start = placement.place(_starts(components, members, arm, initial, mesh), mesh, by_seed=True)
    state = start
    for now in range(periods):
        if not arm.trains(now):
            continue
        state = start if arm.restarts else state
        data = compiled.data(arm.window(now))
        for told in loop.run(
            compiled,
            state,
            roots,
            lambda _, fed=data: fed,
            period=now,
            start=0,
            stop=arm.steps(now),
            before=arm.steps_before(now),
        ):
            state = told.state
            if asked():
                raise Interrupted(f"stopped by signal {asked()}: what ended is in {SWEEP}", asked())
        if arm.remembers:
            state = compiled.consolidate(
                state,
                roots,
                compiled.data((now, now)),
                placement.place(np.int32(arm.steps_before(now + 1)), mesh, by_seed=False),
            )
    return learner.params(state)


def _starts(components: Components, members: Sequence[Config], arm: Arm, initial: Params, mesh: Any) -> Tree:
    sampler = building.sampler(arm.config, components.stream.family)
    data = sampler.data(arm.window(0))
    states = []
    for member in members:
        learner = build_learner(arms(member)[arm.name].config, components.model, mesh)
        compiled = loop.program(learner, sampler, chunk=1)
        states.append(compiled.init(initial, data))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)


def table(rows: Sequence[dict[str, Any]], metric: str) -> str:
    """The ranking as text, best first."""
    keys = [key for key in rows[0] if key not in (metric, f"{metric}_start", "over_seeds", "rank_by")]
    lines = ["  ".join(f"{key:>20}" for key in (*keys, metric, "at the start")) + "   (validation users, whole lives)"]
    for row in rows:
        scores = [row[metric], row[f"{metric}_start"]]
        cells = [f"{row[key]!s:>20}" for key in keys]
        cells += [f"{'diverged':>20}" if score is None else f"{score:>20.4f}" for score in scores]
        lines.append("  ".join(cells))
    return "\n".join(lines)
