"""A run that begins with the parameters of a version of another run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from metapers import store, trees
from metapers.base import Params, Tree
from metapers.options import ConfigError
from metapers.spec import Config, plain

SPLITS = ("fold", "split_seed", "classes")
"""Keys of ``config.data`` that decide which users, or which characters, are held out."""


class WarmStart(NamedTuple):
    """The parameters that another run left."""

    leaves: dict[str, np.ndarray]  # [seeds, ...] by name, see ``named``
    digest: str  # of the version's record, which the lineage keeps

    def begin(self, params: Params) -> tuple[Params, list[str]]:
        """(params, new): ``params`` [seeds, ...] with each leaf taken from the version that has it by name and shape,
        and the names of the leaves that stay as they were initialised.

        Whether a leaf is shared or personal may differ between the two. Seed i takes the version's seed i modulo its
        seeds.

        Raises:
          ConfigError: if the version has none of these parameters.
        """
        new: list[str] = []

        def part(tree: Tree) -> Tree:
            leaves, structure = jax.tree.flatten(tree)
            return jax.tree.unflatten(structure, [one(*pair) for pair in zip(named(tree), leaves, strict=True)])

        def one(name: str, leaf: Any) -> Any:
            there = self.leaves.get(name)
            if there is None or there.shape[1:] != leaf.shape[1:]:
                new.append(name)
                return leaf
            return there[np.arange(len(leaf)) % len(there)].astype(leaf.dtype)

        begun = params._replace(shared=part(params.shared), personal=part(params.personal))
        if len(new) == len(jax.tree.leaves((params.shared, params.personal))):
            raise ConfigError("start_from", new, "a version with some of this model's parameters")
        return begun, new


def warm_start(config: Config) -> WarmStart | None:
    """The parameters of the version that ``config.start_from`` names, every bit as it was saved; None without one.

    ``start_from`` is a path that ends in versions/<n>. A version of the same source must have held out the same users:
    else this run would be evaluated on users of whom its parameters have learned already. It must not have seen a
    period after the first of this run: else the run would begin with knowledge of its future.

    Raises:
      ConfigError: for a version of the same source with another value of one of SPLITS, or from a later period.
      FileNotFoundError: if no version is there.
      CorruptVersion: if a file is not what was saved.
    """
    if config.start_from is None:
        return None
    path = Path(config.start_from)
    if not (path.name.isdecimal() and path.is_dir()):
        raise FileNotFoundError(
            f"start_from must name a version, .../arms/<name>/versions/<n>, got {config.start_from!r}"
        )
    tree, lineage = store.load_version(path.parent, int(path.name))
    theirs, own = lineage["config"]["data"], plain(config)["data"]
    source = theirs.get("name", theirs.get("source"))  # "source": in a version of metapers 0.1
    for key in SPLITS if source == own["name"] else ():
        if theirs.get(key) != own.get(key):
            raise ConfigError(
                "start_from", theirs.get(key), f"a version that held out the same users, data.{key} = {own.get(key)}"
            )
    if source == own["name"]:
        _not_later(lineage, own.get("periods", 1))
    held = tree["params"]
    leaves = {name: leaf for part in ("shared", "personal") for name, leaf in named(held.get(part, {})).items()}
    return WarmStart(leaves, store.read_record(path.parent, int(path.name))["digest"])


def _not_later(lineage: Mapping[str, Any], periods: int) -> None:
    # The version has seen (period + 1) / periods of its stream, the first period of this run is 1 / periods of it.
    old = {"seen_until": lineage.get("stage"), "periods": lineage.get("stages")}  # in a version of metapers 0.1
    period, count = (int({**old, **lineage}[key]) for key in ("seen_until", "periods"))
    if (period + 1) * periods > count:
        raise ConfigError(
            "start_from",
            f"a version of period {period + 1} of {count}",
            f"a version that has seen no more than the first of this run's {periods} periods",
            "parameters from later periods would make the scores of earlier ones look better than they are",
        )


def named(tree: Tree) -> dict[str, Any]:
    """Leaves by name, "conv_0/kernel". The body of a model with a computed head is called as that of the whole model.

    >>> named({"body": {"conv_0": {"bias": 1.0}}, "head": {"bias": 2.0}})
    {'conv_0/bias': 1.0, 'head/bias': 2.0}
    """
    names = [name.removeprefix("body/") for name in trees.names(tree)]
    return dict(zip(names, jax.tree.leaves(tree), strict=True))
