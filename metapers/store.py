"""Versions and checkpoints on disk, each verified to the bit on load; the only door to Orbax.

A version is a folder that is written beside its place, synced and renamed into it, so it is whole or absent:

    versions/<n>/arrays/         Orbax: one flat array per dtype (it costs 1.7 ms a leaf, and states have hundreds)
    versions/<n>/lineage.json    the lineage, the table of leaves, the SHA-256 of every leaf, every file and itself

Orbax gives back flipped bits without a word; the sums here are what refuses them. Checkpoints are the same folders
under checkpoints/<step>/, of which the newest two stay. One process writes at a time (``metapers.workdir.lock``).
"""

import errno
import logging
import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metapers.base import Tree
from metapers.manifest import CorruptVersion, digest, open_record, plain, seal, sync, verify_files
from metapers.packing import pack, unpack

__all__ = [
    "CorruptVersion",
    "digest",
    "latest_checkpoint",
    "load_checkpoint",
    "load_version",
    "read_record",
    "save_checkpoint",
    "save_version",
    "versions",
]

ARRAYS = "arrays"
KEPT = 2  # checkpoints: the last, and the one before it in case the last is damaged
PARTIAL = ".partial-"
log = logging.getLogger("metapers.store")


# Versions


def save_version(folder: Path, number: int, tree: Tree, lineage: dict) -> Path:
    """Writes ``tree`` (arrays and typed keys, any shapes and dtypes) as version ``number``; returns its folder.

    ``lineage`` is JSON-like and kept with it (NaN becomes null). Raises FileExistsError if the number is taken,
    TypeError for a leaf that is no array, OSError naming the path if the disk refuses (nothing half-written is listed).
    """
    target = Path(folder) / str(number)
    if target.exists():
        raise FileExistsError(errno.EEXIST, f"version {number} exists and is never overwritten", str(target))
    _write(target, tree, lineage)
    return target


def versions(folder: Path) -> list[int]:
    """The numbers of the finished versions (or checkpoints) in ``folder``, ascending; logs what is half-written."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    names = sorted(os.listdir(folder))
    for name in names:
        if PARTIAL in name:
            log.warning("ignored half-written %s", folder / name)
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name) and (folder / name).is_dir())


def load_version(folder: Path, number: int = -1, like: Tree | None = None) -> tuple[Tree, dict]:
    """(tree, lineage) of version ``number`` (-1: the last), every bit of it as it was saved.

    ``like`` gives the structure (arrays or ShapeDtypeStructs): the tree comes back as that, jax arrays where it
    holds jax arrays, on its shardings. Without it: nested dicts of numpy arrays, keyed by path. Raises CorruptVersion
    naming the file or leaf that changed, ValueError naming leaves that are missing, extra or of another shape than
    ``like``, FileNotFoundError if there is no such version.
    """
    folder = Path(folder)
    return _read(_target(folder, number), like)


def read_record(folder: Path, number: int = -1) -> dict:
    """All of a version's lineage.json, verified by its digest, without touching the arrays.

    Keys: number, lineage, structure, leaves, files, digest. Raises as ``load_version``.
    """
    target = _target(Path(folder), number)
    return open_record(target, int(target.name))


# Checkpoints


def save_checkpoint(folder: Path, step: int, tree: Tree, meta: dict) -> int:
    """Writes the checkpoint of ``step``, replacing one of that step, and returns the bytes written.

    Afterwards only this one and the one before it are left; later ones (of a run that was resumed from further back)
    go too. Raises as ``save_version``.
    """
    folder = Path(folder)
    size = _write(folder / str(step), tree, meta, replace=True)
    found = versions(folder)
    later = [number for number in found if number > step]
    if later:
        log.warning("removed checkpoints %s of %s: the run went on from step %d", later, folder, step)
    for number in later + [number for number in found if number <= step][:-KEPT]:
        shutil.rmtree(folder / str(number))
    return size


def latest_checkpoint(folder: Path) -> int | None:
    """The last step whose checkpoint is undamaged, or None; a damaged one is logged and passed over."""
    folder = Path(folder)
    for step in reversed(versions(folder)):
        target = folder / str(step)
        try:
            verify_files(target, open_record(target, step))
            return step
        except CorruptVersion as error:
            log.warning("passed over damaged checkpoint %d: %s", step, error)
    return None


def load_checkpoint(folder: Path, step: int, like: Tree | None = None) -> tuple[Tree, dict]:
    """(tree, meta) of the checkpoint of ``step``; as ``load_version``."""
    return _read(_target(Path(folder), step), like)


# One folder, written


def _write(target: Path, tree: Tree, lineage: dict, *, replace: bool = False) -> int:
    number = int(target.name)
    if number < 0:
        raise ValueError(f"number must be >= 0, got {number}")
    leaves, columns = pack(tree)
    structure = str(jax.tree.structure(tree))
    record = {"number": number, "lineage": plain(lineage), "structure": structure, "leaves": leaves}
    partial = target.parent / f".{number}{PARTIAL}{os.getpid()}"
    replaced = target.parent / f".{number}{PARTIAL}replaced"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        partial.mkdir()
        if columns:
            _orbax_save(partial / ARRAYS, columns)
        size = seal(partial, record)
        if replace and target.exists():
            os.rename(target, replaced)
        os.rename(partial, target)
        sync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except Exception as error:  # tensorstore raises ValueError for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(_errno(error), f"could not write: {error}", str(target)) from error
    return size


def _sweep(folder: Path) -> None:
    for path in folder.glob(f".*{PARTIAL}*"):
        log.warning("removed half-written %s", path)
        shutil.rmtree(path)


def _errno(error: Exception) -> int:
    told = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore's way
    return int(told[1]) if told else getattr(error, "errno", None) or errno.EIO


# One folder, read


def _target(folder: Path, number: int) -> Path:
    found = versions(folder)
    chosen = found[-1] if number == -1 and found else number
    if chosen not in found:
        raise FileNotFoundError(errno.ENOENT, f"number {number} is not among {found}", str(folder))
    return folder / str(chosen)


def _read(target: Path, like: Tree | None) -> tuple[Tree, dict]:
    record = open_record(target, int(target.name))
    verify_files(target, record)
    columns: dict[str, np.ndarray] = {}
    if any(row["size"] for row in record["leaves"]):
        try:
            columns = _orbax_load(target / ARRAYS)
        except Exception as error:
            raise CorruptVersion(f"{target / ARRAYS} cannot be read: {error}") from error
    return unpack(record["leaves"], columns, like, str(target)), record["lineage"]


# Orbax


@cache
def _orbax() -> Any:
    import orbax.checkpoint  # half a second that a program which saves nothing need not wait

    logging.getLogger("absl").addFilter(_not_orbax_chatter)
    return orbax.checkpoint


def _not_orbax_chatter(record: logging.LogRecord) -> bool:
    if f"{os.sep}orbax{os.sep}" not in record.pathname:
        return True
    # what fails in one of its threads is raised where it is waited for, and told from there
    return record.levelno >= logging.WARNING and "_SignalingThread" not in record.getMessage()


def _orbax_save(path: Path, columns: dict[str, np.ndarray]) -> None:
    ocp = _orbax()
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.StandardSave(columns))


def _orbax_load(path: Path) -> dict[str, np.ndarray]:
    ocp = _orbax()
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path.absolute(), args=ocp.args.StandardRestore())
