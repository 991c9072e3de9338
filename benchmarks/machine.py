"""What a benchmark must say of the machine: what it is, and how much of it others used while the clock ran; and how
what it found is kept.
"""

import json
import os
import pathlib
import platform
import resource
import sys
import time
from importlib import metadata
from typing import Any

from metapers.run import lineage

TOLD = ("jax", "jaxlib", "flax", "optax", "numpy")


def describe() -> dict[str, Any]:
    """Date, revision, processor, cores, device and versions."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    told = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in told if line.startswith("model name")]
    commit, *changes = (lineage.revision() or "").split("+")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "revision": "+".join([commit[:7], *changes]),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": models[0] if models else platform.processor(),
        "cores": cores(),
        "device": os.environ.get("JAX_PLATFORMS", "cpu"),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in TOLD},
    }


def command_line(script: str) -> str:
    """The command that was given, with every path outside the project named PATH."""
    return " ".join([f"python benchmarks/{script}", *map(hidden, sys.argv[1:])])


def hidden(word: str) -> str:
    return "PATH" if word.startswith("/") else word


def keep(out: pathlib.Path, name: str, results: dict[str, Any], report: str) -> None:
    """Writes ``name``.json and ``name``.md into ``out``, each whole at every moment."""
    out.mkdir(parents=True, exist_ok=True)
    for ending, text in (("json", json.dumps(results, indent=1) + "\n"), ("md", report)):
        beside = out / f".{name}.{ending}"
        beside.write_text(text)
        os.replace(beside, out / f"{name}.{ending}")


def cores() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Others:
    """``with Others() as others: run()``, then ``others.cores``: how many cores did not work for us but for others.

    Only what our own ended child processes used counts as ours; 0 where the system does not tell.
    """

    cores = 0.0

    def __enter__(self) -> "Others":
        self.began, self.before = time.monotonic(), (busy_seconds(), child_seconds())
        return self

    def __exit__(self, *_: object) -> None:
        everybody, ours = busy_seconds() - self.before[0], child_seconds() - self.before[1]
        self.cores = max(0.0, everybody - ours) / max(time.monotonic() - self.began, 1e-9)


def wait_quiet(seconds: float, cores: float) -> None:
    """Returns after a second in which others used at most ``cores``, or when ``seconds`` have passed."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        with Others() as others:
            time.sleep(1)
        if others.cores <= cores:
            return


def busy_seconds() -> float:
    """Processor seconds of all processes since the machine started; 0 where the system does not tell."""
    try:
        words = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(float, words[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def child_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return sum(one.ru_utime + one.ru_stime for one in used)
