"""Who is timed on what: for each case the commands, each of which prints one JSON line."""

import argparse
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
OUTSIDE = ROOT.parent / "shared" / "bench"  # where the issue's own yardstick and peers lie, if they are here

FUNC, COMPILED, HIGHER = "torch.func", "torch.func + compile", "higher"
PRODUCTS = "the matrix products alone"
ON_DISK = "metapers, compiled program on disk"
SCAN = "metapers, steps in the training scan"
CALLS = "metapers, adapted, then predicted"
EVERY_PROGRAM = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
PACKAGES = ["torch==2.13.0", "higher", "numpy"]


class Case(NamedTuple):
    """A row of the issue's table: a workload, what is timed of it, and each one's best flags on two CPU cores."""

    workload: str
    mode: str
    title: str
    ours: list[str]
    bare: list[str]
    peers: tuple[str, ...]
    chunk: int = 0  # steps a dispatch of the training scan; 0: not timed

    @property
    def images(self) -> bool:
        return self.workload.startswith("W2")


class Contender(NamedTuple):
    """One who runs: ``command`` prints a JSON line and takes --steps and --max-s."""

    name: str
    command: list[str]
    environment: Mapping[str, str] = {}
    starts: bool = False  # only its start is of interest


TWO, WHOLE = ["--devices", "2"], ["--unroll", "5"]
IMAGES = ["--conv", "patches", *TWO, *WHOLE]
ALL = (FUNC, COMPILED, HIGHER)
# Users in blocks: what a block holds, in training for the way back too, stays in the cache.
MANY, FEW, EIGHT = ([*TWO, *WHOLE, "--blocks", size] for size in ("16", "2", "8"))
FIVE = [*WHOLE, "--blocks", "5"]  # a second device costs so small a step more than it gains
CASES = {
    "W1": Case("W1", "train", "sinusoid MLP, outer step", FIVE, WHOLE, ALL, 50),
    "W3": Case("W3", "train", "recommender MLP, outer step", MANY, TWO, ALL, 10),
    "W3-adapt": Case("W3", "adapt", "recommender MLP, adapting alone, users/s", EIGHT, TWO, ALL),
    "one-user": Case(
        "W3", "one", "recommender MLP, one user adapted and predicted, warm", WHOLE, WHOLE, (FUNC, HIGHER)
    ),
    "W2-5w1s": Case("W2-5w1s", "train", "four convolutions, 5 ways, outer step", FEW, IMAGES, (FUNC, HIGHER), 2),
    "W2-20w1s": Case("W2-20w1s", "train", "four convolutions, 20 ways, outer step", FEW, IMAGES, (FUNC, HIGHER), 2),
}


def outside(name: str) -> str:
    return str(OUTSIDE / name) if (OUTSIDE / name).exists() else "own"


def every(case: Case, given: argparse.Namespace, peers: str | None, folder: pathlib.Path) -> list[Contender]:
    """All who run the case, metapers first. ``folder``: for what is kept between runs."""
    own = ours(case, given)
    found = [Contender("metapers", own), Contender("yardstick", bare(case, given, given.reference))]
    if case.mode == "one":
        found.append(Contender(CALLS, [*own, "--path", "calls"]))
    if case.chunk:
        found.append(Contender(SCAN, [*own, "--chunk", str(case.chunk)]))
    if case.images:
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / f"compiled-{case.workload}")}
        found.append(Contender(ON_DISK, own, cache | EVERY_PROGRAM, starts=True))
        alone = ["-m", "benchmarks.products", "-w", case.workload, *split(TWO, given)]
        found.append(Contender(PRODUCTS, [sys.executable, *alone]))
    if peers is None:
        return found
    wanted = [name for name in case.peers if name in given.peers]
    return found + [Contender(name, peer(case, name, given, peers, given.peers_script, folder)) for name in wanted]


def ours(case: Case, given: argparse.Namespace) -> list[str]:
    flags = split(case.ours, given)
    return [sys.executable, "-m", "benchmarks.ours", "-w", case.workload, "-m", case.mode, *flags]


def bare(case: Case, given: argparse.Namespace, reference: str) -> list[str]:
    """The yardstick; the outside one knows no single user."""
    script = ["-m", "benchmarks.yardstick"] if reference == "own" or case.mode == "one" else [reference]
    return [sys.executable, *script, "-w", case.workload, "-m", case.mode, *split(case.bare, given)]


def peer(
    case: Case, name: str, given: argparse.Namespace, python: str, script: str, folder: pathlib.Path, bits: int = 32
) -> list[str]:
    """A PyTorch peer. The outside one draws numbers of its own, knows no single user and no accelerator."""
    flags = ["-w", case.workload, "-m", case.mode, "-f", FUNC if name == COMPILED else name]
    flags += ["--compile"] if name == COMPILED else []
    if script != "own" and case.mode != "one" and given.device == "cpu":
        return [python, script, *flags]
    data = folder / f"{case.workload}-{bits}.npz"
    if not data.exists():
        save = [sys.executable, "-m", "benchmarks.workloads", "--workload", case.workload, "--save", str(data)]
        subprocess.run(save, cwd=ROOT, env=environment(given.device, bits), check=True)
    device = "cpu" if given.device == "cpu" else "cuda"
    return [python, "-m", "benchmarks.peers_torch", *flags, "--data", str(data), "--device", device]


def split(flags: list[str], given: argparse.Namespace) -> list[str]:
    """The flags without those for two CPU cores and their caches, where the device is another."""
    return flags if given.device == "cpu" else flags_without(flags, ("--devices", "--blocks"))


def flags_without(flags: list[str], names: tuple[str, ...]) -> list[str]:
    """The flags without those names and the value after each."""
    left_out = {i + j for i, flag in enumerate(flags) if flag in names for j in (0, 1)}
    return [flag for i, flag in enumerate(flags) if i not in left_out]


def environment(device: str, bits: int = 32, programs: str | None = None) -> dict[str, str]:
    """Nobody finds a compiled program on disk, so that first steps compare, unless they lie in ``programs``; ``bits``:
    JAX's floats."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    platforms = "cpu" if device == "cpu" else "cuda,cpu"
    on_disk = {} if programs is None else {"JAX_COMPILATION_CACHE_DIR": programs, **EVERY_PROGRAM}
    return kept | on_disk | {"JAX_ENABLE_X64": str(int(bits == 64)), "JAX_PLATFORMS": platforms}


def peers_python(given: argparse.Namespace) -> str | None:
    """The Python that has the peers, made first where asked for; None without peers."""
    if given.make_peers_venv is None:
        return given.peers_python
    python = given.make_peers_venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(given.make_peers_venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return str(python.absolute())
