"""Ways to learn from a stream, stage by stage."""

from collections.abc import Callable
from typing import NamedTuple

from metapers.members import registry
from metapers.options import ConfigError, nearest
from metapers.spec.heads import head_facts
from metapers.spec.tree import Config


class Strategy(NamedTuple):
    """How a stream is learned from."""

    window: Callable[[int], tuple[int, int]]  # stage -> first and last stage to draw from
    trains: Callable[[int, int], bool]  # (stage, stages) -> does it take outer steps in this stage?
    saves: Callable[[int, int], bool]  # (stage, stages) -> does the stage leave a version?
    known: Callable[[int], int] = lambda stage: stage  # its version's inputs are as known after this stage
    restarts: bool = False  # each stage from the same initialisation
    remembers: bool = False  # with the config's penalties and memory
    learner: str | None = None  # instead of the config's


def _always(stage: int, stages: int) -> bool:
    return True


STRATEGIES: dict[str, Strategy] = {
    "static": Strategy(lambda stage: (0, 0), lambda stage, stages: stage == 0, _always, lambda stage: 0),
    "naive": Strategy(lambda stage: (stage, stage), _always, _always),
    "joint_so_far": Strategy(lambda stage: (0, stage), _always, _always, restarts=True),
    "continual": Strategy(lambda stage: (stage, stage), _always, _always, remembers=True),
    # the baseline without an inner loop, on all data so far, with as many steps as the others take in all
    "joint": Strategy(lambda stage: (0, stage), _always, _always, learner="joint"),
}
BASELINE = "joint"


def strategy_of(key: str, name: str) -> Strategy:
    """The strategy of a name.

    Raises:
      ConfigError: naming ``key``, for an unknown one.
    """
    if name not in STRATEGIES:
        raise ConfigError(key, name, f"one of {list(STRATEGIES)}", nearest(name, STRATEGIES))
    return STRATEGIES[name]


def strategies(config: Config) -> list[str]:
    """The strategies of a run in order, last the joint baseline where one model for all users can be trained.

    There is none where tasks name their classes anew, where a head learns through the support alone, and where the
    config's own learner is the joint one already.

    Raises:
      ConfigError: for an unknown name.
    """
    for name in config.strategies:
        strategy_of("strategies", name)
    head = head_facts(config.model)
    comparable = registry("source")[config.data.name].facts.joint and config.learner.name != BASELINE
    comparable = comparable and (head is None or head.learns_alone)
    return [*dict.fromkeys(name for name in config.strategies if name != BASELINE), *([BASELINE] if comparable else [])]


def trains_without_inner_loop(config: Config, name: str) -> bool:
    """Whether the learner of a strategy has no inner loop in training."""
    learner = registry("learner")[STRATEGIES[name].learner or config.learner.name]
    return "no_inner_loop" in learner.traits
