"""The folder of a run: made or refused with a reason, held by one process at a time, its small files written whole.

config.json  summary.json  report.html  records/*.parquet  arms/<name>/{versions,checkpoints}/
"""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metapers.manifest import plain, sync

LOCK = ".lock"
SWEEP = "sweep.json"  # what a search writes into its folder
TUNED = "tuned.json"  # the rates of fine-tuning that evaluations of a run have chosen


class WorkdirInUse(BlockingIOError):
    """Another process, or another holder in this one, works in the folder."""


def open_workdir(path: str | os.PathLike) -> Path:
    """The absolute path of a writable folder, made with its parents if it was not there.

    Raises NotADirectoryError if it, or what it should lie in, is a file; PermissionError if it cannot be written;
    other OSErrors (a full or read-only disk) as they come. Each names the path.
    """
    workdir = Path(path).expanduser().absolute()
    places = (workdir, *workdir.parents)
    blocking = next((place for place in places if os.path.exists(place) and not os.path.isdir(place)), None)
    if blocking is not None:
        raise NotADirectoryError(errno.ENOTDIR, f"cannot make the workdir {workdir}: this is a file", str(blocking))
    try:
        for name in ("records", "arms"):
            (workdir / name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except PermissionError as error:
        raise PermissionError(errno.EACCES, "cannot write in the workdir", str(workdir)) from error
    return workdir


@contextmanager
def lock(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds ``workdir`` for this process; the kernel lets go when the process ends, however it ends.

    Raises WorkdirInUse (a BlockingIOError) naming the folder and the holder's process id. The file .lock stays and
    blocks nobody: what counts is the kernel's lock on it.
    """
    path = Path(workdir) / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            message = f"the workdir is in use by process {holder}"
            raise WorkdirInUse(errno.EWOULDBLOCK, message, str(workdir)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # and with it the lock


def versions_of(folder: str | os.PathLike, arm: str) -> Path:
    """Where the versions of an arm lie in a run's folder."""
    return Path(folder) / "arms" / arm / "versions"


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Writes ``obj`` as indented JSON in the order given; readers see the old file or the new one, never a part.

    NaN and infinities become null, numpy and jax scalars numbers. Raises TypeError for what JSON cannot hold, and
    OSError naming the path if the disk refuses; the old file then stays.
    """
    path = Path(path)
    text = json.dumps(plain(obj), indent=2, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with open(partial, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, f"could not write ({error.strerror})", str(path)) from error


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a file that ``write_json`` wrote; FileNotFoundError, or ValueError naming one that holds none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it must hold an object, got {type(found).__name__}")
    return found


def append_line(path: str | os.PathLike, line: str) -> None:
    """Appends one line in one write; a line that a killed process left unfinished is ended first.

    Raises ValueError if ``line`` holds a line break.
    """
    if "\n" in line:
        raise ValueError(f"line must hold no line break, got {line!r}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + f"{line}\n".encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, "could not write the whole line", str(path))
    finally:
        os.close(descriptor)
