"""What a config may not say, choices that contradict each other and models that do not fit; and what nobody reads."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from metapers import keys, models
from metapers.experiment import adapting, assembly, defaults, optimizing
from metapers.experiment import config as configs
from metapers.experiment.architectures import HEADS, MODELS, solved_head
from metapers.experiment.assembly import BASELINE, LEARNERS, STRATEGIES
from metapers.experiment.catalogue import SOURCES
from metapers.experiment.config import Config, one_of


class Reader(NamedTuple):
    """Keys that are read only while a choice is one of some values."""

    keys: str  # separated by spaces
    choice: str
    values: tuple[str, ...]


class Clash(NamedTuple):
    """Values of one choice that go with none of the values of another."""

    key: str
    values: tuple[str, ...]
    other: str
    of_other: tuple[str, ...]
    because: str


_DESCENDED = tuple(name for name in adapting.INNER_LOOPS if name != "written")
_MOVING = tuple(name for name in adapting.INNER_LOOPS if name != "none")
_MOVED = tuple(name for name in optimizing.OPTIMIZERS if name != "frozen")
_DIFFERENTIATING = tuple(name for name in LEARNERS if name not in ("joint", "reptile"))  # through the inner loop
_ADAPTING = tuple(name for name in LEARNERS if name != "joint")

READERS: tuple[Reader, ...] = (
    Reader("learner.inner_optimizer learner.inner_clip", "learner.inner", ("optimized", "implicit")),
    Reader("learner.minibatch", "learner.inner", ("optimized",)),
    Reader("learner.strength learner.cg_steps", "learner.inner", ("implicit",)),
    Reader("learner.rates learner.backward learner.unroll", "learner.inner", ("gradient",)),
    Reader("learner.first_order learner.shrink learner.pull", "learner.inner", ("gradient", "optimized")),
    Reader("learner.adapts", "learner.inner", _DESCENDED),
    Reader("model.prototypes", "learner.inner", tuple(name for name in _DESCENDED if name != "none")),
    Reader("learner.keep", "learner.inner", _MOVING),
    Reader("learner.keep", "learner.name", _ADAPTING),
    Reader("learner.folds", "learner.keep", ("if_it_helps", "gated")),
    Reader("learner.margin", "learner.keep", ("if_it_helps",)),
    Reader("learner.least_move", "learner.keep", ("if_it_moves",)),
    Reader("learner.anneal learner.second_from", "learner.name", ("multi_step",)),
    Reader("learner.root", "learner.name", ("maml",)),
    Reader("learner.first_order learner.backward", "learner.name", _DIFFERENTIATING),
    Reader("warmup", "schedule", ("cosine",)),
    Reader("learner.clip", "learner.aggregator", ("clipped",)),
    Reader("continual.anchor_strength", "continual.penalty", ("anchor",)),
    Reader(
        "continual.ewc_strength continual.ewc_decay continual.ewc_draws continual.ewc_exact",
        "continual.penalty",
        ("ewc",),
    ),
    Reader("continual.capacity continual.replayed continual.draws", "continual.memory", ("reservoir",)),
    Reader("model.variance model.full", "model.head", ("bayes",)),
    Reader("model.capacity model.nearest model.share model.scale", "model.head", ("neighbours",)),
    Reader("model.groups", "model.norm", ("group",)),
    Reader("data.history", "model.name", tuple(name for name, one in MODELS.items() if one.history)),
    *(
        Reader(f"optimizer.{group}.rate optimizer.{group}.weight_decay", f"optimizer.{group}.name", _MOVED)
        for group in defaults.GROUPS
    ),
)
"""A key that differs from its default while nothing reads it is told: an ablation of one choice leaves the keys of the
other standing, so it is no error. A choice that a config does not have, as ``model.head`` of a model with one head,
asks nothing."""

TUNED = ("learner.shrink", "learner.pull", "learner.unroll")
"""Read too where a model trained without an inner loop is tuned by gradient steps (``adapting.tuning_loop``)."""

_NO_PATH = "there are no inner steps to judge one by one"
_UNTRAINED = "no derivative reaches it there, so nothing would train it"
_BETWEEN = tuple(name for name, head in HEADS.items() if not head.between)

CLASHES: tuple[Clash, ...] = (
    Clash("learner.name", ("multi_step",), "learner.inner", ("none", "written", "implicit"), _NO_PATH),
    Clash(
        "learner.name",
        ("reptile",),
        "learner.inner",
        ("written",),
        "what is written from one user's examples is no start that others could share",
    ),
    Clash("learner.rates", ("learned", "log", "per_step"), "learner.name", ("reptile",), _UNTRAINED),
    Clash("learner.keep", ("gated",), "learner.name", ("reptile",), _UNTRAINED),
    Clash("learner.keep", ("gated",), "model.head", _BETWEEN, "what it stores has no meaning a part of the way"),
)

STAND_INS: Mapping[str, Mapping[str, int]] = {
    "films": {"items": 2, "genres": 2, "history": 1},
    "vectors": {"width": 2},
    "points": {"width": 2},
    "images": {"width": 1},
    "characters": {"vocabulary": 2, "length": 2},
}
"""Sizes by the kind of a source's inputs, for a model that is only looked at."""


