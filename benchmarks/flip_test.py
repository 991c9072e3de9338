"""Single flipped bits over all files of a version: each load must refuse by name or give the same values.

    python benchmarks/flip_test.py --flips=200

Half of the flips are uniform over all bits, half over files first, so that small files get some too. Prints the
counts; exits with 1 if a flip loaded other numbers or failed without naming the damage.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import shrunken  # noqa: E402
from metapers import store, trees  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        shrunken.finish(workdir, {"outer_steps": 10})
        versions = workdir / "arms" / "continual" / "versions"
        counts = flipped(versions, store.versions(versions)[-1], given.flips, np.random.default_rng(given.seed))
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 0 if counts["loaded other numbers"] == counts["failed otherwise"] == 0 and sum(counts.values()) else 1


def flipped(versions: Path, number: int, flips: int, random: np.random.Generator) -> dict[str, int]:
    """How many of ``flips`` single bits were refused by name, made no difference, or did harm."""
    files = sorted(path for path in (versions / str(number)).rglob("*") if path.is_file() and path.stat().st_size)
    sizes = np.array([path.stat().st_size for path in files])
    whole = leaves(versions, number)
    print(f"{len(files)} files, {sizes.sum():,} bytes, {len(whole)} leaves")
    counts = dict.fromkeys(("refused by name", "loaded the same", "loaded other numbers", "failed otherwise"), 0)
    for turn in range(flips):
        which = int(random.choice(len(files), p=sizes / sizes.sum() if turn % 2 else None))
        bit = int(random.integers(8 * sizes[which]))
        intact = files[which].read_bytes()
        broken = bytearray(intact)
        broken[bit // 8] ^= 1 << bit % 8
        files[which].write_bytes(broken)
        try:
            kind = "loaded the same" if leaves(versions, number) == whole else "loaded other numbers"
        except store.CorruptVersion as error:
            kind = "refused by name" if files[which].name in str(error) else "failed otherwise"
        except Exception:
            kind = "failed otherwise"
        finally:
            files[which].write_bytes(intact)
        counts[kind] += 1
        if kind in ("loaded other numbers", "failed otherwise"):
            print(f"bit {bit} of {files[which].relative_to(versions)}: {kind}")
    return counts


def leaves(versions: Path, number: int) -> dict[str, tuple[str, bytes]]:
    """Every leaf of a version as dtype and bytes."""
    import jax

    tree, _ = store.load_version(versions, number)
    tree = jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
    return {
        name: (str(leaf.dtype), np.asarray(leaf).tobytes())
        for name, leaf in zip(trees.names(tree), jax.tree.leaves(tree))
    }


def is_key(leaf: object) -> bool:
    return str(getattr(leaf, "dtype", "")).startswith("key<")


if __name__ == "__main__":
    sys.exit(main())
