"""The speed table: metapers' public path beside the same in bare JAX, in PyTorch with torch.func (eager and compiled)
and higher, and beside the machine.

    python benchmarks/speed.py                                    # metapers, the bare-JAX yardstick, the machine
    python benchmarks/speed.py --make-peers-venv .venv-peers      # and the PyTorch peers
    python benchmarks/speed.py --device gpu --make-peers-venv .venv-peers

Every contender runs in a process of its own, in turns (A B C A B C ...), so that what else the machine does falls on
all alike. First the losses of a few steps from the same data and first parameters are compared: the same work is
done, or the exit status is 1. What is known is written as JSON and Markdown after every round of every case; see
benchmarks/README.md.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

from benchmarks import contenders, machine, speed_table  # noqa: E402
from benchmarks.contenders import ALL, CASES, Case, Contender  # noqa: E402

AGREE, CHECKED = 1e-4, 5  # relative difference of losses allowed; timed steps of the comparison (three come before)
CALLS = 2000  # of one user, at most; enough for a 99th percentile

SCRIPT = "a script of the same command line, or 'own' (default: the shared one where it is beside the checkout)"
WAIT = "before each run wait up to so long for others to leave the cores"


def main() -> int:
    given = arguments()
    peers = contenders.peers_python(given)
    results: dict[str, Any] = {
        "machine": about(given, peers),
        "command": machine.command_line("speed.py"),
        "workloads": {},
    }
    results |= {"rounds": given.rounds, "rounds_done": 0, "programs": given.programs is not None}
    with tempfile.TemporaryDirectory() as folder:
        kept = pathlib.Path(folder)
        for name in given.workloads:
            agreement = [] if given.no_proof else agree(CASES[name], given, peers, kept)
            results["workloads"][name] = {"agreement": agreement, "contenders": []}
        runs: dict[str, dict[str, list[dict]]] = {name: {} for name in given.workloads}
        for turn in range(given.rounds):
            for name in given.workloads:
                one_round(name, turn, runs[name], contenders.every(CASES[name], given, peers, kept), given)
                results["workloads"][name]["contenders"] = speed_table.summaries(runs[name])
                results["rounds_done"] = turn + (name == given.workloads[-1])
                write(results, given)
    print(speed_table.report(results))
    return 0 if all(row["agrees"] for part in results["workloads"].values() for row in part["agreement"]) else 1


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender runs")
    parser.add_argument("--steps", type=int, default=500, help="at most so many timed steps a run")
    parser.add_argument("--max-s", type=float, default=5.0, help="and at most about so many seconds")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds after which a run has failed")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--reference", default=contenders.outside("ref_maml_jax.py"), metavar="PATH", help=SCRIPT)
    parser.add_argument("--peers-script", default=contenders.outside("peer_maml_torch.py"), metavar="PATH", help=SCRIPT)
    parser.add_argument("--peers-python", metavar="PATH", help="a Python that has torch and higher")
    parser.add_argument("--make-peers-venv", metavar="DIR", type=pathlib.Path, help="make one there, if none is")
    parser.add_argument("--peers", nargs="*", choices=ALL, default=list(ALL))
    parser.add_argument("--wait-quiet", type=float, default=0.0, metavar="SECONDS", help=WAIT)
    parser.add_argument("--programs", metavar="DIR", help="keep compiled programs there: first steps do not compare")
    parser.add_argument("--no-proof", action="store_true", help="skip the comparison of losses")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--dry", action="store_true", help="write no files")
    given = parser.parse_args(words)
    if given.rounds < 1:
        parser.error(f"--rounds must be >= 1, got {given.rounds}")
    return given


def agree(case: Case, given: argparse.Namespace, peers: str | None, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Losses after the same steps: metapers against the own yardstick and the own peers (each step), and against
    the outside yardstick (the last one), in float64 and in float32 as timed.

    The images' steps amplify rounding so much that two bare-JAX programs differ in float32 as well; there only
    float64 decides.
    """
    rows, limits = [], ["--steps", str(CHECKED), "--max-s", "1000"]
    for bits in (64, 32):
        others = {"benchmarks/yardstick.py": contenders.bare(case, given, "own")}
        if peers is not None:
            eager = [name for name in case.peers if name in given.peers and name != contenders.COMPILED]
            others |= {name: contenders.peer(case, name, given, peers, "own", folder, bits) for name in eager}
        if given.reference != "own" and case.mode == "train":
            others["the outside yardstick"] = contenders.bare(case, given, given.reference)
        mine = run([*contenders.ours(case, given), *limits], given, bits)
        for name, command in others.items():
            theirs = run([*command, *limits], given, bits)
            counts = bits == 64 or not case.images
            rows.append({"bits": bits, "name": name, "counts": counts, **compared(mine, theirs, counts)})
    return rows


