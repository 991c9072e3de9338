"""The keys of a config: bounds, refusals that name the nearest known key, digest, what may change on resume."""

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from metapers.experiment.defaults import default

Config = Any  # an ml_collections.ConfigDict: its keys are known at run time only

OPERATIONAL = ("checkpoint_every", "log_every", "name", "profile", "progress", "tensorboard", "validate_every")
"""Top-level keys that cannot change a number: they may differ between a run and its resume."""

PLACES = ("data.path", "data.download", "start_from")
"""Keys that name a place: what lies there is held against the run by its digest, so that a folder may be moved."""

# keys of the learner that may be 0
_FROM_ZERO = "shrink pull root clip block anneal second_from inner_clip margin least_move minibatch".split()


def check(config: Config) -> Config:
    """The same config, after every value has been held against its bound and every choice against the others.

    No data are read, so a config that is refused has cost nothing.

    Raises:
      ValueError: naming the key, its value and the bound.
    """
    from metapers.experiment import refusals  # knows every name, and those modules know this one

    for key, given in leaves(config):
        if isinstance(given, float) and not math.isfinite(given):
            raise ValueError(f"{key} must be finite, got {given}")
    positive = ("seeds", "steps", "users", "chunk", "log_every", "checkpoint_every", "validate_every")
    for key in (*positive, "learner.inner_steps", "continual.capacity", "continual.draws"):
        _bound(key, config, 1)
    for key in ("seed", "devices", "warmup", "clip_norm", "continual.replayed"):
        _bound(key, config, 0)
    for key in ("seed", "split_seed"):
        if key in config.data:
            _bound(f"data.{key}", config, 0)
    _bound("evaluation.bootstrap", config, 100)  # the ends of a 95 % interval are its 2.5 % quantiles
    for key in _FROM_ZERO:
        _bound(f"learner.{key}", config, 0)
    _bound("learner.folds", config, 2)
    _bound("learner.unroll", config, 1)
    _bound("learner.cg_steps", config, 1)
    _bound("continual.ewc_draws", config, 1)
    if not 0 <= config.continual.ewc_decay <= 1:
        raise ValueError(f"continual.ewc_decay must be in [0, 1], got {config.continual.ewc_decay}")
    for key in ("continual.anchor_strength", "continual.ewc_strength"):
        _bound(key, config, 0)
    for group in config.optimizer:
        _bound(f"optimizer.{group}.weight_decay", config, 0)
    for key in ("learner.inner_rate", "learner.strength", *(f"optimizer.{group}.rate" for group in config.optimizer)):
        if not value(config, key) > 0:
            raise ValueError(f"{key} must be > 0, got {value(config, key)}")
    _check_evaluation(config)
    if config.learner.aggregator == "clipped" and not config.learner.clip > 0:
        raise ValueError(f"learner.clip must be > 0 where learner.aggregator is clipped, got {config.learner.clip}")
    if not config.strategies:
        raise ValueError("strategies must name at least one strategy, got ()")
    for key in ("strategies", "continual.penalty"):
        if len(set(value(config, key))) < len(value(config, key)):
            raise ValueError(f"{key} must not name anything twice, got {value(config, key)}")
    refusals.check(config)
    return config


def _check_evaluation(config: Config) -> None:
    for key, least in (("evaluation.shots", 1), ("evaluation.steps", 0)):
        listed = tuple(value(config, key))
        whole = all(isinstance(one, int) for one in listed)
        if not whole or not listed or list(listed) != sorted(set(listed)) or listed[0] < least:
            raise ValueError(f"{key} must be increasing integers >= {least}, got {listed}")
    for key, among in (("headline_shots", "shots"), ("headline_steps", "steps")):
        if config.evaluation[key] not in tuple(config.evaluation[among]):
            raise ValueError(
                f"evaluation.{key} must be one of evaluation.{among} {tuple(config.evaluation[among])}, "
                f"got {config.evaluation[key]}"
            )


def one_of(key: str, name: str, known: Iterable[str]) -> str:
    """``name`` if it is known, else a ValueError that names the nearest known one.

    >>> one_of("learner.name", "mamll", ["maml", "reptile"])
    Traceback (most recent call last):
      ...
    ValueError: learner.name must be one of ['maml', 'reptile'], got 'mamll'; did you mean 'maml'?
    """
    known = sorted(known)
    if name not in known:
        raise ValueError(f"{key} must be one of {known}, got {name!r}{_nearest(str(name), known)}")
    return name


