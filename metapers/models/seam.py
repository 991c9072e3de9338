"""The only door to Flax NNX: a module in, plain dicts and pure functions out.

Outside this wing there are no modules and no Variables: parameters are nested dicts of arrays with string keys,
and ``jax.jit``, ``jax.grad``, ``jax.vmap`` and ``jax.lax.scan`` work on them directly. The module is put together
again once per trace, so it costs nothing when the compiled program runs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Batch, Key, Model, Params, Tree


class Personal(nnx.Param):
    """A parameter that each user has for himself; a subclass is a group of its own (its lower-case name, or what it
    sets as ``group``)."""


EVERYTHING = (nnx.Param,)  # for ``adapts``: every parameter is personal, nothing is shared


def model(build: Callable[[nnx.Rngs], nnx.Module], adapts: tuple[type[nnx.Variable], ...] = (Personal,)) -> Model:
    """A Flax NNX module as a ``base.Model``: Variables of the types in ``adapts`` are personal, other Params shared.

    ``build(rngs)`` makes the module, which is called as ``module(inputs, mask=mask, key=key)`` and returns outputs
    with leading axis n. Its structure is read once, here; only arrays differ afterwards. Dropout takes ``key`` at
    the call; running statistics and random state kept inside a module have no place in the parameters.

    A module with a method ``write(support, key=key)`` sets its personal Variables from a user's support set (a head
    solved in closed form, prototypes); that is the model's ``write``. One without leaves them as they are. A method
    ``tapped(inputs, offsets, mask=mask, key=key)`` gives the model's ``taps``.

    Raises:
      ValueError: no parameter is personal, or some leaf is neither personal nor ``nnx.Param``, or is not floating.
    """
    shapes = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graph, personal, shared, rest = nnx.split(shapes, *_filters(adapts))
    tapped = hasattr(shapes, "tapped")
    _check(personal, shared, rest, adapts)
    personal, shared = _plain(personal), _plain(shared)  # dicts of abstract Variables, as the module names them

    def init(key: Key) -> Params:
        _, mine, ours, _ = nnx.split(build(nnx.Rngs(key)), *_filters(adapts))
        return Params(_worded(nnx.to_pure_dict(ours)), _worded(nnx.to_pure_dict(mine)), {})

    def module(params: Params) -> Any:
        mine = _as_built(params.personal, personal, "personal")
        return nnx.merge(graph, mine, _as_built(params.shared, shared, "shared"), copy=True)

    def apply(params: Params, inputs: Tree, mask: Array, key: Key | None = None) -> Tree:
        return module(params)(inputs, mask=mask, key=key)

    def write(params: Params, support: Batch, key: Key | None = None) -> Tree:
        built = module(params)
        if not hasattr(built, "write"):
            return params.personal
        built.write(support, key=key)
        _, mine, _, _ = nnx.split(built, *_filters(adapts))
        return _worded(nnx.to_pure_dict(mine))

    def taps(
        params: Params, inputs: Tree, offsets: Tree, mask: Array, key: Key | None = None
    ) -> tuple[Tree, dict[str, Array]]:
        return module(params).tapped(inputs, offsets, mask=mask, key=key)

    def groups(params: Params) -> Tree:
        return Params(_kinds(shared), _kinds(personal), jax.tree.map(lambda _: "inner", params.inner))

    return Model(init, apply, write, groups, taps if tapped else None)


def _filters(adapts: tuple[type[nnx.Variable], ...]) -> tuple:
    # The narrower first: Personal is a Param, and the first filter that fits takes the leaf.
    return nnx.Any(*adapts), nnx.Param, ...


def _check(personal: nnx.State, shared: nnx.State, rest: nnx.State, adapts: tuple[type, ...]) -> None:
    for path, leaf in nnx.to_flat_state(rest):
        kind = type(leaf).__name__
        raise ValueError(
            f"every array of a module must be an nnx.Param, got {kind} at {_name(path)}: running statistics and "
            "random state cannot be learned; compute them at the call, from inputs and key"
        )
    for state in (personal, shared):
        for path, leaf in nnx.to_flat_state(state):
            dtype = leaf.get_value().dtype
            if not jnp.issubdtype(dtype, jnp.floating):
                raise ValueError(f"parameters must be floating, got {dtype} {type(leaf).__name__} at {_name(path)}")
    if not nnx.to_flat_state(personal):
        kinds = ", ".join(kind.__name__ for kind in adapts)
        raise ValueError(f"adapts must name the type of some parameter of the module, got ({kinds}) and none has it")


def _name(path: tuple) -> str:
    return "/".join(str(part) for part in path)


def _plain(state: nnx.State) -> dict:
    # nnx.to_pure_dict unwraps Variables; here they are kept, for their types.
    tree: dict = {}
    for path, leaf in nnx.to_flat_state(state):
        inside = tree
        for part in path[:-1]:
            inside = inside.setdefault(part, {})
        inside[path[-1]] = leaf
    return tree


def _worded(tree: Tree) -> Tree:
    # Lists in a module give integer keys, which no file format keeps.
    return {str(part): _worded(sub) for part, sub in tree.items()} if isinstance(tree, dict) else tree


def _as_built(tree: Tree, like: Tree, name: str) -> Tree:
    if not isinstance(like, dict):
        return tree
    if not isinstance(tree, dict) or set(tree) != {str(part) for part in like}:
        found = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
        raise ValueError(f"params.{name} must have the keys {sorted(map(str, like))}, got {found}")
    return {part: _as_built(tree[str(part)], sub, f"{name}/{part}") for part, sub in like.items()}


def _kinds(like: Tree) -> Tree:
    if isinstance(like, dict):
        return {str(part): _kinds(sub) for part, sub in like.items()}
    return getattr(type(like), "group", type(like).__name__.lower())
