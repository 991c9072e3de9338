"""Runs that last seconds: a tiny config, shipped configs shrunk, commands called as children, all numbers of a run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from metapers import spec, store, trees
from metapers.members import registry
from metapers.report import page
from metapers.run import programs
from metapers.scoring import records, scorer
from metapers.spec.tree import binding

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "seeds": 2,
    "outer_steps": 40,
    "chunk": 10,
    "meta_batch": 8,
    "log_every": 10,
    "checkpoint_every": 20,
    "validate_every": 20,
    "progress": False,
    "evaluation.shots": (1, 4),
    "evaluation.steps": (0, 1, 2),
    "evaluation.headline_shots": 4,
    "evaluation.headline_steps": 2,
    "evaluation.bootstrap": 100,
}
SMALL_MEMORY = {"memory.capacity": 32, "memory.replay_batch": 8, "memory.consolidation_batches": 4}
FOLDERS = {"omniglot": "omniglot", "writers": "mnist", "wisdm": "wisdm-ar-v1.1", "shakespeare": "tff-shakespeare"}
QUICK = {
    "arms": ("continual",),
    "outer_steps": 7,
    "chunk": 3,
    "meta_batch": 4,
    "checkpoint_every": 3,
    "validate_every": 7,
    "log_every": 3,
    "data.periods": 2,
    "data.users_per_period": 24,
    "data.examples": 8,
    "evaluation.shots": (4,),
    "evaluation.steps": (0, 1),
    "evaluation.headline_steps": 1,
    "inner.steps": 1,
    "tensorboard": False,
}


def example(source: str) -> dict[str, Any]:
    """The small options of a source, of its entry, as dotted keys of a config."""
    return {f"data.{key}": value for key, value in registry("source")[source].example.items()}


def dotted(changes: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments with "__" for dots as dotted keys."""
    return {key.replace("__", "."): value for key, value in changes.items()}


def small(**changes: Any) -> ConfigDict:
    """Synthetic users in three periods, two seeds, all arms; ``changes``: dotted keys with "__" for dots."""
    rates = {f"optimizer.{group}.rate": 0.02 for group in ("param", "personal", "inner")}
    base = spec.merged(
        spec.config_for("linear_gaussian", "linear"), SMALL | SMALL_MEMORY | example("linear_gaussian") | rates
    )
    return spec.merged(base, dotted(changes))


def quick(**changes: Any) -> ConfigDict:
    """One arm, one seed, two periods of three chunks: for tests that train more than once."""
    return spec.merged(small(), {**QUICK, "seeds": 1} | dotted(changes))


_SHARED: dict[tuple[Any, ...], Any] = {}


def share_programs(patched: pytest.MonkeyPatch) -> None:
    """Lets runs of the same numbers use the compiled programs, of training and of scoring, of the first one."""
    make_program, make_scorer = programs.program, scorer.scorer

    def once(components: spec.Components, what: Any, make: Any) -> Any:
        key = (store.digest(binding(components.config)), what)
        if key not in _SHARED:
            _SHARED[key] = make()
        return _SHARED[key]

    def program(run: programs.Run, name: str) -> Any:
        kind = store.digest(spec.plain(run.components.arms[name].config))
        return once(run.components, kind, lambda: make_program(run, name))

    def scorer_of(components: spec.Components, **grid: Any) -> scorer.Scorer:
        own = {name: given for name, given in grid.items() if given}  # evaluation passes empty ones for the config's
        made = once(components, repr(own), lambda: make_scorer(components, **grid))
        same = components._replace(model=made.components.model)  # what is compiled for a model is kept by its functions
        return made._replace(components=same)

    patched.setattr(programs, "program", program)
    patched.setattr(scorer, "scorer", scorer_of)


def without_pictures(patched: pytest.MonkeyPatch) -> None:
    """Leaves the pictures out of reports, for tests of their words alone: they are most of the time of a report."""
    patched.setattr(page, "_drawn", lambda *given: {})


def overrides(source: str, **changes: Any) -> list[str]:
    """The command line that shrinks a shipped config of a source; ``memory=True`` shrinks its memory too."""
    given = dotted(changes)
    more = SMALL_MEMORY if given.pop("memory", False) else {}
    return [f"--config.{key}={value}" for key, value in (SMALL | more | example(source) | given).items()]


def child(*arguments: object, optimized: bool = False, **options: Any) -> subprocess.Popen[str]:
    """``python ARGUMENTS`` in the checkout as a newcomer would call it, on the CPU, its compilations kept; cheap ones
    as in conftest.py, or ``optimized`` as users' are."""
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "COLUMNS": "200"}
    environment |= {"XLA_FLAGS": ""} if optimized else {}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, env=environment, **(pipes | options))


def call(*arguments: object, timeout: float = 300, **options: Any) -> tuple[int, str, str]:
    """(exit code, output, errors) of ``child``."""
    with child(*arguments, **options) as process:
        out, errors = process.communicate(timeout=timeout)
    return process.returncode, out, errors


def numbers(folder: Path) -> dict[str, np.ndarray]:
    """Every array of every version in a workdir by "arm/version/leaf": learner state, memory, bank and all."""
    found: dict[str, np.ndarray] = {}
    for versions in sorted((Path(folder) / "arms").glob("*/versions")):
        for number in store.versions(versions):
            tree = flat(store.load_version(versions, number)[0])
            found |= {f"{versions.parent.name}/{number}/{name}": leaf for name, leaf in tree.items()}
    return found


def flat(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree on the host by path, typed keys as their data."""
    keyed = dict(zip(trees.names(tree), jax.tree.leaves(tree), strict=True))

    def plain(leaf: Any) -> np.ndarray:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return {name: plain(leaf) for name, leaf in keyed.items()}


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[str]:
    """The names of arrays that are not bit for bit the same in both; empty when all are, and there are some."""
    if not a:
        return ["no arrays at all"]
    return sorted(
        name
        for name in a.keys() | b.keys()
        if name not in a or name not in b or a[name].dtype != b[name].dtype or a[name].tobytes() != b[name].tobytes()
    )


def validation(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The validation records that training wrote, rows by file."""
    files = sorted((Path(folder) / "records").glob("validation-*.parquet"))
    return {path.name: records.read_file(path).to_pylist() for path in files}


def journal(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's journal; ValueError if one is no JSON."""
    return [json.loads(line) for line in (Path(folder) / "journal.jsonl").read_text().splitlines()]
