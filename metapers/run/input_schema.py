"""What the examples of a run look like, and the check of other examples against it before a version predicts for them.

A JAX program clamps a row number that is out of range and carries a NaN on: the answer would be wrong and look right.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from metapers.base import Tree
from metapers.spec import Components
from metapers.spec.heads import source_facts

Spec = Mapping[str, Any]  # leaf ("" where there is one) -> {"shape": of one row, "dtype", and perhaps "below"}


def schemas(components: Components) -> dict[str, Spec]:
    """The spec of ``inputs`` and of ``targets``, by leaf, as a version's lineage keeps it."""
    cohort = components.stream.held_out("validation", None)
    below = source_facts(components.config.data).below(components.sizes)
    return {name: _spec(getattr(cohort, name), below[name]) for name in ("inputs", "targets")}


def _spec(tree: Tree, below: Mapping[str, int]) -> Spec:
    found = {}
    for leaf, array in _leaves(tree):
        bound = {"below": below[leaf]} if leaf in below else {}
        found[leaf] = {"shape": list(array.shape[1:]), "dtype": array.dtype.name} | bound
    return found


def _leaves(tree: Tree) -> list[tuple[str, np.ndarray]]:
    return [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree.leaves_with_path(tree)]


def read(name: str, tree: Tree, spec: Spec | None) -> tuple[Tree, int]:
    """(leaves on the host, how many rows they have); ``name``: what an error calls them.

    ``spec``: what they must look like, None for a version that does not say. Integers stand for floats.

    Raises:
      ValueError: for leaves of different lengths, a value that is NaN or infinite, and where there is a spec, for other
        leaves, rows of another shape, other kinds of numbers or an integer out of range.
    """
    found = _leaves(tree)
    if spec is not None and {leaf for leaf, _ in found} != set(spec):
        raise ValueError(f"{name} must hold the leaves {sorted(spec)}, got {sorted(leaf for leaf, _ in found)}")
    if not all(array.ndim for _, array in found):
        raise ValueError(f"{name} must hold a row for each example, got a single value")
    rows = {array.shape[0] for _, array in found}
    if len(rows) != 1:
        raise ValueError(f"{name} must hold the same number of rows in every leaf, got {sorted(rows)}")
    arrays = [array if spec is None else _conformed(name + leaf, array, spec[leaf]) for leaf, array in found]
    for (leaf, _), array in zip(found, arrays, strict=True):
        if array.dtype.kind == "f":
            _bounded(f"{name}{leaf} must be finite", array, np.isfinite(array))
    return jax.tree.unflatten(jax.tree.structure(tree), arrays), rows.pop()


def _conformed(where: str, array: np.ndarray, wanted: Mapping[str, Any]) -> np.ndarray:
    shape, kind, below = tuple(wanted["shape"]), np.dtype(wanted["dtype"]).kind, wanted.get("below")
    if array.shape[1:] != shape:
        raise ValueError(f"{where} must have rows of shape {shape}, got {array.shape[1:]}")
    if array.dtype.kind != kind and f"{array.dtype.kind}{kind}" not in ("if", "uf", "ui"):
        raise ValueError(f"{where} must be {wanted['dtype']}, got {array.dtype.name}")
    if below is not None:
        _bounded(f"{where} must be >= 0 and < {below}", array, (array >= 0) & (array < below))
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there, and refused as such
        return array.astype(wanted["dtype"], copy=False)


def _bounded(must: str, array: np.ndarray, good: np.ndarray) -> None:
    if not good.all():
        place = tuple(np.argwhere(~good)[0])
        raise ValueError(f"{must}, got {array[place]} in row {place[0]}")


def bucket(rows: int) -> int:
    """The rows that a program for ``rows`` examples has: a power of two, or one and a half of it.

    >>> [bucket(n) for n in (0, 1, 2, 3, 4, 5, 7, 13, 17, 48, 100)]
    [0, 1, 2, 3, 4, 6, 8, 16, 24, 48, 128]
    """
    whole = 1 << (rows - 1).bit_length() if rows else 0
    return whole * 3 // 4 if whole >= 4 and rows <= whole * 3 // 4 else whole


def padded(tree: Tree, rows: int) -> tuple[Tree, Any]:
    """(leaves of ``bucket(rows)`` rows, the first one repeated at the end, and the mask that hides it)."""
    more = bucket(rows) - rows
    mask = np.arange(rows + more) < rows
    if not more:
        return tree, mask
    return jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[:1], more, axis=0)]), tree), mask