def check(config: Config) -> None:
    """Holds the choices of a config against each other; nothing is read, and nothing is computed.

    Raises:
      ValueError: for a name that is not known, a model that does not fit the source, a layer set that the model has
        not, or choices that contradict each other; naming the key, its value and the bound.
    """
    _fits(config)
    _builds(config)
    _agree(config)


def _fits(config: Config) -> None:
    name = one_of("data.source", config.data.source, SOURCES)
    source, chosen = SOURCES[name], MODELS[one_of("model.name", config.model.name, MODELS)]
    _keys(config, "data", "source", source.options)
    _keys(config, "model", "name", chosen.options)
    what = f"for data.source {name!r} ({source.inputs} to {source.targets})"

    def fit(one: Any) -> bool:
        return source.inputs in one.inputs and source.targets in one.targets

    if not fit(chosen):
        fitting = sorted(one for one in MODELS if fit(MODELS[one]))
        raise ValueError(f"model.name must be one of {fitting} {what}, got {config.model.name!r}")
    if config.data.get("history", 0) < chosen.history:
        raise ValueError(
            f"data.history must be >= {chosen.history} with model.name {config.model.name!r}, got {config.data.history}"
        )
    if "head" in config.model:
        head = one_of("model.head", config.model.head, HEADS)
        fitting = sorted(one for one in HEADS if source.targets in HEADS[one].targets)
        if head not in fitting:
            raise ValueError(f"model.head must be one of {fitting} {what}, got {head!r}")


def _keys(config: Config, section: str, choice: str, options: Mapping[str, Any]) -> None:
    given, name = config[section].to_dict(), config[section][choice]
    wrong = sorted((given.keys() - {choice}) ^ options.keys())
    if wrong:
        has = "has no" if wrong[0] in given else "needs"
        raise ValueError(
            f"{section}.{choice} {name!r} {has} {section}.{wrong[0]}, so it must be chosen where the config is made: "
            "experiment.config_for(source, model)"
        )
    for key, usual in options.items():
        if not (isinstance(usual, tuple) and usual):
            continue
        kinds = (int, float) if isinstance(usual[0], float) else (type(usual[0]),)
        if any(type(one) not in kinds for one in given[key]):
            raise ValueError(f"{section}.{key} must hold {kinds[-1].__name__} values, as {usual}, got {given[key]}")


def _builds(config: Config) -> None:
    # With sizes in place of the stream's: what members refuse by themselves is refused before data are read.
    source = SOURCES[config.data.source]
    sizes = dict(STAND_INS[source.inputs]) | ({"classes": 2} if source.targets == "classes" else {})
    if solved_head(config.model) is None:
        _layer_sets(config, sizes)
    model = assembly.model(config, sizes)
    if BASELINE in config.strategies and BASELINE not in assembly.strategies(config):
        raise ValueError(
            f"strategies must not name {BASELINE!r} here, got {tuple(config.strategies)}: there is no such baseline "
            "where tasks name their classes anew, under a head that learns through the support alone, or beside "
            f"learner.name {BASELINE!r}"
        )
    for name in assembly.strategies(config):
        assembly.learner(config, model, STRATEGIES[name], None)
    adapting.inner_loop(config, model)


