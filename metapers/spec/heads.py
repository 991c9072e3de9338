"""Whether a model computes a user's head from the support, and what its outputs mean."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from metapers.base import Objective
from metapers.members import registry
from metapers.models.facts import HeadFacts, ModelFacts
from metapers.spec.tree import Config
from metapers.tasks.facts import SourceFacts


def model_facts(section: Mapping[str, Any]) -> ModelFacts:
    """The facts of the model in ``config.model``."""
    return registry("model")[section["name"]].facts or ModelFacts()


def source_facts(section: Mapping[str, Any]) -> SourceFacts:
    """The facts of the source in ``config.data``."""
    return registry("source")[section["name"]].facts or SourceFacts()


def fits(source: SourceFacts, model: ModelFacts) -> bool:
    """Whether a model takes the inputs of a source and predicts its targets."""
    return source.inputs in model.inputs and source.targets in model.targets


def head_facts(section: Mapping[str, Any]) -> HeadFacts | None:
    """The facts of the head that the model in ``config.model`` computes from the support; None for one without."""
    if "head" in section:
        return registry("head")[section["head"]["name"]].facts
    return model_facts(section).head


def objective_name(config: Config) -> str:
    """The objective of a config: that of its model if it needs one of its own, else that of its source."""
    return model_facts(config.model).objective(config.model) or source_facts(config.data).objective


def objective(config: Config) -> Objective:
    """What the outputs of the model mean."""
    return registry("objective")[objective_name(config)].factory()


def source_objective(config: Config) -> Objective:
    """What the targets of the source mean, for outputs of the same kind: those of baselines."""
    return _made(registry("objective")[source_facts(config.data).objective].factory)


@cache  # programs are kept by the objective that they score
def _made(factory: Callable[[], Objective]) -> Objective:
    return factory()
