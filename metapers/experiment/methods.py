"""Published methods by name: what adapts, how it adapts and how the outer loop learns, as values of a config's keys."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from metapers.experiment.architectures import MODELS
from metapers.experiment.assembly import config_for
from metapers.experiment.config import Config, one_of


class Method(NamedTuple):
    """A combination of members; what it leaves open (rates, steps) is for each stream to choose."""

    learner: Mapping[str, Any]  # keys of config.learner
    model: Mapping[str, Any] = {}  # keys of config.model: what a user has beside the layers of the backbone
    head: str = ""  # of the backbone's form with a solved head, in place of the backbone


_ALL, _WRITTEN = {"adapts": "all"}, {"inner": "written"}

METHODS: dict[str, Method] = {
    "maml": Method(_ALL),
    "fomaml": Method({**_ALL, "first_order": True}),
    "meta_sgd": Method({**_ALL, "rates": "learned"}),
    "maml_plus_plus": Method({**_ALL, "name": "multi_step", "rates": "per_step"}),
    "proto_maml": Method(_ALL, {"prototypes": True}),
    "imaml": Method({**_ALL, "inner": "implicit"}),
    "reptile": Method({**_ALL, "name": "reptile", "inner": "optimized", "inner_optimizer": "adam_plain"}),
    "anil": Method({"adapts": "head"}),
    "boil": Method({"adapts": "body"}),
    "biases": Method({"adapts": "biases"}),
    "cavia": Method({"adapts": "context"}, {"context": 5}),
    "film": Method({"adapts": "film"}, {"film": True}),
    "lora": Method({"adapts": "low_rank"}, {"low_rank": 4}),
    "bayes": Method(_WRITTEN, head="bayes"),
    "ridge": Method(_WRITTEN, head="ridge"),
    "prototypes": Method(_WRITTEN, head="prototypes"),
    "neighbours": Method({**_WRITTEN, "name": "joint"}, head="neighbours"),
    "joint": Method({**_ALL, "name": "joint"}),
}
"""The papers stand with the members: inner/, learners/, models/kinds.py, models/*_head.py."""

SOLVED = {"conv4": "solved_conv4", "mlp": "solved"}  # the form of a backbone whose head is solved


def method_config(source: str, backbone: str, method: str) -> Config:
    """Every key of a config, as ``config_for``, with those set that make ``method`` on ``backbone`` what it is.

    >>> method_config("sinusoid", "mlp", "anil").learner.adapts
    'head'

    Raises:
      ValueError: for an unknown method, or one that this backbone has no form of.
    """
    chosen = METHODS[one_of("method", method, METHODS)]
    name = backbone
    if chosen.head:
        if backbone not in SOLVED:
            raise ValueError(f"method {method!r} needs a backbone of {sorted(SOLVED)}, got {backbone!r}")
        name = SOLVED[backbone]
    missing = [key for key in chosen.model if key not in MODELS[name].options]
    if missing:
        raise ValueError(f"method {method!r} needs a model with the option {missing[0]!r}, which {name!r} has not")
    config = config_for(source, name)
    config.learner.update(chosen.learner)
    config.model.update(chosen.model)
    if chosen.head:
        config.model.head = chosen.head
    return config