@contextlib.contextmanager
def naming(section: str, options: Iterable[str]) -> Iterator[None]:
    """A ValueError from inside that begins with one of a section's ``options`` names the whole key.

    >>> with naming("data", ["noise"]):
    ...     raise ValueError("noise must be > 0, got -1.0")
    Traceback (most recent call last):
      ...
    ValueError: data.noise must be > 0, got -1.0
    """
    options = set(options)
    try:
        yield
    except ValueError as error:
        if str(error).partition(" ")[0] in options:
            raise ValueError(f"{section}.{error}") from error
        raise


def unknown_key(config: Config, key: str) -> str:
    """What to say of a key that a config does not have: its nearest known one.

    >>> unknown_key(ConfigDict({"learner": {"inner_steps": 5}}), "learner.inner_step")
    "unknown config key 'learner.inner_step'; did you mean 'learner.inner_steps'?"
    """
    return f"unknown config key {key!r}{_nearest(key, [name for name, _ in leaves(config)])}"


def merged(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with dotted keys set; ints may stand for floats, lists for tuples.

    Raises:
      ValueError: for an unknown key (naming the nearest) or a value of another type.
    """
    copy = ConfigDict(config.to_dict(), type_safe=True).lock()
    known = dict(leaves(config))
    for key, new in overrides.items():
        if key not in known:
            raise ValueError(unknown_key(config, key))
        old = known[key]
        new = tuple(new) if isinstance(old, tuple) and isinstance(new, (list, tuple)) else new
        new = float(new) if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool) else new
        if type(new) is not type(old):
            raise ValueError(f"{key} must be {type(old).__name__}, got {new!r} ({type(new).__name__})")
        copy.update_from_flattened_dict({key: new})
    return copy


def leaves(config: Config | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf, in order of the keys."""
    for key in sorted(config.keys()):
        inner = config[key]
        if isinstance(inner, (ConfigDict, Mapping)):
            yield from leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def value(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def plain(config: Config) -> dict[str, Any]:
    """Nested dicts with tuples as lists, as config.json keeps it."""
    return {
        key: plain(inner) if isinstance(inner, ConfigDict) else list(inner) if isinstance(inner, tuple) else inner
        for key, inner in config.items()
    }


def from_plain(saved: Mapping[str, Any]) -> Config:
    """The config that ``plain`` wrote down.

    A key that came later has its default, which is what was done before there was a choice: so a run of an older
    version is judged and goes on. Not so the optimizers: a group without lines of its own goes with "param", and
    lines would change that.

    Raises:
      ValueError: for a key of the learner, of ``continual`` or of ``evaluation`` that is not known any more: what it
        asked for would be left out in silence.
    """

    def tuples(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: tuples(inner) if isinstance(inner, Mapping) else tuple(inner) if isinstance(inner, list) else inner
            for key, inner in tree.items()
        }

    return ConfigDict(_completed(tuples(saved))).lock()


def _completed(saved: dict[str, Any]) -> dict[str, Any]:
    usual = default({}, {}).to_dict()
    whole = {key: inner for key, inner in usual.items() if not isinstance(inner, dict)} | saved
    for section in ("learner", "continual", "evaluation"):
        known, there = usual[section], saved.get(section, {})
        for key in there:
            if key not in known:
                raise ValueError(
                    f"the run's config has {section}.{key} = {there[key]!r}, which this version does not know"
                )
        whole[section] = known | there
    return whole


def binding(config: Config) -> dict[str, Any]:
    """The part of a config that can change a number: all but the operational keys and the places."""
    given = dict(leaves(config))
    there = merged(config, {key: type(given[key])() for key in PLACES if key in given})
    return {key: inner for key, inner in plain(there).items() if key not in OPERATIONAL}


def differences(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Differences as "key: old -> new": (those that can change a number, the operational ones and the places)."""
    a, b = dict(leaves(old)), dict(leaves(new))
    binding_ones, operational = [], []
    for key in sorted(a.keys() | b.keys()):
        if a.get(key, "absent") != b.get(key, "absent"):
            text = f"{key}: {a.get(key, 'absent')!r} -> {b.get(key, 'absent')!r}"
            free = key.split(".")[0] in OPERATIONAL or key in PLACES
            (operational if free else binding_ones).append(text)
    return binding_ones, operational


def _bound(key: str, config: Config, least: int) -> None:
    if not value(config, key) >= least:
        raise ValueError(f"{key} must be >= {least}, got {value(config, key)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
