"""When not to adapt: a user moves only as far from the start as helps on the support that was held back."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metapers.base import Array, Batch, InnerLoop, Key, LossFn, Params, Tree
from metapers.inner.held_back import held_back, hidden, part_way
from metapers.members import Member
from metapers.options import Option


def keep_if_it_helps(
    inner_loop: InnerLoop,
    loss_fn: LossFn,
    *,
    folds: int = 4,
    scales: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    margin: float = 0.0,
    default_scale: float = 1.0,
) -> InnerLoop:
    """personal <- start + s (adapted - start), with s the one of ``scales`` of least held-back loss, or 0.

    For each user, ``folds``-fold cross-validation within the support gives every example's loss after adapting to
    the others, for each s. The best s stands if its mean gain per example over the start exceeds ``margin`` standard
    errors of that gain, √(Σ (gain_i - mean)² / (n (n - 1))); else s = 0 and the user keeps the start exactly. Where
    two are equally good, the one named first. margin = 1 is the rule of one standard error of Breiman, Friedman,
    Olshen and Stone 1984 (Classification and Regression Trees, section 3.4.3), with the start as the simplest model.

    A share between 0 and 1 asks for personal parameters that mean something between the start and the adapted ones, as
    weights and sums over examples do. Stored examples and class means do not (half the way from an empty row to an
    example is no example): there ``scales`` = (0.0, 1.0), all or nothing.

    Held back, an example of a class tells nothing where no other is left of it: with one example of each class nobody
    would adapt. A user with fewer than two examples has nothing to hold back: there s = ``default_scale``, 1 because
    what one example is worth was judged by the outer loop over all users. Every entry of the path has an s of its own,
    by what that many steps gain, so it is what a path that ends there would end with; the first stays the start. s is a
    constant in the derivative; the wrapped loop keeps its own, and its inner parameters. At s = 1 the result is the
    wrapped loop's to the last bit. Costs ``folds`` more adaptations, forwards only.

    Raises:
      ValueError: folds < 2, a scale, margin or default_scale not finite or < 0, no 0 among ``scales``.
    """
    if folds < 2:
        raise ValueError(f"folds must be >= 2, got {folds}")
    for name, value in (("margin", margin), ("default_scale", default_scale), *(("scales", s) for s in scales)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and >= 0, got {value}")
    if 0 not in scales:
        raise ValueError(f"scales must hold 0, the start, got {tuple(scales)}")
    nothing, shares = list(scales).index(0), [float(s) for s in scales]

    def chosen(losses: Array, mask: Array) -> Array:
        n = jnp.sum(mask, dtype=losses.dtype)
        totals = jnp.sum(losses, axis=1)
        best = jnp.argmin(jnp.where(jnp.isfinite(totals), totals, jnp.inf))
        gains = jnp.where(mask, losses[nothing] - losses[best], 0)
        mean = jnp.sum(gains) / jnp.maximum(n, 1)
        spread = jnp.sum(jnp.where(mask, jnp.square(gains - mean), 0))
        error = jnp.sqrt(spread / jnp.maximum(n * (n - 1), 1))
        scale = jnp.where(mean > margin * error, jnp.asarray(shares, losses.dtype)[best], 0)
        return jnp.where(n >= 2, scale, default_scale)

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        support = hidden(support)
        last, each = held_back(inner_loop, loss_fn, params, support, key, folds=folds, scales=jnp.asarray(shares))
        scales = jax.vmap(chosen, (0, None))(each, support.mask)
        return part_way(*inner_loop.adapt(params, support, key), chosen(last, support.mask), scales)

    return InnerLoop(inner_loop.init, adapt)


FOLDS = Option(4, least=2, doc="parts of the support that are held back in turn")


def _member(inner_loop: InnerLoop, loss_fn: LossFn, stores_examples: bool, folds: int, margin: float) -> InnerLoop:
    # stored examples have no meaning part of the way: all of them, or the start
    more: dict[str, Any] = {"scales": (0.0, 1.0)} if stores_examples else {}
    return keep_if_it_helps(inner_loop, loss_fn, folds=folds, margin=margin, **more)


CROSS_VALIDATED = Member(
    _member,
    options={
        "folds": FOLDS,
        "margin": Option(0.0, least=0.0, doc="standard errors by which adapting must gain"),
    },
    needs=("inner_loop", "loss_fn", "stores_examples"),
    paper="Breiman, Friedman, Olshen, Stone 1984, section 3.4.3 (the rule of one standard error)",
    example={"folds": 2},
    traits=("holds_back",),
    doc="adapt as far as helps on parts of the support that are held back",
)
