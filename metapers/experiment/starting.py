"""Where a run's parameters begin: drawn from its seeds, or where a version of another run ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from metapers import store, trees
from metapers.base import Params, Tree

SPLITS = ("fold", "split_seed", "classes")
"""Keys of ``config.data`` that decide who, or which characters, are held out."""


class Donor(NamedTuple):
    """What another run left; ``leaves``: [seeds, ...] by name, see ``named``."""

    leaves: dict[str, np.ndarray]
    digest: str  # of the version's record, which the lineage keeps


def donor(folder: str, data: Mapping[str, Any]) -> Donor:
    """The parameters of the version in ``folder``, a path that ends in versions/<n>, every bit as it was saved.

    ``data``: ``config.data`` of the run that begins, as ``config.plain`` has it. A version of the same source must have
    held out the same users: else this run would be judged on some of whom its parameters have learned already.

    Raises:
      ValueError: for a version of the same source with another value of one of SPLITS.
      FileNotFoundError: if no version is there.
      CorruptVersion: if a file is not what was saved.
    """
    path = Path(folder)
    if not (path.name.isdecimal() and path.is_dir()):
        raise FileNotFoundError(f"start_from must name a version, .../strategies/<name>/versions/<n>, got {folder!r}")
    tree, lineage = store.load_version(path.parent, int(path.name))
    theirs = lineage["config"]["data"]
    for key in SPLITS if theirs["source"] == data["source"] else ():
        if theirs.get(key) != data.get(key):
            raise ValueError(
                f"start_from must name a version that held out the same users, data.{key} = {data.get(key)}, "
                f"got {theirs.get(key)}"
            )
    held = tree["params"]
    leaves = {name: leaf for part in ("shared", "personal") for name, leaf in named(held.get(part, {})).items()}
    return Donor(leaves, store.read_record(path.parent, int(path.name))["digest"])


def named(tree: Tree) -> dict[str, Any]:
    """Leaves by name, "conv_0/kernel". The body of a model whose head is solved is called as that of the whole one.

    >>> named({"body": {"conv_0": {"bias": 1.0}}, "head": {"bias": 2.0}})
    {'conv_0/bias': 1.0, 'head/bias': 2.0}
    """
    names = [name.removeprefix("body/") for name in trees.names(tree)]
    return dict(zip(names, jax.tree.leaves(tree), strict=True))


def begun(params: Params, given: Donor) -> tuple[Params, list[str]]:
    """(params, drawn): ``params`` [seeds, ...] with each leaf that the donor has by name and shape taken there, and
    the names of those that are left as they were drawn.

    Whether a leaf is shared or personal may differ between the two. Seed i takes the donor's seed i modulo its seeds.

    Raises:
      ValueError: if the donor has nothing of these parameters.
    """
    drawn: list[str] = []

    def part(tree: Tree) -> Tree:
        leaves, structure = jax.tree.flatten(tree)
        return jax.tree.unflatten(structure, [one(*pair) for pair in zip(named(tree), leaves, strict=True)])

    def one(name: str, leaf: Any) -> Any:
        there = given.leaves.get(name)
        if there is None or there.shape[1:] != leaf.shape[1:]:
            drawn.append(name)
            return leaf
        return there[np.arange(len(leaf)) % len(there)].astype(leaf.dtype)

    begun = params._replace(shared=part(params.shared), personal=part(params.personal))
    if len(drawn) == len(jax.tree.leaves((params.shared, params.personal))):
        raise ValueError(f"start_from must name a version with some of this model's parameters, {drawn}: it has none")
    return begun, drawn
