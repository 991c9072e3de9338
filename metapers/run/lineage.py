"""Where a version comes from: config, data, code, libraries, machine, time."""

import contextlib
import importlib.metadata
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

import metapers
from metapers import store, workdir
from metapers.placement import Device
from metapers.run import input_schema
from metapers.spec import Components, Config, plain
from metapers.spec.tree import binding

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections")


def of_version(
    components: Components,
    arm: str,
    period: int,
    scores: Mapping[str, Any],
    *,
    parent: Path,
    seconds: float,
    spent: Mapping[str, int],
) -> dict[str, Any]:
    """The lineage of the version that ``arm`` leaves after ``period``.

    Args:
      components: of the run.
      arm: its name.
      period: the number of the boundary at which it is left; the version has the same number.
      scores: on validation users.
      parent: the folder of the arm's versions.
      seconds: that the period took.
      spent: what the version was trained with (``Arm.spent``).
    """
    earlier = [number for number in store.versions(parent) if number < period]
    record = store.read_record(parent, earlier[-1]) if earlier else None
    return {
        "arm": arm,
        "version": period,
        "boundary": period,
        "seen_until": components.arms[arm].seen(period),
        "periods": components.stream.periods,
        "budget": dict(spent),
        "seeds": [components.config.seed + i for i in range(components.config.seeds)],
        "parent": {"number": record["number"], "digest": record["digest"]} if record else None,
        "config": plain(components.config),
        "config_digest": store.digest(binding(components.config)),
        "provenance": origin(components),
        "sizes": dict(components.sizes),
        "examples": input_schema.schemas(components),
        "plugins": list(components.config.plugins),
        "revision": revision(),
        "libraries": libraries(),
        "devices": machine(components.devices),
        "scores": dict(scores),
        "seconds": round(seconds, 3),
    }


def origin(components: Components) -> dict[str, Any]:
    """Where the data came from, and the digest of the version that the parameters began with, if it was one."""
    found = dict(components.stream.provenance)
    return found if components.warm_start is None else found | {"started_from": components.warm_start.digest}


def libraries() -> dict[str, str]:
    """Versions of what computes."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "metapers": metapers.__version__, **found}


def machine(devices: tuple[Device, ...]) -> dict[str, Any]:
    """The kind and the number of devices: bit-identity is promised on these alone."""
    return {"kind": devices[0].device_kind, "platform": devices[0].platform, "count": len(devices)}


def memory(devices: tuple[Device, ...]) -> float:
    """Bytes that arrays may take in all: of the devices, or of a host that is one; infinite where none is known."""
    if devices[0].platform == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return sum((one.memory_stats() or {}).get("bytes_limit", math.inf) for one in devices)


def revision() -> str | None:
    """The commit of the checkout that the code runs from, with "+changes" if it is not clean; None outside one."""
    root = Path(metapers.__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "metapers/__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


@contextlib.contextmanager
def compile_clock() -> Iterator[Callable[[], float]]:
    """While inside, adds up the seconds that XLA compiles; the yielded function reads them."""
    spent = [0.0]

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            spent[0] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: spent[0]
    finally:
        with contextlib.suppress(ImportError, AttributeError, ValueError):  # the remover is not in every jax
            from jax._src.monitoring import unregister_event_duration_listener

            unregister_event_duration_listener(listen)


@contextlib.contextmanager
def trace(folder: str | None) -> Iterator[None]:
    """Writes a JAX trace of what runs inside to ``folder``; nothing for None."""
    if not folder:
        yield
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, "profile must be a folder that can be made", folder) from error
    with jax.profiler.trace(folder):
        yield


def add_seconds(folder: Path, part: str, *, seconds: float = 0.0, compile_seconds: float = 0.0) -> dict[str, float]:
    """Adds to seconds.json, which a resumed run continues; returns all of it."""
    path = folder / "seconds.json"
    held = workdir.read_json(path) if path.exists() else {}
    for name, more in ((part, seconds), ("compile", compile_seconds)):
        held[name] = round(held.get(name, 0.0) + more, 3)
    workdir.write_json(path, held)
    return held


def say_reading(config: Config) -> None:
    """Says that the data are being read, which takes up to half a minute, where progress is shown."""
    if config.progress:
        print(f"reading {config.data.name} …", flush=True)
