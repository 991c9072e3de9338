"""Prequential evaluation of one user: each example is predicted before it is observed."""

import jax
import jax.numpy as jnp

from metapers import keys, trees
from metapers.base import Array, Example, Key, Params, Tree, UserModel, hide


def prequential(user_model: UserModel, params: Params, examples: Example, mask: Array, key: Key | None) -> Tree:
    """Predicts, records and observes the examples of one user, one after the other, in one compiled scan.

    The call for an example is made at its own ``time``. So a target counts for the predictions of later rows whose
    ``time`` is at or after its ``available``. A masked row changes nothing: neither the state nor the draws of others.

    Args:
      user_model: what predicts and observes.
      params: of all users.
      examples: leaves [n, ...], rows in the order in which they are observed; times in days.
      mask: bool [n], False where a row is padding.
      key: the user's; the i-th example that is there draws from ``named(key, "query", i)`` when it is predicted and
        from ``named(key, "update", i)`` when it is observed. None: nothing is drawn.

    Returns:
      Outputs [n, ...], zeros where a row is masked.

    Source: Dawid 1984, Statistical theory: the prequential approach, JRSS A 147(2); Gama, Sebastião, Rodrigues 2013, On
    evaluating stream learning algorithms, Machine Learning 90(3).

    >>> count = UserModel(
    ...     start=lambda params: jnp.zeros(()),
    ...     predict=lambda params, state, inputs, time, key: state,
    ...     observe=lambda params, state, example, time, key: state + 1,
    ... )
    >>> examples, mask = Example({}, jnp.zeros(4), jnp.arange(4.0), jnp.arange(4.0)), jnp.array([1, 0, 1, 1], bool)
    >>> prequential(count, Params({}, {}, {}), examples, mask, None).tolist()
    [0.0, 0.0, 1.0, 2.0]
    """
    there = mask.astype(jnp.int32)
    examples, number = hide(examples, mask), jnp.cumsum(there) - there

    def step(state: Tree, row: tuple[Example, Array, Array]) -> tuple[Tree, Tree]:
        example, real, i = row
        predict_key = None if key is None else keys.named(key, "query", i)
        observe_key = None if key is None else keys.named(key, "update", i)
        outputs = user_model.predict(params, state, example.inputs, example.time, predict_key)
        observed = user_model.observe(params, state, example, example.time, observe_key)
        return trees.select(real, observed, state), outputs

    begun = trees.varying_like(user_model.start(params), (params, examples, mask, key))
    _, outputs = jax.lax.scan(step, begun, (examples, mask, number))
    return hide(outputs, mask)
