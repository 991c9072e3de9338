"""One outer step of meta-learning, timed against others: W1, W2 and W3 through metapers' public path, the same in
bare JAX, and in PyTorch with torch.func and higher.

    python benchmarks/meta_step.py                                    # metapers and the bare-JAX yardstick
    python benchmarks/meta_step.py --make-peers-venv .venv-peers      # and the PyTorch peers

Every contender runs in a process of its own, in turns (A B C A B C ...), so that what else the machine does falls on
all alike. First the losses of a few steps from the same data and first parameters are compared: the same work is
done, or the exit status is 1. Results are printed and written as JSON and Markdown; see benchmarks/README.md.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from statistics import median
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

from benchmarks import machine  # noqa: E402

OUTSIDE = ROOT.parent / "shared" / "bench"  # where the issue's own yardstick and peers lie, if they are here
BEST = {  # the yardstick's best flags
    "W1": [],
    "W2-5w1s": ["--conv", "patches", "--devices", "2"],
    "W2-20w1s": ["--conv", "patches", "--devices", "2"],
    "W3": ["--devices", "2"],
}
CHUNK = {"W1": 50, "W2-5w1s": 2, "W2-20w1s": 2, "W3": 10}  # outer steps a dispatch where training's own scan is timed
TARGETS = {
    ("W1", "torch.func"): 4.0,
    ("W3", "torch.func"): 1.2,
    ("W1", "yardstick"): 0.9,
    ("W2-5w1s", "yardstick"): 0.9,
    ("W2-20w1s", "yardstick"): 0.9,
    ("W3", "yardstick"): 0.9,
}
QUIET = 0.2  # cores that others may use while a run counts: with more, a ratio says nothing about the contenders
AGREE, CHECKED = 1e-4, 5  # relative difference of losses allowed; timed steps of the comparison (three come before)

SCRIPT = "a script of the same command line, or 'own' (default: the shared one where it is beside the checkout)"
WAIT = "before each run wait up to so long for others to leave the cores"


class Contender(NamedTuple):
    """One who runs: ``command`` prints a JSON line and takes --steps and --max-s."""

    name: str
    command: list[str]


def main() -> int:
    given = arguments()
    peers = peers_python(given)
    results: dict[str, Any] = {"machine": about(peers), "command": command_line(), "workloads": {}}
    with tempfile.TemporaryDirectory() as folder:
        for workload in given.workloads:
            agreement = agree(workload, given)
            rows = timed(workload, contenders(workload, given, peers, pathlib.Path(folder)), given)
            results["workloads"][workload] = {"agreement": agreement, "contenders": rows}
    text = report(results)
    print(text)
    if not given.dry:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "meta_step.json").write_text(json.dumps(results, indent=1) + "\n")
        (given.out / "meta_step.md").write_text(text)
    return 0 if all(row["agrees"] for part in results["workloads"].values() for row in part["agreement"]) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=list(BEST), default=["W1", "W3", "W2-5w1s"])
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender runs")
    parser.add_argument("--steps", type=int, default=500, help="at most so many timed steps a run")
    parser.add_argument("--max-s", type=float, default=5.0, help="and at most about so many seconds")
    parser.add_argument("--reference", default=outside("ref_maml_jax.py"), metavar="PATH", help=SCRIPT)
    parser.add_argument("--peers-script", default=outside("peer_maml_torch.py"), metavar="PATH", help=SCRIPT)
    parser.add_argument("--peers-python", metavar="PATH", help="a Python that has torch and higher")
    parser.add_argument("--make-peers-venv", metavar="DIR", type=pathlib.Path, help="make one there, if none is")
    parser.add_argument("--peers", nargs="*", choices=["torch.func", "higher"], default=["torch.func", "higher"])
    parser.add_argument("--wait-quiet", type=float, default=0.0, metavar="SECONDS", help=WAIT)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--dry", action="store_true", help="write no files")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds must be >= 1, got {given.rounds}")
    return given


def outside(name: str) -> str:
    return str(OUTSIDE / name) if (OUTSIDE / name).exists() else "own"


def peers_python(given: argparse.Namespace) -> str | None:
    """The Python that has the peers, made first where asked for; None without peers."""
    if given.make_peers_venv is None:
        return given.peers_python
    python = given.make_peers_venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(given.make_peers_venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "torch==2.13.0", "higher", "numpy"], check=True)
    return str(python.absolute())


def contenders(workload: str, given: argparse.Namespace, peers: str | None, folder: pathlib.Path) -> list[Contender]:
    devices = [flag for flag in BEST[workload] if flag not in ("--conv", "patches")]
    ours = [sys.executable, "-m", "benchmarks.ours", "-w", workload, *devices]
    every = [
        Contender("metapers", ours),
        Contender("yardstick", yardstick(workload, given.reference)),
        Contender(f"metapers, {CHUNK[workload]} steps a dispatch", [*ours, "--chunk", str(CHUNK[workload])]),
    ]
    if peers is None:
        return every
    script, rest = [given.peers_script], []
    if given.peers_script == "own":
        data = str(folder / f"{workload}.npz")
        save = [sys.executable, "-m", "benchmarks.workloads", "--workload", workload, "--save", data]
        subprocess.run(save, cwd=ROOT, env=environment(), check=True)
        script, rest = ["-m", "benchmarks.peers_torch"], ["--data", data]
    return every + [Contender(name, [peers, *script, "-w", workload, "-f", name, *rest]) for name in given.peers]


def yardstick(workload: str, reference: str) -> list[str]:
    script = ["-m", "benchmarks.yardstick"] if reference == "own" else [reference]
    return [sys.executable, *script, "-w", workload, *BEST[workload]]


def agree(workload: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Loss after the same steps: metapers against the own yardstick (each step) and the outside one (the last).

    In float64, and in float32 as timed. The images' steps amplify rounding so much that two bare-JAX programs
    differ in float32 as well; there only float64 decides.
    """
    rows, limits = [], ["--steps", str(CHECKED), "--max-s", "1000"]
    own, mine = yardstick(workload, "own"), contenders(workload, given, None, ROOT)[0].command
    for bits in (64, 32):
        ours, bare = (run([*command, *limits], bits) for command in (mine, own))
        apart = max(abs(a - b) / abs(b) for a, b in zip(ours["losses"], bare["losses"]))
        row = {"bits": bits, "steps": len(ours["losses"]), "loss": ours["loss"], "yardstick": bare["loss"]}
        row |= {"difference": apart, "counts": bits == 64 or not workload.startswith("W2")}
        rows.append(row | {"agrees": apart <= AGREE or not row["counts"]})
        if given.reference != "own":
            outside = run([*yardstick(workload, given.reference), *limits], bits)["loss"]
            apart = abs(ours["loss"] - outside) / abs(outside)
            rounded = 5e-6 / abs(outside)  # it prints five decimals
            row = row | {"yardstick": outside, "difference": apart, "outside": True}
            rows.append(row | {"agrees": apart <= AGREE + rounded or not row["counts"]})
    return rows


