"""What a builder must know of a model or of a head before it is built."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class HeadFacts(NamedTuple):
    """A head whose weights of a user are computed from the support, without gradient steps."""

    targets: tuple[str, ...] = ("classes",)  # the kinds of a source's targets that it predicts
    learns_alone: bool = False  # it learns without a support set too: one model for all users can be trained with it
    sums: bool = False  # it keeps sums over a user's examples: a weight on them is the strength of the prior


class ModelFacts(NamedTuple):
    """What a model takes and predicts."""

    inputs: tuple[str, ...] = ("vectors",)  # the kinds of a source's inputs that it takes
    targets: tuple[str, ...] = ("numbers",)  # and of the targets that it predicts
    history: int = 0  # the least data.history: earlier examples that an example must carry
    objective: Callable[[Mapping[str, Any]], str | None] = lambda section: None
    """``config.model`` -> the objective that its outputs need; None: that of the source."""
    head: HeadFacts | None = None  # of a model whose head is always computed from the support
