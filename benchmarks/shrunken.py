"""Shipped configs made to last seconds, run by the real command as a child; what a run left, leaf by leaf.

The cases come from the registries: the example and the variants of every member, as values of configs/synthetic.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metapers import store
from metapers.command.arguments import file_config
from metapers.members import registry, sections, without_name
from metapers.options import NONE, ConfigError
from metapers.scoring import records
from metapers.spec import Config, check, overrides

Changes = Mapping[str, Any]
"""Dotted keys with values, of sections a name or a dict; the key "shipped" names a config other than synthetic."""

ROOT = Path(__file__).resolve().parents[1]
RUN: dict[str, Any] = {
    "seeds": 2,
    "outer_steps": 60,
    "chunk": 2,
    "meta_batch": 8,
    "checkpoint_every": 4,
    "validate_every": 20,
    "log_every": 10,
    "arms": ("continual",),
    "evaluation.shots": (4,),
    "evaluation.headline_shots": 4,
    "evaluation.steps": (0, 1),
    "evaluation.headline_steps": 1,
}
"""Sizes of a run of seconds with a checkpoint after every second chunk; those of the data are the source's example."""

SECTIONS = {
    "learner": ("learner",),
    "inner_loop": ("inner",),
    "rates": ("inner.rates",),
    "inner_optimizer": ("inner.optimizer",),
    "gate": ("gate",),
    "memory": ("memory",),
    "aggregator": ("aggregator",),
    "optimizer": ("optimizer.param", "optimizer.personal"),
    "schedule": ("schedule",),
}
"""The sections of a config that a member of each kind takes; penalties are a section of several."""

BASES: tuple[Changes, ...] = (
    {},
    {"inner.rates": "constant"},
    {"inner.rates": "lslr"},
    {"inner": {"name": "optimized", "clip_norm": 1.0}},
    {"inner": "closed_form", "model": {"name": "solved", "head": "bayes", "hidden": (5,)}},
)
"""Values for members that do not go with the config's own; the first that the config accepts are taken."""

LATER = {"msl_anneal_steps": 40, "second_order_from": 20}
"""Options that change the loss during a run: late enough that a kill may come before and after."""


def cases() -> dict[str, Changes]:
    """The changes that make each case, without their base (``complete``), by the kind and the name of a member."""
    found: dict[str, Changes] = {}
    for kind, keys in SECTIONS.items():
        beside = {"memory": NONE} if kind == "learner" else {}
        for label, section in sections(kind):
            section |= {key: value for key, value in LATER.items() if key in section}
            found[f"{kind} {_short(label)}"] = beside | dict.fromkeys(keys, section)
    for label, section in sections("penalty"):
        found[f"penalty {label}"] = {"penalties": {section["name"]: without_name(section)}}
    return found | _combined()


def _combined() -> dict[str, Changes]:
    every = {name: dict(member.example) for name, member in registry("penalty").items()}
    sequential = {"name": "reptile", "sequential": True}
    return {
        "learner maml alone": {"memory": NONE, "penalties": ()},
        "learner reptile, sequential": {"memory": NONE, "learner": sequential, "inner.rates": "constant"},
        "inner_loop none": {"inner": NONE, "evaluation.steps": (0,), "evaluation.headline_steps": 0},
        "inner_loop gradient, all parameters": {"model.adapts": "all"},
        "penalty none": {"penalties": ()},
        "penalty all together": {"penalties": every},
        "users in blocks": {"user_block": 4},
        "users over devices": {"seeds": 1},  # several seeds would be spread over the devices instead
        "shipped movielens": {"shipped": "movielens"},
        "shipped sinusoid": {"shipped": "sinusoid", "data.periods": 2},
    }


def _short(label: str) -> str:
    return re.sub(r"\{'name': '(\w+)'[^}]*\}", r"\1", label)


def complete(changes: Changes) -> Changes:
    """A case's changes with those of the first base under which the config is accepted.

    Raises:
      ConfigError: if it is refused under every base; of the first.
    """
    errors = []
    for base in BASES:
        try:
            configured({**base, **changes})
        except ConfigError as error:
            errors.append(error)
        else:
            return {**base, **changes}
    raise errors[0]


def configured(changes: Changes) -> Config:
    """The config of a run, as the command reads and checks it.

    Raises:
      ConfigError: for one that is refused.
    """
    return check(overrides.apply(file_config(str(file_of(changes))), list(values(changes).items())))


def file_of(changes: Changes) -> Path:
    """The config file of a case."""
    return ROOT / "configs" / f"{changes.get('shipped', 'synthetic')}.py"


def values(changes: Changes) -> dict[str, str]:
    """Keys and texts of a case, as on a command line: the sizes of a short run, and the changes."""
    config = file_config(str(file_of(changes)))
    found = RUN | {f"data.{key}": value for key, value in registry("source")[config.data.name].example.items()}
    if config.memory.name != NONE:
        found["memory"] = {"name": config.memory.name, **registry("memory")[config.memory.name].example}
    found |= {key: value for key, value in changes.items() if key != "shipped"}
    return {key: value if isinstance(value, str) else repr(value) for key, value in found.items()}


def command(workdir: Path, changes: Changes) -> list[str]:
    """``python train.py …`` of a case with its base."""
    flags = [f"--config.{key}={text}" for key, text in values(changes).items()]
    return [sys.executable, "train.py", f"--config={file_of(changes)}", f"--workdir={workdir}", *flags]


def start(workdir: Path, changes: Changes) -> subprocess.Popen[str]:
    """The run as a child."""
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        command(workdir, changes), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(workdir: Path, changes: Changes) -> None:
    """The run to its end; RuntimeError with its errors if it fails."""
    with start(workdir, changes) as process:
        _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {errors.strip()}")


def starts(workdir: Path) -> list[float]:
    """When the run was started, once for each time; whole lines of the journal only."""
    path = workdir / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [line["time"] for line in map(json.loads, lines) if line["kind"] == "start"]


def trained_seconds(workdir: Path) -> float:
    """From the start to the last line of the journal."""
    lines = [json.loads(line) for line in (workdir / "journal.jsonl").read_text().splitlines()]
    return lines[-1]["time"] - lines[0]["time"]


def kill_after(workdir: Path, changes: Changes, seconds: float) -> bool:
    """Starts or resumes the run and kills it ``seconds`` after it began to train; False if it had ended before."""
    before = len(starts(workdir))
    with start(workdir, changes) as process:
        while process.poll() is None and len(starts(workdir)) == before:
            time.sleep(0.02)
        time.sleep(seconds)
        process.kill()
        _, errors = process.communicate()
    if process.returncode > 0:
        raise RuntimeError(f"exit code {process.returncode}: {errors.strip()}")
    return process.returncode == -signal.SIGKILL


def left(workdir: Path) -> dict[str, object]:
    """All that training left: each leaf's SHA-256 in every version, verified as it is loaded, and the records."""
    found: dict[str, object] = {}
    for folder in sorted((workdir / "arms").glob("*/versions")):
        for number in store.versions(folder):
            store.load_version(folder, number)
            for leaf in store.read_record(folder, number)["leaves"]:
                found[f"{folder.parent.name}/{number}/{'/'.join(leaf['path'])}"] = leaf["sha256"]
    for path in sorted((workdir / "records").glob("*.parquet")):
        found[path.name] = records.read_file(path).to_pylist()
    return found