def compared(mine: dict[str, Any], theirs: dict[str, Any], counts: bool) -> dict[str, Any]:
    """The largest relative difference of the losses of all steps, or of the last where only that is told."""
    every = "losses" in theirs
    pairs = zip(mine["losses"], theirs["losses"]) if every else [(mine["loss"], theirs["loss"])]
    apart = max(abs(a - b) / abs(b) for a, b in pairs)
    rounded = 0.0 if every else 5e-6 / abs(theirs["loss"])  # told with five decimals
    row = {"steps": len(mine["losses"]), "loss": mine["loss"], "theirs": theirs["loss"], "difference": apart}
    return row | {"every_step": every, "agrees": apart <= AGREE + rounded or not counts}


def one_round(
    name: str, turn: int, runs: dict[str, list[dict]], every: list[Contender], given: argparse.Namespace
) -> None:
    """Each contender once; one that has failed before is left out, and metapers must not."""
    one = CASES[name].mode == "one"
    limits = ["--steps", str(max(CALLS, given.steps) if one else given.steps), "--max-s", str(given.max_s)]
    for contender in every:
        lines = runs.setdefault(contender.name, [])
        if any("error" in line for line in lines):
            continue
        if contender.starts and not turn:  # the first start fills the disk
            run([*contender.command, "--steps", "1", "--max-s", "0"], given, more=contender.environment)
        machine.wait_quiet(given.wait_quiet, speed_table.QUIET * machine.cores())
        asked = ["--steps", "1", "--max-s", "0"] if contender.starts else limits
        with machine.Others() as others:
            try:
                line = run([*contender.command, *asked], given, more=contender.environment)
            except RuntimeError as error:
                if contender.name == "metapers":
                    raise
                line = {"error": str(error)[-500:]}
        line.pop("losses", None)
        lines.append(line | {"others": others.cores})
        told = f"{line['tasks_per_s']:10.1f} tasks/s" if "error" not in line else "    failed"
        print(
            f"{name} round {turn + 1} {contender.name:36s} {told}   others on {others.cores:.2f} cores", file=sys.stderr
        )


def run(
    command: list[str], given: argparse.Namespace, bits: int = 32, more: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The last line that a command prints, read as JSON; RuntimeError with its own words if it fails."""
    env = contenders.environment(given.device, bits, given.programs) | dict(more or {})
    name = " ".join(map(machine.hidden, command))
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=given.timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{name} did not end within {given.timeout:.0f} s") from None
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def about(given: argparse.Namespace, peers: str | None) -> dict[str, Any]:
    """The machine and all versions, the peers' too."""
    told = machine.describe() | {"device": "cpu"}
    if given.device != "cpu":
        ask = "import jax, json; print(json.dumps({'kind': jax.devices()[0].device_kind}))"
        told["device"] = run([sys.executable, "-c", ask], given)["kind"]
    if peers is not None:
        ask = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('torch', 'higher')}))"
        told["packages"] |= run([peers, "-c", ask], given)
    return told


def write(results: dict[str, Any], given: argparse.Namespace) -> None:
    if not given.dry:
        name = "speed_" + "-".join(results["machine"]["device"].lower().split())
        machine.keep(given.out, name, results, speed_table.report(results))


if __name__ == "__main__":
    sys.exit(main())
