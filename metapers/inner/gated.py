"""How far to adapt, learned: a gate that opens with the evidence that adaptation helps this user."""

import math

import jax
import jax.numpy as jnp

from metapers.base import Array, Batch, InnerLoop, Key, LossFn, Params, Tree
from metapers.inner.held_back import held_back, hidden, part_way
from metapers.inner.keep_if_it_helps import FOLDS
from metapers.members import Member


def gated(
    inner_loop: InnerLoop, loss_fn: LossFn, *, folds: int = 4, offset: float = 3.0, slope: float = 1.0
) -> InnerLoop:
    """personal <- start + s (adapted - start), s = sigmoid(offset + slope t), both learned by the outer loop.

    t = Σ gain_i / √(Σ gain_i²) over the support's n examples, gain_i the loss of example i at the start less its loss
    after adapting to the other folds: within ±√n, and growing with Student's paired t as t = √n T / √(n - 1 + T²), but
    finite where all gains are alike. It is 0 where fewer than two examples, or no gain at all, say nothing.

    ``inner = {"inner": the wrapped loop's, "gate": {"offset": scalar, "slope": scalar}}``; at first s(t = 0) =
    sigmoid(3) = 0.95: nearly the wrapped loop. t itself is a constant in the derivative, as the folds would be
    differentiated otherwise; the wrapped loop keeps its own. Every entry of the path has a t and an s of its own, those
    of that many steps. Costs ``folds`` more adaptations, forwards only.

    Raises:
      ValueError: folds < 2, offset or slope not finite.
    """
    if folds < 2:
        raise ValueError(f"folds must be >= 2, got {folds}")
    for name, value in (("offset", offset), ("slope", slope)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")

    def init(params: Params) -> Tree:
        dtype = jnp.result_type(*jax.tree.leaves(params.personal))
        gate = {"offset": jnp.full((), offset, dtype), "slope": jnp.full((), slope, dtype)}
        return {"inner": inner_loop.init(params), "gate": gate}

    def evidence(losses: Array, mask: Array) -> Array:
        gains = jnp.where(mask, losses[0] - losses[1], 0)
        # An adaptation that ran away loses as much as can be lost, and is not a NaN.
        most = jnp.finfo(gains.dtype).max ** 0.75  # whose inverse is a number too
        gains = jnp.where(jnp.isfinite(gains), jnp.clip(gains, -most, most), -most)
        largest = jnp.max(jnp.abs(gains))
        gains = gains / jnp.where(largest > 0, largest, 1)  # t has no scale, and a large square has no room
        size = jnp.sqrt(jnp.sum(jnp.square(gains)))
        told = (size > 0) & (jnp.sum(mask) >= 2)
        return jnp.where(told, jnp.sum(gains) / jnp.where(told, size, 1), 0)

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        support, gate = hidden(support), params.inner["gate"]
        within = params._replace(inner=params.inner["inner"])
        last, each = held_back(inner_loop, loss_fn, within, support, key, folds=folds, scales=jnp.asarray([0.0, 1.0]))

        def share(losses: Array) -> Array:
            return jax.nn.sigmoid(gate["offset"] + gate["slope"] * evidence(losses, support.mask))

        adapted, path = part_way(*inner_loop.adapt(within, support, key), share(last), jax.vmap(share)(each))
        return adapted._replace(inner=params.inner), path

    return InnerLoop(init, adapt)


LEARNED = Member(
    gated,
    options={"folds": FOLDS},
    needs=("inner_loop", "loss_fn"),
    example={"folds": 3},
    traits=("holds_back", "trained"),
    conflicts={
        "undifferentiated": "no derivative reaches it there, so nothing would train it",
        "stores_examples": "what it stores has no meaning part of the way",
    },
    doc="a learned gate on the evidence that adaptation helps",
)