def _layer_sets(config: Config, sizes: Mapping[str, int]) -> None:
    assembly.adapts(config.learner.adapts)  # the names are known
    whole = config.model.to_dict()
    if "prototypes" in whole:  # that they need a head which adapts is for the model to say
        whole["prototypes"] = False
    build = MODELS[whole.pop("name")].build
    with configs.naming("model", tuple(whole)):
        build(dict(whole), sizes, models.ADAPTS["all"])  # what else is wrong is not the layer set's

    def leaves(kinds: tuple[type, ...]) -> int:
        try:
            made = build(dict(whole), sizes, kinds)
        except ValueError:  # nothing in it is of these types
            return 0
        return len(jax.tree.leaves(jax.eval_shape(made.init, keys.root(0)).personal))

    always = leaves(())  # personal whatever adapts: the statistics that a norm keeps
    for name in config.learner.adapts.split("+"):
        if leaves(models.ADAPTS[name.strip()]) == always:
            raise ValueError(
                f"learner.adapts must name layer sets that the model has, got {config.learner.adapts!r}: "
                f"model.name {config.model.name!r} as configured has nothing of {name.strip()!r}"
            )


def unread(config: Config) -> list[str]:
    """One sentence for each key that differs from its default while nothing reads it."""
    found = []
    usual = dict(configs.leaves(assembly.config_for(config.data.source, config.model.name)))
    given = dict(configs.leaves(config))
    names = assembly.strategies(config)
    remembers = any(STRATEGIES[name].remembers for name in names)
    tuned = solved_head(config.model) is None and (BASELINE in names or config.learner.name == BASELINE)
    for reader in READERS:
        if reader.choice not in given or (reader.choice.startswith("continual.") and not remembers):
            continue
        chosen = given[reader.choice]
        if set(chosen if isinstance(chosen, tuple) else (chosen,)) & set(reader.values):
            continue
        for key in reader.keys.split():
            if key in given and given[key] != usual[key] and not (tuned and key in TUNED):
                only = " or ".join(map(repr, reader.values))
                found.append(f"{key} {given[key]!r} is not read with {reader.choice} {chosen!r}, only with {only}")
    return found


def _agree(config: Config) -> None:
    given = dict(configs.leaves(config))
    for clash in CLASHES:
        one, other = given[clash.key], given.get(clash.other)
        if one in clash.values and other in clash.of_other:
            raise ValueError(f"{clash.key} must not be {one!r} with {clash.other} {other!r}: {clash.because}")
    ways = SOURCES[config.data.source].ways(config.data)
    if ways:
        _episodes(config, ways)
    learner = config.learner
    if learner.keep == "if_it_moves" and not learner.least_move > 0:
        raise ValueError(
            f"learner.least_move must be > 0 with learner.keep 'if_it_moves', got {learner.least_move}: "
            "at 0 everybody moves, as with 'always'"
        )
    if learner.root and config.model.get("variance", False):
        raise ValueError(
            f"learner.root must be 0 with model.variance, got {learner.root}: "
            "the loss is then a likelihood, which can be negative and has no root"
        )
    if learner.inner == "none" and tuple(config.evaluation.steps) != (0,):
        raise ValueError(
            "evaluation.steps must be (0,) with learner.inner 'none', which takes no step, "
            f"got {tuple(config.evaluation.steps)}"
        )


def _episodes(config: Config, ways: int) -> None:
    # An episode's support comes first, a drawing of each class after the other, and what follows is its query.
    support, chosen = ways * config.data.shots, config.evaluation
    if config.learner.keep in ("if_it_helps", "gated") and config.data.shots < 2:
        raise ValueError(
            f"data.shots must be >= 2 with learner.keep {config.learner.keep!r}, got {config.data.shots}: "
            "what is held back would be all that is known of a class"
        )
    if chosen.headline_shots != support or max(chosen.shots) > support:
        raise ValueError(
            f"evaluation.headline_shots must be data.ways * data.shots = {support}, and evaluation.shots at most that, "
            f"got {chosen.headline_shots} and {tuple(chosen.shots)}"
        )
    if any(shots % ways for shots in chosen.shots):
        raise ValueError(
            f"evaluation.shots must be multiples of data.ways = {ways}, the same number of each class, "
            f"got {tuple(chosen.shots)}"
        )
