"""The objective of sequences: the next token at every place, padding left out."""

import jax
import jax.numpy as jnp

from metapers.base import Array, Key, Objective

PADDING = 0


def next_token() -> Objective:
    """Tokens: ``outputs`` are logits [n, length, C], ``targets`` integers [n, length], 0 where there is nothing.

    The likelihood is softmax over the classes 1..C-1, padding being no token: the logit of class 0 is never read and
    ``sample`` never draws it. ``loss`` [n] is the mean of -log softmax(outputs)[target] over an example's tokens (0
    without any): examples weigh alike, however many tokens they have. ``scores``: accuracy (of the largest logit)
    and nll in nats are means over all tokens of a user's examples, 0 without any. There are no ``labels``: exactness
    would take one for each place and class. Outputs and targets of other shapes and targets that are no integers
    raise ValueError. A token outside [0, C) has loss NaN, as in ``cross_entropy``.

    >>> round(float(next_token().loss(jnp.zeros((1, 3, 5)), jnp.array([[4, 1, 0]]))[0]), 6)  # log 4
    1.386294
    """

    def loss(outputs: Array, targets: Array) -> Array:
        _tokens(outputs, targets)
        there = targets != PADDING
        return jnp.sum(_surprise(outputs, targets), axis=1) / _count(there, outputs, 1)

    def sample(outputs: Array, key: Key) -> Array:
        return 1 + jax.random.categorical(key, outputs[..., 1:], axis=-1)

    def scores(outputs: Array, targets: Array, mask: Array) -> dict[str, Array]:
        _tokens(outputs, targets)
        there = mask[:, None] & (targets != PADDING)
        hit = 1 + jnp.argmax(outputs[..., 1:], axis=-1).astype(targets.dtype) == targets
        surprise = _surprise(outputs, jnp.where(there, targets, PADDING))
        count = _count(there, outputs, None)
        return {"accuracy": jnp.sum(hit & there, dtype=outputs.dtype) / count, "nll": jnp.sum(surprise) / count}

    return Objective(loss, sample, scores)


def _surprise(outputs: Array, targets: Array) -> Array:
    """-log p(target) at every place [n, length], 0 where the target is padding."""
    there = targets != PADDING
    # Behind padding stands class 1, whose finite loss is hidden; a negative index would count from the end.
    index = jnp.where(there, targets - 1, jnp.zeros_like(targets))
    index = jnp.where(index < 0, outputs.shape[-1], index)[..., None]
    logs = jax.nn.log_softmax(outputs[..., 1:], axis=-1)
    found = -jnp.take_along_axis(logs, index, axis=-1, mode="fill")[..., 0]
    return jnp.where(there, found, jnp.zeros_like(found))


def _count(there: Array, outputs: Array, axis: int | None) -> Array:
    return jnp.maximum(jnp.sum(there, axis=axis, dtype=outputs.dtype), 1)


def _tokens(outputs: Array, targets: Array) -> None:
    if jnp.ndim(outputs) != 3:
        raise ValueError(f"outputs must be logits [n, length, C], got shape {jnp.shape(outputs)}")
    if jnp.shape(targets) != jnp.shape(outputs)[:2]:
        raise ValueError(f"targets must have shape {jnp.shape(outputs)[:2]}, got {jnp.shape(targets)}")
    if not jnp.issubdtype(jnp.result_type(targets), jnp.integer):
        raise ValueError(f"targets must be integers in [0, {jnp.shape(outputs)[2]}), got {jnp.result_type(targets)}")
