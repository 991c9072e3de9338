"""How every contender's step is timed, and the one JSON line in which it answers."""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

WARM = 3  # steps before the clock, the first of which compiles


def arguments(description: str | None, workloads: tuple[str, ...]) -> argparse.ArgumentParser:
    """The command line that the contenders share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workload", default="W1", choices=workloads)
    parser.add_argument("--steps", type=int, default=15, help="at most so many timed steps")
    parser.add_argument("--max-s", type=float, default=15.0, help="stop timing after about so many seconds")
    return parser


def timed(step: Callable[[], float], *, began: float, steps: int, max_s: float) -> dict[str, Any]:
    """Calls ``step`` (one outer step -> its loss, blocking) three times, then up to ``steps`` times by the clock.

    ``began``: the ``time.perf_counter()`` at which the work began, before data, parameters and compilation.
    """
    losses = [step()]
    first = time.perf_counter() - began
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
        "cpu_ms_per_step": 1e3 * statistics.median(cpu),
        "steps_timed": len(wall),
        "first_step_s": first,
        "losses": losses[: WARM + 20],
        "loss": losses[-1],
    }


def answer(workload: str, framework: str, version: str, tasks: int, measured: dict[str, Any]) -> None:
    """Prints the line."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    line = {"workload": workload, "framework": framework, "version": version, "tasks_per_step": tasks}
    line |= measured | {
        "tasks_per_s": 1e3 * tasks / measured["ms_per_step"],
        "tasks_per_s_best": 1e3 * tasks / measured["ms_min"],
        "peak_rss_mb": peak,
        "load1": os.getloadavg()[0],
    }
    print(json.dumps(line), flush=True)
