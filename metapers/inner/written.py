"""Adaptation in one go, without gradient steps: what a model's ``write`` computes from the support set."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metapers import keys
from metapers.base import Batch, InnerLoop, Key, Params, Tree
from metapers.members import Member
from metapers.options import Option


def written(write: Callable[[Params, Batch, Key | None], Tree], steps: int = 1) -> InnerLoop:
    """personal = write(params, support, key): a head solved in closed form, prototypes, stored neighbours.

    The path is the start, then the written parameters ``steps`` times over: nothing changes after the first step,
    but a curve over steps can be read at each of them. With ``steps`` 0 a user keeps the start.

    >>> support = Batch({}, jnp.array([1.0, 3.0]), jnp.array([True, True]))
    >>> mean = lambda params, support, key: {"w": jnp.mean(support.targets)}
    >>> adapted, path = written(mean, 2).adapt(Params({}, {"w": jnp.zeros(())}, {}), support, None)
    >>> path["w"].tolist()
    [0.0, 2.0, 2.0]

    Raises:
      ValueError: steps < 0.
    """
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        start = params.personal
        if steps == 0:
            return params, jax.tree.map(lambda x: x[None], start)
        end = write(params, support, None if key is None else keys.named(key, "write"))
        path = jax.tree.map(lambda first, last: jnp.stack([first] + [last] * steps), start, end)
        return params._replace(personal=end), path

    return InnerLoop(lambda params: {}, adapt)


CLOSED_FORM = Member(
    written,
    options={"steps": Option(1, least=1, doc="entries of the path after the start; all are the solution")},
    needs=("write",),
    paper="Bertinetto et al. 2019, arXiv:1805.08136; Snell, Swersky, Zemel 2017, arXiv:1703.05175",
    variants=({"steps": 3},),
    traits=("closed_form_loop",),
    doc="what the model computes from the support, without gradient steps",
)
