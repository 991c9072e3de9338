"""What a resume is held against, and how a run is asked to stop: the config and the data it began with, signals."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from metapers import workdir
from metapers.run import lineage
from metapers.run.load import saved_config
from metapers.spec import Components, Config, plain
from metapers.spec.tree import differences


class Interrupted(Exception):
    """The run was asked to stop and has saved where it was."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal = signal_number


def check_compatible(config: Config, folder: Path) -> list[str]:
    """Holds a config against the run's in the folder, if there is one; returns operational differences.

    Raises:
      ValueError: if a key differs that can change a number, naming each.
    """
    path = folder / "config.json"
    operational: list[str] = []
    if path.exists():
        saved = saved_config(folder)
        binding, operational = differences(saved, config)
        if binding:
            first = sorted(binding, key=lambda text: not text.startswith(_CHOICES))
            more = f"; and {len(first) - _SHOWN} more" if len(first) > _SHOWN else ""
            raise ValueError(
                f"the run in {folder} was started with another config: {'; '.join(first[:_SHOWN])}{more}. "
                "Resume with the same one, or choose a new workdir"
            )
    return operational


_CHOICES = ("data.name:", "model.name:", "learner.name:", "inner.name:")  # another of these brings other keys along
_SHOWN = 8


def another_machine(components: Components, folder: Path) -> list[str]:
    """What differs from the machine that the run in the folder began on: then its end is not bit for bit the same."""
    path = folder / "machine.json"
    now = lineage.machine(components.devices) | {"jax": lineage.libraries()["jax"]}
    was = workdir.read_json(path) if path.exists() else now
    if not path.exists():
        workdir.write_json(path, now)
    return [f"{name} (not bit for bit): {was.get(name)} -> {now[name]}" for name in now if was.get(name) != now[name]]


def same_data(components: Components, folder: Path) -> None:
    """Refuses with a ValueError data, or a version to start from, other than those that the run in the folder has; and
    a run that has lost what would tell."""
    path, now = folder / "provenance.json", lineage.origin(components)
    if not path.exists() and (folder / "config.json").exists():
        raise ValueError(f"{path} is missing, which says on what data the run in {folder} was started")
    if path.exists():
        was = workdir.read_json(path)
        if was["sha256"] != now["sha256"]:
            raise ValueError(
                f"the run in {folder} was started on other data: SHA-256 {was['sha256'][:16]}… then, "
                f"{now['sha256'][:16]}… now"
            )
        if was.get("started_from") != now.get("started_from"):
            raise ValueError(f"the run in {folder} began with another version than start_from names now")


def save_config(components: Components, folder: Path) -> None:
    """Writes what a resume is held against, once all of it could be built: a refused config binds no workdir."""
    workdir.write_json(folder / "provenance.json", lineage.origin(components))
    workdir.write_json(folder / "config.json", plain(components.config))


@contextlib.contextmanager
def interruptions() -> Iterator[Callable[[], int]]:
    """While inside, SIGINT and SIGTERM only set a mark, which the yielded function reads; a second one is obeyed."""
    seen: list[int] = []
    before = {}

    def mark(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, mark)
    except ValueError:  # only the main thread may; elsewhere the caller's own handling stands
        before = {}
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
