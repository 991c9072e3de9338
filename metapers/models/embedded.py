"""Features that all users share under a head that is computed from a user's support set, each chosen by a value."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from metapers.base import Array, Batch, Key, Model, Tree, hide
from metapers.members import Member
from metapers.models import seam
from metapers.models.bayes_head import likelihood
from metapers.models.conv4 import BODY_OPTIONS, ConvBody
from metapers.models.facts import ModelFacts
from metapers.models.kinds import Body
from metapers.models.layers import Dense
from metapers.models.norms import Norm, batch_norm, chosen
from metapers.options import Choice, Option

MakeBody = Callable[[nnx.Rngs], Any]  # -> a module (inputs, mask) -> phi [n, features], with ``features`` an attribute
MakeHead = Callable[[int, nnx.Rngs], Any]  # features -> a module (phi, mask) -> outputs, with write(phi, targets, mask)

USUAL = batch_norm()


class Embedded(nnx.Module):
    """``body``, shared, under ``head``."""

    def __init__(self, body: MakeBody, head: MakeHead, rngs: nnx.Rngs):
        self.body = body(rngs)
        self.head = head(self.body.features, rngs)

    def __call__(self, inputs: Tree, *, mask: Array, key: Key | None = None) -> Tree:
        return self.head(self.body(inputs, mask), mask)

    def write(self, support: Batch, *, key: Key | None = None) -> None:
        inputs = hide(support.inputs, support.mask)
        if hasattr(self.body, "write"):
            self.body.write(inputs, support.mask)
        self.head.write(self.body(inputs, support.mask), support.targets, support.mask)


class DenseBody(nnx.Module):
    """``dense_0`` ... of the given sizes, each followed by the activation; inputs as they are for one size."""

    def __init__(self, sizes: Sequence[int], activation: Callable[[Array], Array], rngs: nnx.Rngs):
        self.depth, self.features, self.activation = len(sizes) - 1, sizes[-1], activation
        for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
            setattr(self, f"dense_{i}", Dense(inputs, outputs, rngs, kind=Body))

    def __call__(self, x: Array, mask: Array) -> Array:
        for i in range(self.depth):
            x = self.activation(getattr(self, f"dense_{i}")(x))
        return x


def embedded(body: MakeBody, head: MakeHead) -> Model:
    """outputs = head(body(inputs)): the body is shared, and a user's head comes from ``write``, not from gradients.

    ``body``: ``dense_body(sizes)`` for vectors, ``conv_body(filters)`` for images. ``head``: ``bayes_head()`` for
    numbers, ``ridge_head(ways)`` or ``prototypes(ways)`` for classes, ``neighbours(capacity)`` for either.

    ``write(params, support)`` adds the support to what ``params.personal`` holds: from the start, which is empty, it
    is the solution for this support, and from a user's row of the bank the user goes on where he was:
    write(write(p, a), b) = write(p, a and b). To be adapted by ``inner.written(model.write)``. No gradient reaches
    the empty start. Parameters: ``body`` and ``head``; groups "param" and "written", and "prior" with a
    ``bayes_head``.
    """
    return seam.model(lambda rngs: Embedded(body, head, rngs))


def dense_body(sizes: Sequence[int], *, activation: Callable[[Array], Array] = jax.nn.relu) -> MakeBody:
    """vectors [n, sizes[0]] -> [n, sizes[-1]] through dense layers, each followed by ``activation``.

    Raises:
      ValueError: no size, or one < 1.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes must be at least one number >= 1, got {list(sizes)}")
    return lambda rngs: DenseBody(tuple(sizes), activation, rngs)


def conv_body(filters: int = 64, *, channels: int = 1, norm: Norm = USUAL, pool: bool = False) -> MakeBody:
    """images [n, height, width, channels] -> [n, filters]: ``conv4`` without its last layer, in the same two forms.

    With ``batch_norm()``, the default, predictions are transductive (``norm.transductive``): support and query are
    each measured against themselves.

    Raises:
      ValueError: filters or channels < 1.
    """
    for name, value in (("filters", filters), ("channels", channels)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    return lambda rngs: ConvBody(filters, channels, norm, pool, rngs)


def _dense_from_sizes(sizes: Mapping[str, int], *, hidden: tuple[int, ...], head: MakeHead) -> Model:
    return embedded(dense_body((sizes["width"], *hidden)), head)


def _conv_from_sizes(sizes: Mapping[str, int], *, filters: int, norm: Norm | None, pool: bool, head: MakeHead) -> Model:
    return embedded(conv_body(filters, channels=sizes["width"], norm=chosen(norm, filters), pool=pool), head)


def _objective(section: Mapping[str, Any]) -> str | None:
    return likelihood(section["head"])


HEAD = Choice("head", "ridge", doc="how the head of a user is computed from the support")

SOLVED_MEMBER = Member(
    _dense_from_sizes,
    options={"hidden": Option((64, 64), least=1, doc="units of each shared layer"), "head": HEAD},
    needs=("sizes",),
    example={"hidden": (5,)},
    variants=(
        {"head": "prototypes"},
        {"head": {"name": "neighbours", "capacity": 3}},
        {"head": {"name": "bayes", "variance": True, "full": True}},
    ),
    facts=ModelFacts(targets=("numbers", "classes"), objective=_objective),
    doc="shared dense layers and a head in closed form",
)
SOLVED_CONV4_MEMBER = Member(
    _conv_from_sizes,
    options={**BODY_OPTIONS, "head": HEAD},
    needs=("sizes",),
    example={"filters": 4},
    variants=({"head": {"name": "neighbours", "capacity": 3}}, {"norm": "support", "head": "prototypes"}),
    facts=ModelFacts(inputs=("images",), targets=("numbers", "classes"), objective=_objective),
    doc="four shared convolutions and a head in closed form",
)
