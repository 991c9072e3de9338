"""How every contender's step is timed, and the one JSON line in which it answers."""

import argparse
import ctypes
import json
import os
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

WARM = 3  # steps before the clock, the first of which compiles
MODES = ("train", "adapt", "one")  # an outer step; every user's inner steps alone; one user's, and predictions


def arguments(description: str | None, workloads: tuple[str, ...]) -> argparse.ArgumentParser:
    """The command line that the contenders share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workload", default=workloads[0], choices=workloads)
    parser.add_argument("-m", "--mode", default="train", choices=MODES)
    parser.add_argument("--steps", type=int, default=15, help="at most so many timed steps")
    parser.add_argument("--max-s", type=float, default=15.0, help="stop timing after about so many seconds")
    return parser


def timed(step: Callable[[], float], *, began: float, steps: int, max_s: float) -> dict[str, Any]:
    """Calls ``step`` (one outer step -> its loss, blocking) three times, then up to ``steps`` times by the clock.

    ``began``: the ``time.perf_counter()`` at which the work began, before data, parameters and compilation.
    ``start_s`` counts from the start of the process instead, imports included.
    """
    losses = [step()]
    first, start = time.perf_counter() - began, since_start()
    losses += [step() for _ in range(WARM - 1)]
    wall, cpu, stop = [], [], time.perf_counter() + max_s
    while len(wall) < steps and (len(wall) < 5 or time.perf_counter() < stop):
        before, before_cpu = time.perf_counter(), time.process_time()
        losses.append(step())
        wall.append(time.perf_counter() - before)
        cpu.append(time.process_time() - before_cpu)
    return {
        "ms_per_step": 1e3 * statistics.median(wall),
        "ms_min": 1e3 * min(wall),
        "ms_p99": 1e3 * quantile(wall, 0.99),
        "cpu_ms_per_step": 1e3 * statistics.median(cpu),
        "steps_timed": len(wall),
        "first_step_s": first,
        "start_s": start,
        "losses": losses[: WARM + 20],
        "loss": losses[-1],
    }


def answer(workload: str, framework: str, version: str, tasks: int, measured: Mapping[str, Any]) -> None:
    """Prints the line."""
    line = {"workload": workload, "framework": framework, "version": version, "tasks_per_step": tasks}
    line |= {"tasks_per_s": 1e3 * tasks / measured["ms_per_step"]}
    line |= {"tasks_per_s_best": 1e3 * tasks / measured["ms_min"]}
    line |= {**measured, "peak_rss_mb": peak_mb(), "load1": os.getloadavg()[0]}
    print(json.dumps(line), flush=True)


def quantile(values: list[float], part: float) -> float:
    """The smallest of the values that at least ``part`` of them do not exceed."""
    return sorted(values)[max(0, -int(-part * len(values) // 1) - 1)]


def peak_mb() -> float:
    """The most memory that this process has held. ``ru_maxrss`` alone would start with what its parent held."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if found:
            return int(found[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def forget_peak() -> bool:
    """``peak_mb`` begins anew, at what is held now, once what is free went back; False where that cannot be done."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def since_start() -> float | None:
    """Seconds since this process began; None where the system does not tell."""
    try:
        words = pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        up = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return None
    return up - int(words[19]) / os.sysconf("SC_CLK_TCK")


def on_device(stats: Mapping[str, int] | None) -> dict[str, float]:
    """Peak memory on an accelerator from ``jax.Device.memory_stats()``; nothing on a CPU."""
    return {"device_peak_mb": stats["peak_bytes_in_use"] / 2**20} if stats and "peak_bytes_in_use" in stats else {}
