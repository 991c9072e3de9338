"""Normalisation as a declared choice: what a row of features is measured against.

A choice is a value of type ``Norm``, made by one of the lower-case factories; it builds one module per layer, which
is called as ``module(x, mask)`` with x [n, height, width, channels] and mask [n], and has a learned ``scale`` and
``shift`` [channels] of the type ``kinds.Body``. Only with ``batch_norm`` do the rows of one call see each other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array
from metapers.members import Member
from metapers.models.kinds import BIASES, Body
from metapers.models.layers import along_last
from metapers.models.seam import Personal
from metapers.options import Option

EPSILON = 1e-5  # added to every variance


class Norm(NamedTuple):
    """A choice of normalisation."""

    build: Callable[[int], Any]  # channels -> a module
    transductive: bool  # a row's output depends on the other unmasked rows of its call: a report must say so
    keeps: tuple[type[nnx.Variable], ...] = ()  # types of what each user has for himself, whatever else adapts
    groups: int = 1  # the number of channels must be a multiple of it


class Statistics(Personal):
    """What was measured on a user's support set."""

    group = "personal"


class Unchanged(nnx.Module):
    """x itself; no parameters."""

    def __call__(self, x: Array, mask: Array) -> Array:
        return x


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(variance + 1e-5) · scale + shift, with the statistics of the unmasked rows at hand.

    Nothing is remembered between calls. x [n, height, width, channels], mask [n]. A row's output depends on the
    other rows (transduction); masked rows change none of them.
    """

    def __init__(self, channels: int, *, kind: type[nnx.Param] = nnx.Param):
        self.scale = kind(jnp.ones(channels))
        self.shift = BIASES.get(kind, kind)(jnp.zeros(channels))

    def __call__(self, x: Array, mask: Array) -> Array:
        centred, variance, _ = _measured(x, mask)
        return _affine(self, centred, jax.lax.rsqrt(variance + EPSILON))


class GroupNorm(nnx.Module):
    """Mean and variance of one row over space and ``size`` neighbouring channels; mask is not read."""

    def __init__(self, channels: int, size: int, *, kind: type[nnx.Param] = nnx.Param):
        self.scale = kind(jnp.ones(channels))
        self.shift = BIASES.get(kind, kind)(jnp.zeros(channels))
        self.size = size

    def __call__(self, x: Array, mask: Array) -> Array:
        # Over space first, then over the few numbers left: the large arrays keep their channels last and whole.
        centred = x - self._over_groups(jnp.mean(x, (1, 2), keepdims=True))
        variance = self._over_groups(jnp.mean(jnp.square(centred), (1, 2), keepdims=True))
        return _affine(self, centred * jax.lax.rsqrt(variance + EPSILON))

    def _over_groups(self, x: Array) -> Array:
        groups = jnp.reshape(x, (len(x), 1, 1, -1, self.size))
        mean = jnp.mean(groups, -1, keepdims=True)
        return jnp.reshape(jnp.broadcast_to(mean, groups.shape), x.shape)


class SupportNorm(nnx.Module):
    """(x - mean) · exp(-log_variance / 2) · scale + shift, mean and log_variance [channels] as ``write`` found them.

    The logarithm keeps the variance positive wherever a gradient step takes it. Before ``write`` they are 0.
    """

    def __init__(self, channels: int, *, kind: type[nnx.Param] = nnx.Param):
        self.scale = kind(jnp.ones(channels))
        self.shift = BIASES.get(kind, kind)(jnp.zeros(channels))
        self.mean, self.log_variance = Statistics(jnp.zeros(channels)), Statistics(jnp.zeros(channels))

    def __call__(self, x: Array, mask: Array) -> Array:
        centred = x - along_last(self.mean[...], x.ndim)
        return _affine(self, centred, jnp.exp(-0.5 * self.log_variance[...]))

    def write(self, x: Array, mask: Array) -> None:
        """Keep the statistics of the unmasked rows of x; without any such row those that are there."""
        _, variance, mean = _measured(x, mask)
        some = jnp.any(mask)
        self.mean[...] = jnp.where(some, mean, self.mean[...])
        self.log_variance[...] = jnp.where(some, jnp.log(variance + EPSILON), self.log_variance[...])


def no_norm() -> Norm:
    """Features as they are; no parameters."""
    return Norm(lambda channels: Unchanged(), transductive=False)


def batch_norm() -> Norm:
    """The statistics of the unmasked rows of each call, per channel: at a query the other queries have a say.

    Source: Ioffe, Szegedy 2015 (arXiv:1502.03167), without running statistics, as the code of Finn, Abbeel, Levine
    2017 (arXiv:1703.03400) uses it in training and at test.
    """
    return Norm(lambda channels: BatchNorm(channels, kind=Body), transductive=True)


def group_norm(groups: int = 8) -> Norm:
    """Each row by itself, over space and channels / ``groups`` channels (Wu, He 2018, arXiv:1803.08494).

    Raises:
      ValueError: groups < 1, or channels that ``groups`` does not divide.
    """
    if groups < 1:
        raise ValueError(f"groups must be >= 1, got {groups}")

    def build(channels: int) -> GroupNorm:
        if channels % groups:
            raise ValueError(f"groups must divide the {channels} channels, got {groups}")
        return GroupNorm(channels, channels // groups, kind=Body)

    return Norm(build, transductive=False, groups=groups)


def layer_norm() -> Norm:
    """Each row by itself, over space and all channels (Ba, Kiros, Hinton 2016, arXiv:1607.06450)."""
    return group_norm(1)


def support_norm() -> Norm:
    """The statistics of the user's support set, per channel, as the model's ``write`` measures them.

    They are personal parameters (``mean``, ``log_variance`` of each norm, type ``Statistics``), 0 until written, which
    is features as they are: so a user who has not adapted, and one without any support, is predicted for. An inner
    loop that writes once, before its first step, begins there: the steps then move them with the rest, and
    weights that have moved are still measured against the start. One that writes at every step and after the last
    (a loss of ``write(personal)``) has the statistics of the current weights at all times, as ``batch_norm`` has them
    on the support; their own slope is then zero, for they are written over. Either way the meta-gradient is exact,
    as nothing is held constant behind its back, and no query sees another.

    Source: Bronskill et al. 2020 (arXiv:2003.03284), section 3: "MetaBN".
    """
    return Norm(lambda channels: SupportNorm(channels, kind=Body), transductive=False, keeps=(Statistics,))


def chosen(norm: Norm | None, filters: int) -> Norm:
    """The norm that a config chose.

    Args:
      norm: None for none.
      filters: the channels of each layer.

    Raises:
      ValueError: filters that are no multiple of the norm's groups.
    """
    norm = no_norm() if norm is None else norm
    if filters % norm.groups:
        raise ValueError(f"filters must be a multiple of {norm.groups}, the groups of the norm, got {filters}")
    return norm


def _measured(x: Array, mask: Array) -> tuple[Array, Array, Array]:
    # (x - mean, variance, mean) over space and the unmasked rows; the last two per channel
    mean = _over_rows(jnp.mean(x, (1, 2)), mask)
    centred = x - along_last(mean, x.ndim)
    return centred, _over_rows(jnp.mean(jnp.square(centred), (1, 2)), mask), mean


def _over_rows(rows: Array, mask: Array) -> Array:
    kept = jnp.where(mask[:, None], rows, jnp.zeros_like(rows))
    return jnp.sum(kept, 0) / jnp.maximum(jnp.sum(mask, dtype=rows.dtype), 1)


def _affine(norm: Any, centred: Array, gain: Array | float = 1.0) -> Array:
    return centred * along_last(gain * norm.scale[...], centred.ndim) + along_last(norm.shift[...], centred.ndim)


GROUP_NORM_MEMBER = Member(
    group_norm,
    options={"groups": Option(8, least=1, doc="groups of neighbouring channels")},
    paper="Wu, He 2018, arXiv:1803.08494",
    example={"groups": 2},
    doc="each row by itself, over space and a group of channels",
)
LAYER_NORM_MEMBER = Member(
    layer_norm,
    paper="Ba, Kiros, Hinton 2016, arXiv:1607.06450",
    doc="each row by itself, over space and all channels",
)
SUPPORT_NORM_MEMBER = Member(
    support_norm,
    paper="Bronskill et al. 2020, arXiv:2003.03284",
    doc="with statistics of the user's support set",
)
BATCH_NORM_MEMBER = Member(
    batch_norm,
    paper="Ioffe, Szegedy 2015, arXiv:1502.03167",
    traits=("transductive",),
    doc="with statistics of all rows of the call",
)
