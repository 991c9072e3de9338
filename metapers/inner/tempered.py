"""How much a user's evidence counts: a loop's result, scaled from the start by one weight."""

import math

import jax.numpy as jnp

from metapers.base import Batch, InnerLoop, Key, Params, Tree
from metapers.inner.held_back import part_way
from metapers.inner.path import length


def tempered(inner_loop: InnerLoop, weight: float) -> InnerLoop:
    """personal <- start + weight (adapted - start), and so along the path; ``weight`` is read from the inner params.

    Where the personal parameters are sums over a user's examples (``models.bayes_head``) this is the posterior with
    the likelihood to the power of ``weight``: below 1 the prior counts for more, above 1 for less (a tempered or
    fractional posterior: Grünwald, van Ommen 2017, Bayesian Analysis 12(4)). For parameters that are descended it
    shrinks towards the start.

    ``inner = {"inner": the wrapped loop's, "weight": scalar}``.

    >>> written = InnerLoop(lambda p: {}, lambda p, s, key: (p._replace(personal=s), jnp.stack([p.personal, s])))
    >>> loop = tempered(written, 0.5)
    >>> start = Params({}, jnp.zeros(()), loop.init(Params({}, jnp.zeros(()), {})))
    >>> loop.adapt(start, jnp.array(4.0), None)[1].tolist()
    [0.0, 2.0]

    Raises:
      ValueError: weight not finite or <= 0.
    """
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"weight must be finite and > 0, got {weight}")

    def init(params: Params) -> Tree:
        return {"inner": inner_loop.init(params), "weight": jnp.asarray(weight, float)}

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        within = params._replace(inner=params.inner["inner"])
        adapted, path = inner_loop.adapt(within, support, key)
        own = params.inner["weight"]
        adapted, path = part_way(adapted, path, own, jnp.broadcast_to(own, (length(path),)))
        return adapted._replace(inner=params.inner), path

    return InnerLoop(init, adapt)
