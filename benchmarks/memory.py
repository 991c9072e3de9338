"""Peak memory and time of one MAML outer step of a transformer with LoRA personal parameters, however the gradient is
computed: plain reverse mode, users in blocks, rematerialised inner steps, mixed mode, and these with blocks.

    python benchmarks/memory.py
    python benchmarks/memory.py --width 512 --inner-steps 10 --users 8 --rounds 3

Each way runs in a process of its own. That all give one gradient is shown twice: in float64 at a small size, and in
float32 at the size measured. Written after every run: benchmarks/results/memory_<device>.json and .md.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
from statistics import median
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

from benchmarks import contenders, machine  # noqa: E402

SIZES = ("width", "layers", "length", "users", "sequences", "inner-steps", "rank")
AGREE = 1e-10  # float64: largest difference of the gradient, over its largest entry


def main() -> int:
    given = arguments()
    ways = [(how, blocks) for blocks, how in itertools.product([0, *given.blocks], ("plain", "remat", "mixed"))]
    rows: list[dict[str, Any]] = [{"name": name_of(*way), "runs": []} for way in ways]
    told = machine.describe() | {"device": given.device}
    results = {"machine": told, "command": machine.command_line("memory.py"), "sizes": asked(given), "rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        for bits, small in ((64, True), (32, given.small)):
            for turn in range(1 if bits == 64 else given.rounds):
                for way, row in zip(ways, rows):
                    once(pathlib.Path(folder), way, row, given, bits, small or given.small)
                    print(f"float{bits} round {turn + 1} {row['name']}", file=sys.stderr, flush=True)
                    machine.keep(given.out, f"memory_{given.device}", results, report(results))
    print(report(results))
    return 0 if all(row["difference_64"] <= AGREE for row in rows) else 1


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, help="see benchmarks/memory_step.py")
    parser.add_argument("--small", action="store_true", help="sizes for a test")
    parser.add_argument("--blocks", type=int, nargs="*", default=[1], help="users at a time, beside all at once")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way, in turns")
    parser.add_argument("--timed", type=int, default=3, help="timed steps of each process")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args(words)
    if given.rounds < 1 or min(given.blocks, default=1) < 1:
        parser.error(f"--rounds and --blocks must be >= 1, got {given.rounds} and {given.blocks}")
    return given


def name_of(how: str, blocks: int) -> str:
    """In words: ``remat, blocks of 1``."""
    words = {"plain": "plain reverse", "remat": "rematerialised steps", "mixed": "mixed mode"}[how]
    return f"{words}, blocks of {blocks}" if blocks else words


def asked(given: argparse.Namespace) -> list[str]:
    values = {name: getattr(given, name.replace("-", "_")) for name in SIZES}
    return [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]


def once(
    folder: pathlib.Path, way: tuple[str, int], row: dict, given: argparse.Namespace, bits: int, small: bool
) -> None:
    """Runs one way and adds what it found to its row; the first gradient is what the others are held to."""
    how, blocks = way
    plain, mine = (str(folder / f"{name}-{bits}.npz") for name in ("plain", "mine"))
    first = not pathlib.Path(plain).exists()
    sizes = ["--small"] if small and (bits == 64 or given.small) else asked(given)
    command = [sys.executable, "-m", "benchmarks.memory_step", *sizes, "--inner", how, "--blocks", str(blocks)]
    command += ["--timed", str(1 if bits == 64 else given.timed), "--gradient", plain if first else mine]
    env = contenders.environment(given.device, bits)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line][-1:] or ["nothing"]
        row.setdefault("failed", {})[str(bits)] = f"exit status {done.returncode}, and said: {said[0][:300]}"
        row.setdefault(f"difference_{bits}", float("inf"))
        return
    row[f"difference_{bits}"] = 0.0 if first else apart(plain, mine)
    if bits == 32:
        row["runs"].append(json.loads(done.stdout.strip().splitlines()[-1]))


def apart(plain: str, mine: str) -> float:
    """The largest difference of two gradients over the largest entry of the first."""
    with np.load(plain) as a, np.load(mine) as b:
        largest = max(float(np.max(np.abs(a[name]))) for name in a.files)
        return max(float(np.max(np.abs(a[name] - b[name]))) for name in a.files) / largest


def report(results: dict[str, Any]) -> str:
    """The whole page; ways that have not run yet show dashes."""
    where, rows = results["machine"], results["rows"]
    seen = next((row["runs"][0] for row in rows if row["runs"]), None)
    counted = f", {seen['parameters']:,} parameters, {seen['personal']:,} of them personal" if seen else ""
    titles = ["temporary, MB", "plain ÷ it", "grown by, MB", "process, MB", "s a step", "compile, s"]
    titles += ["float64", "float32"]
    lines = [
        "# Memory of an outer step",
        "",
        f"`{results['command']}` at {where['revision']}, {where['date']}: {where['cores']} cores of "
        f"{where['processor']}, JAX {where['packages']['jax']} on {where['device']}{counted}.",
        "",
        "Temporary: what the compiled step asks for beside its arguments and results, and plain reverse mode's over "
        "it. Grown by: how much more the process has held while stepping than before the first step (resident). "
        "Process: the most it has held at all, Python and the compiler included. Medians over processes. Last columns: "
        "the largest difference of the gradient from that of the first row that ran, over its largest entry: in "
        "float64 at a small size and in float32 at this one.",
        "",
        f"| | {' | '.join(titles)} |",
        "|---|" + "---|" * len(titles),
    ]
    lines += [line_of(row, rows[0]) for row in rows]
    failures = [f"- {row['name']}, float{bits}: {why}" for row in rows for bits, why in row.get("failed", {}).items()]
    return "\n".join([*lines, *([""] if failures else []), *failures]) + "\n"


def line_of(row: dict[str, Any], plain: dict[str, Any]) -> str:
    cells = ["–"] * 6
    if row["runs"]:
        of = lambda who, field: median(run[field] or 0 for run in who["runs"])
        over = of(plain, "temp_mb") / max(of(row, "temp_mb"), 1e-3) if plain["runs"] else None
        cells = [f"{of(row, 'temp_mb'):.0f}", "–" if over is None else f"{over:.2f}"]
        cells += [f"{of(row, field):.0f}" for field in ("step_mb", "peak_rss_mb")]
        cells += [f"{of(row, 'seconds'):.3g}", f"{of(row, 'compile_s'):.3g}"]
    cells += [f"{row[field]:.1e}" if field in row else "–" for field in ("difference_64", "difference_32")]
    return f"| {row['name']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
