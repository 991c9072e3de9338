"""Published methods by name: which members make them, as values of a config."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from metapers.members import registry
from metapers.options import ConfigError, nearest
from metapers.spec.tree import Config, choose, config_for


class Method(NamedTuple):
    """A combination of members; what it leaves open (rates, steps) is for each stream to choose."""

    chosen: Mapping[str, Any] = {}  # section -> (member's name, options)
    model: Mapping[str, Any] = {}  # options of the model: what a user adapts, and what is added for it
    head: str | None = None  # of the backbone's form with a computed head, in place of the backbone


_ALL: dict[str, Any] = {"adapts": "all"}
_LSLR = {"inner": ("gradient", {"rates": "lslr"})}
_CLOSED_FORM = {"inner": ("closed_form", {})}
_REPTILE = {"learner": ("reptile", {}), "inner": ("optimized", {"optimizer": "adam_no_momentum"})}
_SGD = ("sgd", {"rate": 1.0})  # a step of rate 1 ends at the mean of the adapted parameters

METHODS: dict[str, Method] = {
    "maml": Method(model=_ALL),
    "fomaml": Method({"inner": ("gradient", {"first_order": True})}, _ALL),
    "meta_sgd": Method({"inner": ("gradient", {"rates": "meta_sgd"})}, _ALL),
    "lslr": Method(_LSLR, _ALL),
    "msl_lslr": Method({**_LSLR, "learner": ("multi_step", {})}, _ALL),
    "maml_plus_plus": Method({**_LSLR, "learner": ("maml_plus_plus", {}), "schedule": ("cosine", {})}, _ALL),
    "proto_maml": Method(model={**_ALL, "prototypes": True}),
    "imaml": Method({"inner": ("implicit", {})}, _ALL),
    "reptile": Method({**_REPTILE, "optimizer.param": _SGD, "optimizer.personal": _SGD}, _ALL),
    "reptile_adam": Method(_REPTILE, _ALL),
    "anil": Method(model={"adapts": "head"}),
    "boil": Method(model={"adapts": "body"}),
    "biases": Method(model={"adapts": "biases"}),
    "cavia": Method(model={"adapts": "context", "context": 5}),
    "film": Method(model={"adapts": "film", "film": True}),
    "lora": Method(model={"adapts": "low_rank", "low_rank": 4}),
    "bayes": Method(_CLOSED_FORM, head="bayes"),
    "ridge": Method(_CLOSED_FORM, head="ridge"),
    "prototypes": Method(_CLOSED_FORM, head="prototypes"),
    "neighbours": Method({**_CLOSED_FORM, "learner": ("joint", {})}, head="neighbours"),
    "joint": Method({"learner": ("joint", {})}, _ALL),
}
"""The papers stand with the members. ``reptile`` has its own outer step, plain gradient descent; ``reptile_adam`` has
Adam there. ``maml_plus_plus`` is complete but for per-step normalisation statistics and the ensemble of checkpoints;
``lslr`` has its rates alone, and ``msl_lslr`` its multi-step loss too."""

SOLVED = {"conv4": "solved_conv4", "mlp": "solved"}
"""The form of a backbone whose head is computed from the support."""


def method_of(name: str) -> Method:
    """The method of a name.

    Raises:
      ConfigError: for an unknown one.
    """
    if name not in METHODS:
        raise ConfigError("method", name, f"one of {list(METHODS)}", nearest(name, METHODS))
    return METHODS[name]


def method_config(source: str, backbone: str, method: str) -> Config:
    """Every key of a config, as ``config_for``, with those set that make a method.

    Args:
      source: a member of the kind "source".
      backbone: a member of the kind "model".
      method: one of ``METHODS``.

    Raises:
      ConfigError: for an unknown method, or one that this backbone has no form of.

    >>> method_config("sinusoid", "mlp", "anil").model.adapts
    'head'
    """
    chosen, name = method_of(method), backbone
    if chosen.head is not None:
        if backbone not in SOLVED:
            raise ConfigError("backbone", backbone, f"one of {sorted(SOLVED)} with method {method!r}")
        name = SOLVED[backbone]
    config = config_for(source, name)
    apply(config, chosen)
    return config


def apply(config: Config, method: Method) -> None:
    """Sets the keys that make a method in a config, which is changed.

    Raises:
      ConfigError: for a model without an option that the method needs.
    """
    known = registry("model").options(config.model.name)
    for key, value in method.model.items():
        if key not in known:
            raise ConfigError("model", config.model.name, f"a model with the option {key!r}")
        config.model[key] = value
    for section, (name, options) in method.chosen.items():
        choose(config, section, name, **options)
    if method.head is not None:
        choose(config, "model.head", method.head)
