"""Damage done on purpose: single flipped bits in saved folders, and child programs that are killed or starved."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def flip_bits(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, int]]:
    """Flips ``count`` random single bits in ``folder``, one at a time; yields (file, bit) while it is flipped.

    Half of them are uniform over all bits of all files, half over files first, so that small files are met too.
    Each flip is undone before the next. Every file that holds a byte can be hit.
    """
    random = np.random.default_rng(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = np.array([path.stat().st_size for path in files])
    for turn in range(count):
        which = random.choice(len(files), p=sizes / sizes.sum() if turn % 2 else None)
        bit = int(random.integers(8 * sizes[which]))
        whole = files[which].read_bytes()
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        files[which].write_bytes(broken)
        try:
            yield files[which], bit
        finally:
            files[which].write_bytes(whole)


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A child Python that runs ``program`` in the checkout, with pipes for its output and its errors."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(program: str, *arguments: object) -> str:
    """What ``program`` printed; AssertionError with its errors if it failed."""
    with start(program, *arguments) as child:
        out, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    return out