def timed(workload: str, every: list[Contender], given: argparse.Namespace) -> list[dict[str, Any]]:
    limits = ["--steps", str(given.steps), "--max-s", str(given.max_s)]
    runs: dict[str, list[dict]] = {contender.name: [] for contender in every}
    for turn in range(given.rounds):
        for contender in every:
            machine.wait_quiet(given.wait_quiet, QUIET)
            with machine.Others() as others:
                line = run([*contender.command, *limits])
            line |= {"others": others.cores}
            line.pop("losses", None)
            runs[contender.name].append(line)
            told = f"{line['tasks_per_s']:10.1f} tasks/s   others on {others.cores:.2f} cores"
            print(f"{workload} round {turn + 1} {contender.name:32s} {told}", file=sys.stderr, flush=True)
    ours = [line["tasks_per_s"] for line in runs["metapers"]]
    return [summary(name, lines, ours) for name, lines in runs.items()]


def summary(name: str, lines: list[dict], ours: list[float]) -> dict[str, Any]:
    """Medians and ranges over the rounds; ``ratio``: metapers' tasks per second over this contender's."""
    speeds = [line["tasks_per_s"] for line in lines]
    ratios = [mine / theirs for mine, theirs in zip(ours, speeds)]
    fields = ("ms_per_step", "cpu_ms_per_step", "first_step_s", "peak_rss_mb", "others")
    row: dict[str, Any] = {"name": name, "tasks_per_s": median(speeds), "lowest": min(speeds), "highest": max(speeds)}
    row |= {"ratio": median(ours) / median(speeds), "ratio_low": min(ratios), "ratio_high": max(ratios)}
    row |= {"ratio_of_best": max(ours) / max(speeds)}
    return row | {field: median(line[field] for line in lines) for field in fields} | {"runs": lines}


