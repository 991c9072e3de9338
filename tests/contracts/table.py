"""Learners of the small world, one for each member that a learner can be made of: made from the entries.

The example and the variants of every member become cases. What an entry describes stands in place of the same kind in
``base``; all else of the learner stays. Two entries that describe the same learner are one case with two labels.
``COMBINED`` holds what no entry describes. A new member needs no line here: test_audit.py fails if it has no case.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh

from metapers import aggregate, base, inner, learners, memory, optimizers, penalties, scores, updates
from metapers.base import Aggregator, InnerLoop, Learner, Memory, Params, Penalty, Tree
from metapers.members import Context, build, filled, registry, sections, without_name
from metapers.options import NONE, Choice, ConfigError, Option
from tests.contracts import world

MODEL = world.bilinear()
OBJECTIVE = scores.squared_error()
LOSS = base.example_loss(MODEL, OBJECTIVE)

PACKAGES = (aggregate, inner, learners, memory, optimizers, penalties, updates)
"""The packages whose members a learner is made of; importing them fills the registries."""

Section = Mapping[str, Any]
Sections = Mapping[str, Section]
"""By kind, the section of the member that a learner has."""

NESTED = ("rates", "inner_optimizer")
"""Kinds of members that are options of other members of a learner."""


@cache
def standard() -> Sections:
    """The members of every learner that is not about them."""
    parts = {"learner": "maml", "inner_loop": "gradient", "aggregator": "mean", "schedule": "constant"}
    parts["update_rule"] = "sum"
    made = {kind: filled(kind, {"name": name, **registry(kind)[name].example}) for kind, name in parts.items()}
    empty = dict.fromkeys(("gate", "penalty", "memory"), {"name": NONE})
    return made | empty | {"optimizer": filled("optimizer", {"name": "adam", "rate": 0.02})}


ADAPTING = ("learner", "inner_loop", "gate", *NESTED)
"""Kinds whose cases differentiate through the steps of adaptation; the others have first order."""


@cache
def mesh() -> Mesh:
    """Two host devices."""
    return jax.make_mesh((2,), ("users",), axis_types=(AxisType.Auto,))


def solved(params: Params, support: base.Batch, key: base.Key | None) -> Tree:
    """The weights of the small world that fit the support best, drawn towards the start: ridge regression."""
    wide, w = support.mask[:, None], params.personal["w"]
    phi = jnp.where(wide, support.inputs, jnp.zeros_like(support.inputs)) @ params.shared["map"]
    wanted = jnp.where(support.mask, support.targets - params.personal["b"], jnp.zeros_like(support.targets))
    precision = phi.T @ phi + jnp.eye(w.size, dtype=w.dtype)
    return {**params.personal, "w": w + jnp.linalg.solve(precision, phi.T @ (wanted - phi @ w))}


# From sections to a learner


def context(chosen: Sections) -> Context:
    """What members of the small world may need."""
    closed_form = _has_trait("inner_loop", chosen, "closed_form_loop")
    return Context(
        loss_fn=lambda: LOSS,
        objective=lambda: OBJECTIVE,
        model=lambda: MODEL,
        apply=lambda: MODEL.apply,
        write=lambda: solved if closed_form else MODEL.write,
        outputs_fn=lambda: lambda params, batch: MODEL.apply(params, batch.inputs, batch.mask, None),
        stores_examples=lambda: False,
        steps=lambda: 2,  # rates by step are for so many; the loops of the entries take more
        outer_steps=lambda: 4,
        mesh=mesh,
        inner_loop=lambda: _inner_loop(chosen),
        first_order_loop=lambda: _inner_loop(chosen, first_order=True),
        optimizer=lambda: _optimizer(chosen),
        aggregator=lambda: build("aggregator", chosen["aggregator"], context(chosen)),
        penalty=lambda: build("penalty", chosen["penalty"], context(chosen)),
        rule=lambda: build("update_rule", chosen["update_rule"], context(chosen)),
    )


def learner(chosen: Sections) -> Learner:
    """The learner that sections describe."""
    made = build("learner", chosen["learner"], context(chosen))
    made = learners.serial(made) if chosen["learner"]["sequential"] else made
    kept = build("memory", chosen["memory"], context(chosen))
    return made if kept is None else replayed(kept, made, chosen["memory"])


def _inner_loop(chosen: Sections, **replaced: Any) -> InnerLoop:
    made = build("inner_loop", chosen["inner_loop"], context(chosen), **replaced)
    gated = context(chosen).extended(inner_loop=lambda: made)
    return build("gate", chosen["gate"], gated) or made


def _optimizer(chosen: Sections) -> optax.GradientTransformation:
    # An optimizer that a case is about moves the shared parameters, as a group of a config; the others have Adam.
    made, usual = (build("optimizer", one["optimizer"], context(chosen)) for one in (chosen, standard()))
    if chosen["optimizer"] != standard()["optimizer"]:
        apart = Params("param", "other", "other")
        labels = lambda params: Params(*(jax.tree.map(lambda _, to=to: to, part) for to, part in zip(apart, params)))
        made = optax.partition({"param": made, "other": usual}, labels)
    share = build("schedule", chosen["schedule"], context(chosen))
    return made if share is None else optax.chain(made, learners.scheduled(share))


def _has_trait(kind: str, chosen: Sections, trait: str) -> bool:
    name = chosen[kind]["name"]
    return name != NONE and trait in registry(kind)[name].traits


# Members written out, for cases that no entry describes and for other tests


def loop(*, first_order: bool = False) -> InnerLoop:
    """The inner loop of every learner that is not about inner loops."""
    return inner.gradient(LOSS, 2, inner.per_parameter(0.05), first_order=first_order)


def maml(
    inner_loop: InnerLoop | None = None, penalty: Penalty | None = None, aggregator: Aggregator | None = None
) -> Learner:
    """MAML with Adam around the member that a case is about."""
    made = inner_loop or loop(first_order=True)
    return learners.maml(LOSS, made, optax.adam(0.02), penalty=penalty, aggregator=aggregator or aggregate.mean())


def reptile() -> Learner:
    """Reptile with plain gradient descent and a penalty."""
    return learners.reptile(LOSS, loop(), optax.sgd(0.1), penalty=penalties.anchor(1.0), aggregator=aggregate.mean())


def replayed(kept: Memory, wrapped: Learner | None = None, options: Section | None = None) -> Learner:
    """A learner, MAML by default, on tasks of a memory beside the new ones."""
    options = options or {"replay_batch": 3, "consolidation_batches": 2, "insertion": "boundary"}
    draws, when = options["consolidation_batches"], options["insertion"]
    return learners.replay(wrapped or maml(), kept, options["replay_batch"], draws=draws, insertion=when)


def fisher() -> Penalty:
    """EWC on the small world."""
    return penalties.ewc(OBJECTIVE, MODEL.apply, loop(first_order=True), 5.0, draws=2)


COMBINED: dict[str, Callable[[], Learner]] = {
    "learner: serial": lambda: learners.serial(reptile()),
    "inner_loop: none": lambda: maml(inner.none()),
    "inner_loop: gradient, no steps": lambda: maml(inner.gradient(LOSS, 0, 0.05)),
    "inner_loop: tempered": lambda: maml(inner.tempered(loop(), 0.5)),
    "penalty: none": lambda: maml(penalty=penalties.none()),
    "penalty: sum_of": lambda: maml(penalty=penalties.sum_of(penalties.anchor(0.5), fisher())),
    "aggregator: blocks": lambda: maml(aggregator=aggregate.blocks(aggregate.mean(), 2)),
    "aggregator: sharded": lambda: maml(
        aggregator=aggregate.sharded(aggregate.blocks(aggregate.clipped(0.5), 2), mesh())
    ),
}
"""Learners that no entry describes: combinators, and options that a config cannot name."""

ORDERED = {"learner: serial"}
"""Cases that take users one after the other, so that their order is part of the method."""


# From entries to cases


class Case(NamedTuple):
    """A learner of the small world with the entries that describe it."""

    labels: tuple[str, ...]  # "penalty: ewc, exact False", one for each entry
    described: tuple[tuple[str, Section], ...]  # (kind, section) of each entry; empty for what is combined
    make: Callable[[], Learner]

    @property
    def on_mesh(self) -> bool:
        """Whether users are spread over two devices."""
        return "sharded" in self.labels[0]


@cache
def kinds() -> tuple[str, ...]:
    """The kinds of members that a learner is made of."""
    return (*standard(), *NESTED)


def placed(kind: str, section: Section) -> Sections:
    """The standard sections with ``section`` in its place, and with what its member requires of others."""
    order = {} if kind in ADAPTING else {"inner_loop": {**standard()["inner_loop"], "first_order": True}}
    return _completed(_placed(kind, section, {**standard(), **order}))


def _placed(kind: str, section: Section, chosen: Sections) -> Sections:
    if kind in chosen:
        return {**chosen, kind: section}
    for outer in chosen:
        for name, host in sections(outer):
            for key, option in registry(outer)[host["name"]].options.items():
                if isinstance(option, Choice) and option.kind == kind and name == host["name"]:
                    return _placed(outer, {**host, key: section}, chosen)
    raise LookupError(f"{kind} must be a kind of {tuple(chosen)} or of an option of such a member")


def _completed(chosen: Sections) -> Sections:
    for trait in registry("learner")[chosen["learner"]["name"]].requires:
        there = {one for kind, name in _names(chosen) for one in registry(kind)[name].traits}
        candidates = [(kind, name) for kind in kinds() for name, one in registry(kind).items() if trait in one.traits]
        if trait not in there and candidates:
            kind, name = candidates[0]
            chosen = _placed(kind, dict(sections(kind, name)[0][1]), chosen)
    return chosen


def _names(chosen: Sections) -> Iterator[tuple[str, str]]:
    for kind, section in chosen.items():
        if section["name"] != NONE:
            yield kind, section["name"]
            options = registry(kind).options(section["name"])
            inside = {one.kind: section[key] for key, one in options.items() if isinstance(one, Choice)}
            yield from _names(inside)


@cache
def table() -> tuple[Case, ...]:
    """Every case: those of the entries, then those of ``COMBINED``."""
    found: dict[str, Case] = {}
    for kind in kinds():
        for label, section in sections(kind):
            chosen = placed(kind, section)
            held = found.get(_structure(chosen), Case((), (), partial(learner, chosen)))
            label = f"{kind}: {_short(label, section)}"
            found[_structure(chosen)] = held._replace(
                labels=(*held.labels, label), described=(*held.described, (kind, section))
            )
    return (*found.values(), *(Case((label,), (), make) for label, make in COMBINED.items()))


def _structure(chosen: Sections) -> str:
    # two names of one factory with the same options, as of a published method and its parts, are one learner
    def plain(kind: str, section: Section) -> Any:
        if section["name"] == NONE:
            return None
        member = registry(kind)[section["name"]]
        inside = {key: one.kind for key, one in member.options.items() if isinstance(one, Choice)}
        values = {key: plain(inside[key], one) if key in inside else one for key, one in section.items()}
        return [str(member.factory), without_name(values)]

    return json.dumps({kind: plain(kind, section) for kind, section in chosen.items()}, sort_keys=True, default=str)


def _short(label: str, section: Section) -> str:
    # a section inside a section is its name and its own values
    for value in section.values():
        if isinstance(value, Mapping):
            label = label.replace(str(dict(value)), value["name"])
    return label


@cache
def named() -> dict[str, Case]:
    """The cases by their first label."""
    return {case.labels[0]: case for case in table()}


def cases() -> dict[str, Callable[[], Learner]]:
    """The learner of every case: "penalty: ewc" -> thunk."""
    return {name: case.make for name, case in named().items()}


# Other values of options that the state carries


def revalued(case: Case) -> dict[str, Callable[[], Learner]]:
    """For each carried option of the entries of a case, the learner with another value of it."""
    found = {}
    for kind, section in case.described:
        for key, option in registry(kind).options(section["name"]).items():
            if isinstance(option, Option) and option.traced:
                other = {**section, key: another(option, section[key])}
                found[f"{kind}.{key}"] = partial(learner, placed(kind, other))
    return found


def another(option: Option, value: float) -> float:
    """A value that an option may have beside ``value``.

    Raises:
      LookupError: for none.
    """
    for candidate in (10.0 * value, value / 2, 0.1):
        try:
            if candidate != value and option.read("value", candidate) == candidate:
                return candidate
        except ConfigError:
            continue
    raise LookupError(f"an option must allow another value than {value}, got {option}")
