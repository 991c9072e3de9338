"""Four convolutions and a linear layer: the usual network for few-shot images, in its two published forms."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Batch, Key, Model, hide
from metapers.members import Member
from metapers.models import seam
from metapers.models.facts import ModelFacts
from metapers.models.kinds import ADAPTS_OPTION, ADDED_OPTIONS, Body, Head, adapted
from metapers.models.layers import Conv3x3, Dense, FilmLayer, max_pool
from metapers.models.norms import Norm, batch_norm, chosen
from metapers.models.prototypes import as_linear
from metapers.options import Choice, Option

USUAL = batch_norm()


class ConvBody(nnx.Module):
    """``conv_<i>``, ``norm_<i>`` (``film_<i>``) for i in 0..3, relu after each, and the mean over space."""

    def __init__(self, filters: int, channels: int, norm: Norm, pool: bool, rngs: nnx.Rngs, film: bool = False):
        self.pool, self.film, self.features, stride = pool, film, filters, 1 if pool else 2
        for i in range(4):
            below = channels if i == 0 else filters
            setattr(self, f"conv_{i}", Conv3x3(below, filters, rngs, stride=stride, kind=Body))
            setattr(self, f"norm_{i}", norm.build(filters))
            if film:
                setattr(self, f"film_{i}", FilmLayer(filters))

    def __call__(self, x: Array, mask: Array) -> Array:
        return self._run(x, mask, writing=False)

    def write(self, x: Array, mask: Array) -> Array:
        """Measure the statistics of the rows where a norm keeps them; returns the features under them."""
        return self._run(x, mask, writing=True)

    def _run(self, x: Array, mask: Array, writing: bool) -> Array:
        for i in range(4):
            norm, x = getattr(self, f"norm_{i}"), getattr(self, f"conv_{i}")(x)
            if writing and hasattr(norm, "write"):
                norm.write(x, mask)
            x = norm(x, mask)
            x = getattr(self, f"film_{i}")(x) if self.film else x
            # relu and maximum may change places: after the pool there is a quarter to do
            x = jax.nn.relu(max_pool(x) if self.pool else x)
        return jnp.mean(x, (1, 2))


class Conv4(ConvBody):
    """The layers of ``ConvBody``, then ``head``."""

    def __init__(
        self,
        ways: int,
        filters: int,
        channels: int,
        norm: Norm,
        pool: bool,
        film: bool,
        head_scale: float,
        prototypes: bool,
        rngs: nnx.Rngs,
    ):
        super().__init__(filters, channels, norm, pool, rngs, film)
        self.head, self.prototypes = Dense(filters, ways, rngs, kind=Head, scale=head_scale), prototypes

    def __call__(self, x: Array, *, mask: Array, key: Key | None = None) -> Array:
        return self.head(super().__call__(x, mask))

    def write(self, support: Batch, *, key: Key | None = None) -> None:
        phi = super().write(hide(support.inputs, support.mask), support.mask)
        if self.prototypes:
            start = self.head.kernel[...], self.head.bias[...]
            self.head.kernel[...], self.head.bias[...] = as_linear(phi, support.targets, support.mask, *start)


def conv4(
    ways: int,
    filters: int = 64,
    *,
    channels: int = 1,
    norm: Norm = USUAL,
    pool: bool = False,
    film: bool = False,
    head_scale: float = 1.0,
    prototypes: bool = False,
    adapts: tuple[type[nnx.Variable], ...] = seam.EVERYTHING,
) -> Model:
    """images [n, height, width, channels] -> logits [n, ways]: 4 x (3x3 convolution, norm, relu), mean over space,
    linear; by default every parameter is personal.

    Strided (every convolution halves height and width: 28, 14, 7, 4, 2) or with ``pool`` (stride 1, then the largest
    of each 2x2 square: 28, 14, 7, 3, 1; images of at least 16 x 16). ``film``: a scale and a shift of type ``Film``
    after each norm. ``head_scale`` multiplies the drawn weights of the head. At 0 no gradient comes to the body in
    the first inner step of descent on cross-entropy, so a body that is good already is not pulled about by a head that
    knows nothing, and the head's weights become rate/n Σ_i f_i (y_i - 1/ways), f the features and y one-hot. A head of
    zeros before every task is the zeroing trick of Kao, Chiu, Chen 2022 (arXiv:2106.15367).

    ``prototypes``: a user's head begins where its logits are -‖f - c‖² to the class means c of his support, but for a
    constant of each row (``prototypes.as_linear``), whatever it was. That is the model's ``write``, through which the
    meta-gradient passes: Proto-MAML, Triantafillou et al. 2020 (arXiv:1903.03096, section 3.3). So a user who returns
    keeps his body and begins with a new head.

    ``norm``: ``batch_norm()`` unless said otherwise. With it predictions are *transductive*: the answer for one query
    depends on the other unmasked queries beside it, and a report on the model must say so (``norm.transductive``).
    With ``no_norm()``, ``group_norm(groups)``, ``layer_norm()`` and ``support_norm()`` it does not; the last one's
    statistics are personal whatever ``adapts`` says, and the model's ``write`` measures them.

    Source: Finn, Abbeel, Levine 2017 (arXiv:1703.03400), appendix on Omniglot (strided); Vinyals et al. 2016
    (arXiv:1606.04080), section 4.1.1 (pooled).

    Raises:
      ValueError: ways, filters or channels < 1; head_scale not finite or < 0; prototypes with a head that is
        shared; at the call, images too small to be pooled four times.
    """
    for name, value in (("ways", ways), ("filters", filters), ("channels", channels)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if not (math.isfinite(head_scale) and head_scale >= 0):
        raise ValueError(f"head_scale must be finite and >= 0, got {head_scale}")
    if prototypes and not any(issubclass(Head, kind) for kind in adapts):
        names = ", ".join(kind.__name__ for kind in adapts)
        raise ValueError(f"prototypes must be False where adapts has no Head, whose start they are, got ({names})")
    build = lambda rngs: Conv4(ways, filters, channels, norm, pool, film, head_scale, prototypes, rngs)
    return seam.model(build, (*adapts, *norm.keeps))


def _from_sizes(sizes: Mapping[str, int], *, filters: int, norm: Norm | None, adapts: str, **options: Any) -> Model:
    norm = chosen(norm, filters)
    return conv4(sizes["classes"], filters, channels=sizes["width"], norm=norm, adapts=adapted(adapts), **options)


BODY_OPTIONS = {
    "filters": Option(64, least=1, doc="filters of each convolution"),
    "norm": Choice("norm", "batch", optional=True, doc="normalisation after each convolution"),
    "pool": Option(False, doc="stride 1 and pooling, else stride 2; images of at least 16 x 16"),
}
"""The options of a model with a ``ConvBody``."""

CONV4_MEMBER = Member(
    _from_sizes,
    options={
        **BODY_OPTIONS,
        "film": ADDED_OPTIONS["film"],
        "head_scale": Option(1.0, least=0, doc="factor of the head's first weights; 0 for a head of zeros"),
        "prototypes": Option(False, doc="a user's head begins at the class means of the support (Proto-MAML)"),
        "adapts": ADAPTS_OPTION,
    },
    needs=("sizes",),
    paper="Finn, Abbeel, Levine 2017, arXiv:1703.03400",
    example={"filters": 4},
    variants=(
        {"norm": {"name": "group", "groups": 2}, "pool": True},
        {"head_scale": 0.0},
        {"prototypes": True, "adapts": "all"},
        {"norm": "layer", "adapts": "body"},
        {"norm": "support"},
        {"norm": "none", "film": True},
    ),
    facts=ModelFacts(inputs=("images",), targets=("classes",)),
    doc="four convolutions and a linear layer",
)
