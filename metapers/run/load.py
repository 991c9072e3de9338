"""What a run left in its folder: its config and its versions."""

from collections.abc import Sequence
from pathlib import Path

from metapers import store
from metapers.base import Params, Tree
from metapers.members import load_plugins
from metapers.options import ConfigError
from metapers.spec import Config, from_plain
from metapers.workdir import SWEEP, TUNED, read_json, versions_of

OLD_REVISION = "835c679"
"""The last revision that can finish a run of metapers 0.1."""


def saved_config(folder: str | Path, plugins: Sequence[str] = ()) -> Config:
    """The config of a run.

    Args:
      folder: the run's workdir.
      plugins: modules that the caller allows beside installed entry points.

    Raises:
      ConfigError: for a plug-in that is not allowed, and a key that this version does not know.
      ValueError: for a run of metapers 0.1.
    """
    saved = read_json(Path(folder) / "config.json")
    if "outer_steps" not in saved:
        raise ValueError(
            f"the run in {folder} was written by metapers 0.1, which revision {OLD_REVISION} can finish and evaluate; "
            "metapers migrate-config translates its config file for a new run"
        )
    load_plugins(saved.get("plugins", ()), plugins)
    try:
        return from_plain(saved)
    except ConfigError as error:
        raise ConfigError(error.key, error.value, error.bound, f"in {Path(folder) / 'config.json'}") from error


def opened(folder: str | Path, plugins: Sequence[str] = ()) -> Config:
    """``saved_config`` of a folder that holds a run.

    Raises:
      FileNotFoundError: if it holds none.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return saved_config(folder, plugins)
    if (folder / SWEEP).is_file():
        raise FileNotFoundError(
            f"no run in {folder}: it holds a search ({SWEEP}), whose combinations were evaluated on validation users "
            "and not kept; train the best one into a workdir of its own"
        )
    raise FileNotFoundError(f"no run in {folder}: config.json is missing; train.py --workdir={folder} makes one")


def tuned(folder: str | Path) -> dict[str, float]:
    """The rates of fine-tuning that a run's evaluations have chosen on validation users, by arm."""
    path = Path(folder) / TUNED
    return read_json(path) if path.is_file() else {}


def load_params(folder: str | Path, arm: str, number: int) -> Params:
    """The parameters of a version, numpy with a leading seed axis; verified to the bit.

    Raises:
      FileNotFoundError: if there is no such version.
      CorruptVersion: if a file is not what was saved.
    """
    tree, _ = store.load_version(versions_of(folder, arm), number)
    return params_of(tree)


def params_of(tree: Tree) -> Params:
    """``Params`` from a version read without a template; an empty part left no leaf behind."""
    held = tree["params"]
    return Params(*(held.get(part, {}) for part in Params._fields))
