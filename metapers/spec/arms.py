"""Arms: what a run compares on one stream. An arm is the config, but for the keys that the arm overrides."""

import json
import math
from typing import NamedTuple, cast

from metapers.members import registry
from metapers.options import NONE, ConfigError, Option
from metapers.spec.heads import head_facts
from metapers.spec.named import arm_hint, arm_section
from metapers.spec.overrides import arm_tree
from metapers.spec.root import ARM, BASELINE, OVERRIDES, SHIPPED_ARMS
from metapers.spec.tree import Config, config_of, members, options, plain


class Arm(NamedTuple):
    """One way to learn from the stream."""

    name: str
    config: Config  # the run's, with the keys that the arm overrides
    trains_on: str  # "period": the newest period; "so_far": all periods so far; "first": the first period alone
    restarts: bool  # each period from the same initialisation
    budget: str  # "own", "matched" or "converged"
    matches: "Arm | None" = None  # the arm whose user-tasks a matched one sees at least
    passes: tuple[int, ...] = ()  # the batches of each period where its sampler ends; () where it goes on

    def window(self, period: int) -> tuple[int, int]:
        """The first and the last period that its tasks of this period are drawn from."""
        return {"period": (period, period), "so_far": (0, period), "first": (0, 0)}[self.trains_on]

    def trains(self, period: int) -> bool:
        """Whether it takes outer steps in a period."""
        return self.trains_on != "first" or period == 0

    def saves(self, period: int, periods: int) -> bool:
        """Whether it leaves a version after a period: one that trains until it converges does so after the last."""
        return self.budget != "converged" or period == periods - 1

    def steps(self, period: int) -> int:
        """Outer steps in a period; of one that trains until it converges, the least number.

        A matched arm takes whole cycles of ``outer_steps``, so that a schedule ends where a cycle ends.
        """
        own = self.config.outer_steps
        if not self.trains(period):
            return 0
        if self.passes:
            own = min(own, self.passes[period])
        if self.budget == "own" or self.matches is None:
            return own
        first = 0 if self.restarts else period
        tasks = sum(self.matches.tasks(now) for now in range(first, period + 1))
        return own * max(1, math.ceil(tasks / (own * self.tasks_per_step(period))))

    def steps_before(self, period: int) -> int:
        """Outer steps in all periods before one."""
        return sum(self.steps(now) for now in range(period))

    def tasks_per_step(self, period: int) -> int:
        """User-tasks that the first outer step of a period trains on, replayed ones among them.

        An arm that begins each period from the initialisation begins with an empty memory.
        """
        fresh, memory = self.config.meta_batch, self.config.memory
        if memory.name == NONE:
            return fresh
        offered = memory.consolidation_batches * fresh * period
        if memory.insertion == "step":
            offered = sum(self.steps(now) for now in range(period)) // self.config.sampler.glances * fresh
        return fresh + self._replayed(0 if self.restarts else offered)

    def _replayed(self, offered: int) -> int:
        memory = self.config.memory
        return min(memory.replay_batch, offered, memory.get("capacity", offered))

    def tasks(self, period: int, steps: int | None = None) -> int:
        """User-tasks that it trains on in a period, or in the first ``steps`` of its outer steps.

        The last batch of a pass counts as a full one.
        """
        steps = self.steps(period) if steps is None else steps
        if self.config.memory.name == NONE or self.config.memory.insertion != "step":
            return steps * self.tasks_per_step(period)
        fresh, glances = self.config.meta_batch, self.config.sampler.glances
        before = 0 if self.restarts else sum(self.steps(now) for now in range(period))
        offered = (-(-step // glances) * fresh for step in range(before, before + steps))
        return steps * fresh + sum(self._replayed(each) for each in offered)

    def spent(self, period: int, steps: int | None = None) -> dict[str, int]:
        """What the version after ``period`` was trained with: outer steps, user-tasks and gradient evaluations.

        A user-task costs one gradient evaluation for each inner step, one where the adaptation is in closed form, and
        one for the outer gradient.

        Args:
          period: the last one that it was trained in.
          steps: outer steps of this period; None: ``steps(period)``.
        """
        taken = self.steps(period) if steps is None else steps
        before = () if self.restarts else range(period)
        tasks = self.tasks(period, taken) + sum(self.tasks(now) for now in before)
        inner = self.config.inner
        each = 0 if not self.adapts or inner.name == NONE else inner.get("steps", 1)
        if each and "closed_form_loop" in registry("inner_loop")[inner.name].traits:
            each = 1  # its steps are entries of the path, all of them the solution
        return {
            "outer_steps": taken + sum(self.steps(now) for now in before),
            "user_tasks": tasks,
            "gradient_evaluations": tasks * (each + 1),
        }

    def seen(self, period: int) -> int:
        """The last period in the training data of the version that it leaves after ``period``."""
        return self.window(period)[1]

    @property
    def remembers(self) -> bool:
        """Whether it has a penalty or a memory."""
        return bool(len(self.config.penalties)) or self.config.memory.name != NONE

    @property
    def adapts(self) -> bool:
        """Whether its learner has an inner loop in training."""
        return "no_inner_loop" not in registry("learner")[self.config.learner.name].traits

    @property
    def structure(self) -> str:
        """What makes its compiled program. Arms that differ in carried values alone have one structure."""
        read = [leaf for leaf in options(self.config) if leaf.key.split(".")[0] in OVERRIDES and not leaf.option.traced]
        chosen = {one.key: one.name for one in members(self.config)}
        return json.dumps([chosen, {leaf.key: leaf.value for leaf in read}], sort_keys=True)


def arms(config: Config) -> dict[str, Arm]:
    """The arms of a run by name, in order; last the joint model where one model for all users can be trained.

    There is no joint model where tasks name their classes anew, where a head learns through the support alone, and
    where the config's own learner is the joint one already.

    Raises:
      ConfigError: for an arm whose override is refused, naming its key.
    """
    names = [*(name for name in SHIPPED_ARMS if name in config.arms), *sorted(set(config.arms) - set(SHIPPED_ARMS))]
    names = [name for name in names if name != BASELINE]
    tree = plain(config)
    if has_joint_model(config):
        names.append(BASELINE)
        tree["arms"].setdefault(BASELINE, arm_section(SHIPPED_ARMS[BASELINE], BASELINE))
    made = {}
    for name in names:
        own = {key: cast(Option, option).default for key, option in ARM.items()} | tree["arms"][name]
        made[name] = Arm(name, config_of(arm_tree(tree, name)), *(own[key] for key in ARM))
    lead = next((made[name] for name in _leading_first(names) if made[name].budget == "own"), None)
    return {name: arm._replace(matches=lead) for name, arm in made.items()}


def with_passes(made: dict[str, Arm], passes: dict[str, tuple[int, ...]]) -> dict[str, Arm]:
    """Arms that know after how many batches of each period their sampler ends, by name; () where it goes on."""
    known = {name: arm._replace(passes=passes[name]) for name, arm in made.items()}
    lead = next((arm.matches.name for arm in made.values() if arm.matches), None)
    return {name: arm._replace(matches=known[lead] if lead else None) for name, arm in known.items()}


def has_joint_model(config: Config) -> bool:
    """Whether one model for all users can be trained beside the arms of a config."""
    head = head_facts(config.model)
    comparable = registry("source")[config.data.name].facts.joint and config.learner.name != "joint"
    return comparable and (head is None or head.learns_alone)


def arm_of(config: Config, key: str, name: str) -> Arm:
    """The arm of a name.

    Raises:
      ConfigError: naming ``key``, for one that the config does not have.
    """
    found = arms(config)
    if name not in found:
        raise ConfigError(key, name, f"one of {list(found)}", arm_hint(name, found))
    return found[name]


def leading(config: Config) -> str:
    """The arm that a run is about: ``continual`` where there is one, else the last one with a budget of its own.

    >>> from metapers.spec.tree import config_for
    >>> leading(config_for("sinusoid", "mlp"))
    'continual'
    """
    found = arms(config)
    own = [name for name, arm in found.items() if arm.budget == "own"]
    return _leading_first(own or list(found))[0]


def _leading_first(names: list[str]) -> list[str]:
    own = [name for name in names if name != BASELINE] or [BASELINE]
    return (["continual"] if "continual" in own else []) + own[::-1]
