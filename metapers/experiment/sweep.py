"""Several values of config keys in one command, ranked on validation users; never on test users.

Combinations that differ only in what a learner's state carries (the rates of optimizers, the start of learned inner
rates) are one program, vmapped beside the seeds; others are built one after the other.
"""

import ast
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metapers import stage, workdir
from metapers.base import Params, Tree
from metapers.experiment import assembly, scoring
from metapers.experiment import config as configs
from metapers.experiment.assembly import STRATEGIES, Parts
from metapers.experiment.config import Config
from metapers.journal import meter
from metapers.scores import sign


def run(config: Config, specs: Sequence[str], folder: Path) -> dict[str, Any]:
    """Trains every combination of ``specs`` ("key=value,value") and writes ``sweep.json``, best first; returns the
    best one's keys and values.

    The strategy is continual, or the config's first. The rank is that of the headline score on the validation
    users' whole lives, mean over seeds.

    Raises:
      ValueError: for an unknown key, one that changes no number or by what is ranked, one that is given twice, a value
        of another type, a spec without values, a folder that holds a run, and a combination that is refused, before
        any is trained.
    """
    grid: dict[str, tuple[Any, ...]] = {}
    for key, values in (parse(config, spec) for spec in specs):
        if key in grid:
            raise ValueError(f"sweep must name a key once, got {key!r} twice")
        grid[key] = values
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for one in combinations:
        configs.check(configs.merged(config, one))
    folder = workdir.open_workdir(folder)
    if (folder / "config.json").exists():
        raise ValueError(f"the workdir of a sweep must hold no run, got {folder}, which has a config.json")
    name = "continual" if "continual" in config.strategies else config.strategies[0]
    rows: list[dict[str, Any]] = []
    with workdir.lock(folder), meter(len(combinations), title="sweep", shown=config.progress) as told:
        for group in grouped(config, combinations):
            rows += scored(config, group, name)
            told.advance(len(group))
            rows.sort(key=lambda row: -row["rank_by"])
            workdir.write_json(folder / "sweep.json", {"strategy": name, "grid": grid, "rows": rows})
    print(table(rows, config.evaluation.metric))
    print(f"\nsweep: {folder / 'sweep.json'}")
    return {key: rows[0][key] for key in grid}


def parse(config: Config, spec: str) -> tuple[str, tuple[Any, ...]]:
    """("key", values) of "key=value,value"; values are read as Python literals, or as text where they are none."""
    key, _, listed = spec.partition("=")
    if not listed:
        raise ValueError(f"sweep must be key=value,value,…, got {spec!r}")
    if key.startswith("evaluation.") or key in configs.OPERATIONAL:
        why = "is what combinations are ranked by" if key.startswith("evaluation.") else "changes no number"
        raise ValueError(f"sweep must name a key that training reads, got {key!r}, which {why}")
    values = _literal(f"[{listed}]") if "(" in listed else [_literal(part) for part in listed.split(",")]
    return key, tuple(configs.value(configs.merged(config, {key: value}), key) for value in values)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def in_state(config: Config, key: str) -> bool:
    """Whether a key's value is carried in the learner's state, so that it may differ along a vmapped axis."""
    if key == "learner.inner_rate":
        chosen = config.learner
        return chosen.inner == "gradient" and chosen.name != "joint" and chosen.rates != "fixed"
    return key.startswith("optimizer.") and key.endswith(".rate")


def grouped(config: Config, combinations: Sequence[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Combinations that share one program, together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in combinations:
        fixed = {key: value for key, value in one.items() if not in_state(configs.merged(config, one), key)}
        groups.setdefault(repr(fixed), []).append(one)
    return groups.values()


def scored(config: Config, group: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Trains a group in one program; one row for each combination: its settings and its validation scores."""
    first = configs.check(configs.merged(config, group[0]))
    parts = assembly.parts(first)
    members = [configs.check(configs.merged(config, one)) for one in group]
    params = lived(parts, members, name)
    wide = parts._replace(config=configs.merged(first, {"seeds": first.seeds * len(group)}))
    _, values = scoring.scorer(wide).life(params, name)
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


def lived(parts: Parts, members: Sequence[Config], name: str) -> Params:
    """Params after all stages, [members * seeds, ...]; members share the program of the first."""
    config, strategy = members[0], STRATEGIES[name]
    mesh = assembly.mesh_for(configs.merged(config, {"seeds": config.seeds * len(members)}), parts.devices)
    learner = assembly.learner(config, parts.model, strategy, mesh)
    family, stages = parts.stream.family, parts.stream.stages
    compiled = stage.program(learner, family, users=config.users, chunk=min(config.chunk, config.steps), mesh=mesh)
    initial = scoring.scorer(parts).initial()
    roots = jnp.concatenate([scoring.roots(parts)] * len(members))
    roots = stage.place(roots, mesh, by_seed=True)
    start = stage.place(_starts(parts, members, strategy, initial, mesh), mesh, by_seed=True)
    state = start
    for now in range(stages):
        if not strategy.trains(now, stages):
            continue
        state = start if strategy.restarts else state
        data = stage.place(family.data(strategy.window(now), 0, 0), mesh, by_seed=False)
        for told in stage.run(compiled, state, roots, lambda _, fed=data: fed, stage=now, start=0, stop=config.steps):
            state = told.state
        if strategy.remembers:
            state = compiled.consolidate(state, roots, data, stage.place(np.int32(now), mesh, by_seed=False))
    return learner.params(state)


def _starts(parts: Parts, members: Sequence[Config], strategy: Any, initial: Params, mesh: Any) -> Tree:
    config = members[0]
    data = parts.stream.family.data(strategy.window(0), 0, 0)
    states = []
    for member in members:
        learner = assembly.learner(member, parts.model, strategy, mesh)
        compiled = stage.program(learner, parts.stream.family, users=config.users, chunk=1)
        states.append(compiled.init(initial, data))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)


def table(rows: Sequence[dict[str, Any]], metric: str) -> str:
    """The ranking as text, best first."""
    keys = [key for key in rows[0] if key not in (metric, f"{metric}_start", "over_seeds", "rank_by")]
    lines = ["  ".join(f"{key:>20}" for key in (*keys, metric, "at the start")) + "   (validation users, whole lives)"]
    for row in rows:
        cells = [f"{row[key]!s:>20}" for key in keys] + [f"{row[metric]:>20.4f}", f"{row[f'{metric}_start']:>20.4f}"]
        lines.append("  ".join(cells))
    return "\n".join(lines)
