"""What makes a saved folder trustworthy: canonical JSON, SHA-256 of every file, one sealed record, syncing to disk."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

RECORD = "lineage.json"


class CorruptVersion(ValueError):
    """A saved version or checkpoint is not what was written; the message names the file or the leaf."""


def plain(obj: Any) -> Any:
    """``obj`` as JSON knows it: dicts with str keys, lists, str, int, float, bool, None.

    NaN and infinities become None; numpy and jax scalars become numbers, arrays become lists, paths become str.
    Raises TypeError for anything else.

    >>> plain({1: (float("nan"), 2.5)})
    {'1': [None, 2.5]}
    """
    if obj is None or isinstance(obj, (bool, str)):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if hasattr(obj, "tolist"):
        return plain(obj.tolist())
    if hasattr(obj, "items"):
        return {str(name): plain(value) for name, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [plain(value) for value in obj]
    raise TypeError(f"cannot write {obj!r} of type {type(obj).__name__} as JSON")


def canonical(obj: Any) -> str:
    """The one JSON text of ``obj``: sorted keys, no spaces, ASCII."""
    return json.dumps(plain(obj), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(obj: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``obj``; equal contents have equal digests.

    >>> digest({"a": 1, "b": (2,)}) == digest({"b": [2], "a": 1})
    True
    """
    return hashlib.sha256(canonical(obj).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Makes a file, or the entries of a folder, survive a power cut (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, text: str) -> None:
    """Writes a new file and syncs it."""
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def seal(folder: Path, record: dict) -> int:
    """Writes lineage.json over everything in ``folder``, syncs it all; returns the bytes of all files.

    The record gains ``files`` (SHA-256 by path) and ``digest`` (of the record without it).
    """
    found = sorted(folder.rglob("*"))
    files = [path for path in found if path.is_file()]
    sums = {path.relative_to(folder).as_posix(): hash_file(path) for path in files}
    body = plain({**record, "files": sums})
    write_file(folder / RECORD, canonical({**body, "digest": digest(body)}) + "\n")
    for path in [*found, folder]:
        sync(path)
    return sum(path.stat().st_size for path in [*files, folder / RECORD])


def open_record(folder: Path, number: int) -> dict:
    """The record of the folder, if it is the one that was sealed there; raises CorruptVersion naming lineage.json.

    The text itself is compared, not only what it means: a changed space is a changed file.
    """
    path = folder / RECORD
    try:
        text = path.read_bytes().decode("ascii")
        body = json.loads(text)
        sealed = body.pop("digest")
        intact = digest(body) == sealed and canonical({**body, "digest": sealed}) + "\n" == text
    except FileNotFoundError:
        raise CorruptVersion(f"{path} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
        body = {}
    if not intact:
        raise CorruptVersion(f"{path} was changed after it was written: its digest does not fit")
    if body["number"] != number:
        raise CorruptVersion(f"{path} belongs to number {body['number']}, but its folder is {number}")
    return {**body, "digest": sealed}


def verify_files(folder: Path, record: dict) -> None:
    """Raises CorruptVersion naming the first file that is missing or whose SHA-256 is not the record's."""
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise CorruptVersion(f"{path} is missing")
        if hash_file(path) != expected:
            raise CorruptVersion(f"{path} was changed after it was written: its SHA-256 does not fit")
