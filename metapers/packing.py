"""A tree of arrays as a few flat columns, one per dtype, and a table of its leaves; and back, each leaf verified."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metapers.base import Tree
from metapers.manifest import CorruptVersion

Path = tuple[str, ...]

STORED = {"bool", "bfloat16", "float16", "float32", "float64", "complex64", "complex128"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}  # the dtypes of columns; a leaf of any other travels as its bytes


def pack(tree: Tree) -> tuple[list[dict], dict[str, np.ndarray]]:
    """(table of leaves, columns): numpy copies on the host; columns of no elements are left out.

    A row of the table: path, shape, dtype; key (the generator of typed keys, else None) and stored (the shape of the
    numbers, which have one axis more for keys); the column, offset and size where they lie, with their SHA-256.
    Raises TypeError naming a leaf that is no array of numbers, ValueError if two leaves have one path.
    """
    named = by_path(tree)
    generators = {path: _generator(path, leaf) for path, leaf in named.items()}
    bare = {path: jax.random.key_data(leaf) if generators[path] else leaf for path, leaf in named.items()}
    table, parts, ends = [], {}, {}
    for path, leaf in jax.device_get(bare).items():  # one explicit transfer
        array = np.asarray(leaf)
        flat = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(-1)
        flat = flat if flat.dtype.name in STORED else flat.view(np.uint8)
        column, own = flat.dtype.name, named[path]
        row = {"path": list(path), "shape": list(own.shape), "dtype": own.dtype.name, "key": generators[path]}
        place = {"column": column, "offset": ends.get(column, 0), "size": flat.size, "stored": list(array.shape)}
        table.append({**row, **place, "sha256": _sum(flat)})
        parts.setdefault(column, []).append(flat)
        ends[column] = place["offset"] + flat.size
    return table, {column: np.concatenate(pieces) for column, pieces in parts.items() if ends[column]}


def unpack(table: list[dict], columns: Mapping[str, np.ndarray], like: Tree | None, where: str) -> Tree:
    """The tree of ``pack``, every leaf checked against its SHA-256; ``where`` names the source in errors.

    ``like`` (arrays or ShapeDtypeStructs) gives structure, kinds of array and shardings; None: nested dicts of numpy
    arrays. Raises CorruptVersion naming the leaf, ValueError naming what differs from ``like``.
    """
    rows = {tuple(row["path"]): row for row in table}
    if like is None:
        return _nest({path: _leaf(row, columns, where) for path, row in rows.items()})
    wanted = by_path(like)
    _same_structure(rows, wanted, where)
    leaves = [_place(_leaf(rows[path], columns, where), leaf) for path, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def by_path(tree: Tree) -> dict[Path, Any]:
    """The leaves by path, in the order of ``jax.tree.leaves``; ValueError if two have one path."""
    named = {}
    for entries, leaf in jax.tree.leaves_with_path(tree):
        path = tuple(jax.tree_util.keystr((entry,), simple=True) for entry in entries)
        if path in named:
            raise ValueError(f"two leaves have the path {'/'.join(path)}")
        named[path] = leaf
    return named


def _generator(path: Path, leaf: Any) -> str | None:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(leaf))
    numbers = isinstance(leaf, (jax.Array, np.ndarray, np.generic)) and leaf.dtype.kind not in "OSUMmT"
    if not numbers or leaf.dtype.fields:
        raise TypeError(f"leaf {'/'.join(path)} must be an array of numbers, got {leaf!r}")
    return None


def _sum(flat: np.ndarray) -> str:
    return hashlib.sha256(flat.view(np.uint8).data).hexdigest()


def _leaf(row: dict, columns: Mapping[str, np.ndarray], where: str) -> Any:
    name = "/".join(row["path"])
    column = columns.get(row["column"], np.zeros(0, jnp.dtype(row["column"])))
    flat = np.ascontiguousarray(column[row["offset"] : row["offset"] + row["size"]])
    if flat.dtype.name != row["column"] or flat.size != row["size"] or _sum(flat) != row["sha256"]:
        raise CorruptVersion(f"leaf {name} of {where} is not what was written: its SHA-256 does not fit")
    array = flat.view(jnp.dtype(row["column"] if row["key"] else row["dtype"])).reshape(row["stored"]).copy()
    return jax.random.wrap_key_data(jax.device_put(array), impl=row["key"]) if row["key"] else array


def _same_structure(rows: dict[Path, dict], wanted: dict[Path, Any], where: str) -> None:
    faults = [f"missing {'/'.join(path)} ({_describe(leaf)})" for path, leaf in wanted.items() if path not in rows]
    faults += [f"extra {'/'.join(path)} ({_found(row)})" for path, row in rows.items() if path not in wanted]
    for path in wanted.keys() & rows.keys():
        if _found(rows[path]) != _describe(wanted[path]):
            faults.append(f"{'/'.join(path)} is {_found(rows[path])}, expected {_describe(wanted[path])}")
    if faults:
        raise ValueError(f"{where} has another structure than asked for: {'; '.join(sorted(faults))}")


def _found(row: dict) -> str:
    return f"{row['dtype']}{row['shape']}"


def _describe(leaf: Any) -> str:
    dtype = getattr(leaf, "dtype", type(leaf).__name__)
    return f"{getattr(dtype, 'name', dtype)}{list(getattr(leaf, 'shape', ()))}"


def _place(value: Any, like: Any) -> Any:
    if isinstance(like, (np.ndarray, np.generic)):
        return value
    sharding = getattr(like, "sharding", None)
    spread = sharding if isinstance(sharding, jax.sharding.NamedSharding) else None
    placed = jax.device_put(value, spread)
    if placed.dtype.name != like.dtype.name:
        raise ValueError(f"cannot hold {like.dtype}: jax_enable_x64 is off")
    return placed


def _nest(leaves: dict[Path, Any]) -> Tree:
    root: dict[str, Any] = {}
    for path, leaf in leaves.items():
        if not path:
            return leaf  # the tree was one array
        inner = root
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = leaf
    return root
