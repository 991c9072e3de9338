"""Shipped configs made to last seconds, run by the real command as a child; what a run left, leaf by leaf."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from metapers import records, store

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {
    "seeds": 2,
    "steps": 60,
    "chunk": 2,
    "users": 8,
    "checkpoint_every": 4,
    "validate_every": 20,
    "log_every": 10,
    "strategies": "('continual',)",
    "data.stages": 2,
    "data.users_per_stage": 40,
    "data.examples": 12,
    "data.support": 4,
    "data.query": 8,
    "continual.capacity": 32,
    "continual.replayed": 8,
    "continual.draws": 4,
    "evaluation.shots": "(4,)",
    "evaluation.headline_shots": 4,
    "evaluation.steps": "(0,1)",
    "evaluation.headline_steps": 1,
    "learner.inner_steps": 2,
}
# every member of the contract table that a config can name, as a change to the config above
MEMBERS: dict[str, dict[str, object]] = {
    "learner maml": {"continual.memory": "none", "continual.penalty": "()"},
    "learner reptile": {"learner.name": "reptile", "learner.rates": "fixed", "continual.memory": "none"},
    "learner multi_step": {
        "learner.name": "multi_step",
        "learner.anneal": 40,
        "learner.second_from": 20,
        "continual.memory": "none",
    },
    "learner serial": {
        "learner.name": "reptile",
        "learner.rates": "fixed",
        "learner.serial": True,
        "continual.memory": "none",
    },
    "learner joint": {"learner.name": "joint", "continual.memory": "none"},
    "inner gradient": {"learner.rates": "fixed"},
    "inner gradient, first order": {"learner.first_order": True},
    "inner gradient, learned rates": {"learner.rates": "learned"},
    "inner gradient, positive rates": {"learner.rates": "log"},
    "inner gradient, rates by step": {"learner.rates": "per_step"},
    "inner gradient, remat": {"learner.backward": "remat"},
    "inner gradient, mixed": {"learner.backward": "mixed"},
    "inner gradient, all parameters": {"learner.adapts": "all"},
    "inner optimized": {"learner.inner": "optimized", "learner.inner_optimizer": "adam", "learner.inner_clip": 1.0},
    "inner implicit": {"learner.inner": "implicit", "learner.rates": "fixed"},
    "inner written": {"shipped": "movielens"},
    "inner keep_if_it_helps": {"learner.keep": "if_it_helps"},
    "inner keep_if_it_moves": {"learner.keep": "if_it_moves", "learner.least_move": 0.01},
    "inner gated": {"learner.keep": "gated"},
    "inner none": {"learner.inner": "none", "evaluation.steps": "(0,)", "evaluation.headline_steps": 0},
    "penalty none": {"continual.penalty": "('none',)"},
    "penalty anchor": {"continual.penalty": "('anchor',)", "continual.anchor_strength": 0.1},
    "penalty ewc": {"continual.penalty": "('ewc',)", "continual.ewc_strength": 1.0},
    "penalty ewc, sampled and decayed": {
        "continual.penalty": "('ewc',)",
        "continual.ewc_strength": 1.0,
        "continual.ewc_exact": False,
        "continual.ewc_decay": 0.5,
    },
    "penalty sum_of": {"continual.penalty": "('anchor','ewc')", "continual.ewc_strength": 1.0},
    "memory reservoir, overflowing": {"continual.capacity": 8},
    "aggregator clipped": {"learner.aggregator": "clipped", "learner.clip": 0.5},
    "aggregator blocks": {"learner.block": 4},
    "aggregator sharded": {"seeds": 1},  # one seed on several devices: its users are spread
    "optimizer sgd": {"optimizer.param.name": "sgd", "optimizer.personal.name": "sgd"},
    "model mlp": {"shipped": "sinusoid"},
}
NOT_BY_THEMSELVES = {  # of the contract table
    "learner": {"replay": "every run here with a memory"},
    "inner": {"tempered": "tunes the joint baseline when it is judged; nothing is trained through it"},
    "aggregator": {"mean": "every run here that names no other"},
}
# what a shipped config has in place of the data of configs/synthetic.py
DATA: dict[str, dict[str, object]] = {
    "sinusoid": {"data.stages": 2, "data.users": 60, "evaluation.shots": "(5,)", "evaluation.headline_shots": 5},
    "movielens": {"data.stages": 2, "data.support": 4, "data.query": 8},
}


def command(workdir: Path, changes: dict[str, object]) -> list[str]:
    """``python train.py …`` of the shrunken synthetic config, or of the one that the changes name as ``shipped``."""
    config = str(changes.get("shipped", "synthetic"))
    shrunk = PLAIN | {key: value for key, value in changes.items() if key != "shipped"}
    if config in DATA:
        shrunk = {key: value for key, value in shrunk.items() if not key.startswith("data.")} | DATA[config]
    flags = [f"--config.{key}={value}" for key, value in shrunk.items()]
    return [sys.executable, "train.py", f"--config=configs/{config}.py", f"--workdir={workdir}", *flags]


def start(workdir: Path, changes: dict[str, object]) -> subprocess.Popen[str]:
    """The run as a child."""
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        command(workdir, changes), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(workdir: Path, changes: dict[str, object]) -> None:
    """The run to its end; RuntimeError with what it said if it fails."""
    with start(workdir, changes) as process:
        _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {errors.strip()}")


def starts(workdir: Path) -> list[float]:
    """When the run was started, once for each time; whole lines of the journal only."""
    path = workdir / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [told["time"] for told in map(json.loads, lines) if told["kind"] == "start"]


def trained_seconds(workdir: Path) -> float:
    """From the start to the last line of the journal."""
    lines = [json.loads(line) for line in (workdir / "journal.jsonl").read_text().splitlines()]
    return lines[-1]["time"] - lines[0]["time"]


def kill_after(workdir: Path, changes: dict[str, object], seconds: float) -> bool:
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
    for folder in sorted((workdir / "strategies").glob("*/versions")):
        for number in store.versions(folder):
            store.load_version(folder, number)
            for leaf in store.read_record(folder, number)["leaves"]:
                found[f"{folder.parent.name}/{number}/{'/'.join(leaf['path'])}"] = leaf["sha256"]
    for path in sorted((workdir / "records").glob("*.parquet")):
        found[path.name] = records.read_file(path).to_pylist()
    return found