def run(command: list[str], bits: int = 32) -> dict[str, Any]:
    """The last line that a command prints, read as JSON; RuntimeError with its own words if it fails."""
    done = subprocess.run(command, cwd=ROOT, env=environment(bits), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment(bits: int = 32) -> dict[str, str]:
    """Nobody finds a compiled program on disk, so that first steps compare; ``bits``: JAX's floats."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    return kept | {"JAX_ENABLE_X64": str(int(bits == 64)), "JAX_PLATFORMS": kept.get("JAX_PLATFORMS", "cpu")}


def about(peers: str | None) -> dict[str, Any]:
    """The machine and all versions, the peers' too."""
    told = machine.describe(ROOT)
    if peers is not None:
        ask = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('torch', 'higher')}))"
        found = subprocess.run([peers, "-c", ask], capture_output=True, text=True, check=True).stdout
        told["packages"] |= json.loads(found)
    return told


def command_line() -> str:
    """The command with every path outside the project named PATH."""
    words = ["PATH" if word.startswith("/") else word for word in sys.argv[1:]]
    return " ".join(["python benchmarks/meta_step.py", *words])


def report(results: dict[str, Any]) -> str:
    where = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    lines = [
        "# One outer step, timed",
        "",
        f"`{results['command']}` at {where['revision']}, {where['date']}: {where['cores']} cores of "
        f"{where['processor']} ({where['system']}, JAX on {where['device']}), Python {where['python']}, {versions}.",
        "",
        "Tasks per second: median of the rounds (lowest to highest). Ratio: metapers' median over theirs (lowest to "
        "highest of the rounds; best: both at their best round). Others: cores busy with other work meanwhile; above "
        f"{QUIET} no target is judged. The other columns are medians.",
    ]
    for workload, part in results["workloads"].items():
        lines += ["", f"## {workload}", "", *table(part["contenders"]), "", *targets(workload, part["contenders"])]
        lines += ["", *map(agreement_line, part["agreement"])]
    return "\n".join(lines) + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    titles = "tasks/s|metapers ÷ it|best|ms a step|CPU ms a step|first step, s|peak memory, MB|others, cores".split("|")
    lines = [f"| | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for row in rows:
        cells = [
            f"{row['tasks_per_s']:.0f} ({row['lowest']:.0f}–{row['highest']:.0f})",
            f"{row['ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})",
            f"{row['ratio_of_best']:.2f}",
            *(f"{row[field]:.4g}" for field in ("ms_per_step", "cpu_ms_per_step", "first_step_s")),
            f"{row['peak_rss_mb']:.0f}",
            f"{row['others']:.2f}",
        ]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return lines


def targets(workload: str, rows: list[dict[str, Any]]) -> list[str]:
    """One line a target. Busy cores slow some contenders far more than others, so then nothing is judged."""
    lines, ours = [], rows[0]["others"]
    for row in rows:
        wanted = TARGETS.get((workload, row["name"]))
        if wanted is not None:
            word = "met" if row["ratio"] >= wanted else "MISSED"
            word = word if max(row["others"], ours) <= QUIET else "not judged: the machine was busy with other work"
            lines.append(f"- at least {wanted} x {row['name']}: {row['ratio']:.2f}, {word}")
    return lines


def agreement_line(row: dict[str, Any]) -> str:
    who = "the outside yardstick (five decimals)" if row.get("outside") else "benchmarks/yardstick.py (every step)"
    word = "agrees" if row["agrees"] else "DIFFERS"
    word = word if row["counts"] else "rounding, told only"
    return (
        f"- float{row['bits']}, loss of step {row['steps']}: {row['loss']:.8f}, {who} {row['yardstick']:.8f}, "
        f"relative difference {row['difference']:.1e}: {word}"
    )


if __name__ == "__main__":
    sys.exit(main())
