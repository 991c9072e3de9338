"""What makes the outer step fast on a CPU, one lead at a time: each is switched off, or set otherwise, in the step that
`speed.py` times, and the step is timed again. Second order, five inner steps, users under vmap.

    python benchmarks/leads.py
    python benchmarks/leads.py --workloads W1 --rounds 3 --wait-quiet 60

Leads that the library has no other form of (a convolution that is not patches x weights) are measured in bare JAX
(`yardstick.py`). Each run is a process of its own, in turns; tasks per second are medians over the rounds, and the
ratio is to the step as it is, in the same round. Written after every round: benchmarks/results/leads_cpu.json and .md.
"""

import argparse
import pathlib
import sys
from statistics import median
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

from benchmarks import machine, speed  # noqa: E402
from benchmarks.contenders import CASES, TWO, flags_without  # noqa: E402
from benchmarks.speed_table import QUIET, number  # noqa: E402


class Lead(NamedTuple):
    """A change to the flags of a step as it is; ``bare``: of the yardstick's."""

    name: str
    without: tuple[str, ...] = ()  # flags left out, with their values
    given: tuple[str, ...] = ()
    bare: bool = False


AS_IS, BARE = Lead("metapers, as it is"), Lead("bare JAX, as it is", bare=True)
ONE_DEVICE = Lead("one device", ("--devices",))
ROLLED = Lead("inner steps not unrolled", ("--unroll",))
REPEATED = Lead("what never changes computed in every inner step", given=("--repeated",))
PRIMAL = Lead("kernels moved themselves, not in dual form", given=("--primal",))


def blocks(*sizes: int) -> list[Lead]:
    return [
        Lead(f"users in blocks of {size}" if size else "all users at once", ("--blocks",), ("--blocks", str(size)))
        for size in sizes
    ]


LEADS = {
    "W1": [AS_IS, Lead("two devices", given=tuple(TWO)), ROLLED, *blocks(0, 1, 2), BARE],
    "W3": [AS_IS, ONE_DEVICE, ROLLED, REPEATED, PRIMAL, *blocks(0, 8, 32, 64), BARE],
    "W3-adapt": [AS_IS, ONE_DEVICE, ROLLED, PRIMAL, *blocks(0, 2, 4, 16, 64), BARE],
    "W2-5w1s": [
        AS_IS,
        ONE_DEVICE,
        ROLLED,
        REPEATED,
        *blocks(0, 1, 4, 8),
        BARE,
        Lead("bare JAX, one device", ("--devices",), bare=True),
        Lead("bare JAX, one device, XLA's convolution", ("--devices", "--conv"), bare=True),
    ],
}


def command(name: str, lead: Lead) -> list[str]:
    """The command of a lead for the case of that name."""
    case = CASES[name]
    script = "benchmarks.yardstick" if lead.bare else "benchmarks.ours"
    flags = flags_without(case.bare if lead.bare else case.ours, lead.without)
    return [sys.executable, "-m", script, "-w", case.workload, "-m", case.mode, *flags, *lead.given]


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=list(LEADS), default=list(LEADS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500, help="at most so many timed steps a run")
    parser.add_argument("--max-s", type=float, default=2.0, help="and at most about so many seconds")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds after which a run has failed")
    parser.add_argument("--wait-quiet", type=float, default=0.0, metavar="SECONDS", help="before each run, for others")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    parser.set_defaults(device="cpu", programs=None)  # what speed.run reads besides
    given = parser.parse_args(words)
    if given.rounds < 1:
        parser.error(f"--rounds must be >= 1, got {given.rounds}")
    return given


def main() -> int:
    given = arguments()
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "command": machine.command_line("leads.py"),
        "workloads": {name: {lead.name: [] for lead in LEADS[name]} for name in given.workloads},
    }
    for turn in range(given.rounds):
        for name in given.workloads:
            for lead in LEADS[name]:
                line = once(name, lead, given)
                results["workloads"][name][lead.name].append(line)
                print(f"{name} round {turn + 1} {lead.name:50} {line['tasks_per_s']:10.1f} tasks/s", file=sys.stderr)
            machine.keep(given.out, "leads_cpu", results, report(results))
    print(report(results))
    return 0


def once(name: str, lead: Lead, given: argparse.Namespace) -> dict[str, float]:
    """One run: tasks per second, seconds to the first step, memory, and how many cores others used meanwhile."""
    limits = ["--steps", str(given.steps), "--max-s", str(given.max_s)]
    machine.wait_quiet(given.wait_quiet, QUIET * machine.cores())
    with machine.Others() as others:
        told = speed.run([*command(name, lead), *limits], given)
    return {key: told[key] for key in ("tasks_per_s", "first_step_s", "peak_rss_mb")} | {"others": others.cores}


def report(results: dict[str, Any]) -> str:
    """The tables as Markdown."""
    about = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    parts = [
        "# Leads, one at a time",
        "",
        f"`{results['command']}` at {about['revision']}, {about['date']}: {about['cores']} cores of "
        f"{about['processor']}, {versions}.",
        "",
        "Tasks per second: median of the rounds (lowest to highest). Ratio: to the step as it is in the same round, "
        "median; one round of one step and another differ by up to a fifth on a shared machine. Others: cores busy "
        f"with other work meanwhile; above {QUIET:.0%} of all a figure is no finding.",
    ]
    for name, rows in results["workloads"].items():
        parts += ["", f"## {name}: {CASES[name].title}", "", *HEAD]
        parts += [row(lead.name, rows[lead.name], base(lead, rows)) for lead in LEADS[name] if rows[lead.name]]
    return "\n".join(parts) + "\n"


HEAD = ["| | tasks/s | ÷ as it is | first step, s | peak memory, MB | others, cores |", "|---|---|---|---|---|---|"]


def base(lead: Lead, rows: dict[str, list[dict[str, float]]]) -> list[dict[str, float]]:
    return rows[(BARE if lead.bare else AS_IS).name]


def row(name: str, runs: list[dict[str, float]], as_is: list[dict[str, float]]) -> str:
    speeds = [run["tasks_per_s"] for run in runs]
    ratio = median(run["tasks_per_s"] / other["tasks_per_s"] for run, other in zip(runs, as_is))
    rest = [median(run[key] for run in runs) for key in ("first_step_s", "peak_rss_mb", "others")]
    spread = f" ({number(min(speeds))}–{number(max(speeds))})" if len(speeds) > 1 else ""
    cells = [name, number(median(speeds)) + spread, f"{ratio:.2f}"]
    return f"| {' | '.join([*cells, f'{rest[0]:.3g}', f'{rest[1]:.4g}', f'{rest[2]:.2f}'])} |"


if __name__ == "__main__":
    sys.exit(main())
