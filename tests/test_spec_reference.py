"""The reference of configs: every key and member is in it, with the models that fit each source."""

import re

import pytest

from metapers import spec
from metapers.members import kinds, registry
from metapers.options import ConfigError, Option
from metapers.spec import reference
from metapers.spec.root import OPERATIONAL, PLACES, ROOT


def rows(text: str, title: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    part = re.split(r"^##+ ", text, flags=re.MULTILINE)
    (section,) = [one for one in part if one.startswith(f"{title}\n")]
    found = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in found]


def test_every_key_and_every_option_is_in_the_page_with_its_bound_and_default():
    page = reference.markdown()
    flat = {**ROOT, **{f"evaluation.{key}": one for key, one in ROOT["evaluation"].items()}}
    own = {key: one for key, one in flat.items() if isinstance(one, Option)}
    told = {row[0].strip("`"): row for row in rows(page, "Keys of every config")}
    assert {*own, "inner", "penalties", "optimizer.table"} <= {*told}
    for key, option in own.items():
        assert told[key][1].startswith(option.bound()) and told[key][2] == repr(option.default)
    for kind in kinds():
        for name, member in registry(kind).items():
            found = {row[0].strip("`"): row for row in rows(page, f"{kind} `{name}`")}
            assert set(found) == set(registry(kind).options(name))
            for key, option in member.options.items():
                if isinstance(option, Option):
                    assert found[key][2] == ("required" if option.required else repr(option.default))
                    assert ("carried" in found[key][1]) == option.traced
    assert {row[0].strip("`") for row in rows(page, "Published methods")} == set(spec.METHODS)


def test_the_page_names_the_models_that_fit_each_source():
    told = {row[0].strip("`"): row[1:] for row in rows(reference.markdown(), "Models of each source")}
    assert set(told) == set(registry("source"))
    for name, (words, models, heads) in told.items():
        source = registry("source")[name].facts
        assert words == f"{source.inputs} to {source.targets}"
        fits = lambda one, source=source: source.inputs in one.facts.inputs and source.targets in one.facts.targets
        fitting = {model for model, one in registry("model").items() if fits(one)}
        assert set(re.findall(r"`(\w+)`", models)) == fitting
        computed = any("head" in registry("model").options(model) for model in fitting)
        good = {head for head, one in registry("head").items() if computed and source.targets in one.facts.targets}
        assert set(re.findall(r"`(\w+)`", heads)) == good and ((heads == "none") == (not good))


def test_the_page_names_the_keys_that_may_change_when_a_run_goes_on():
    page = reference.markdown()
    for start, keys in (("- keys that cannot change a number", OPERATIONAL), ("- keys that name a place", PLACES)):
        (line,) = [line for line in page.splitlines() if line.startswith(start)]
        assert re.findall(r"`([\w.]+)`", line) == [*keys]


def test_the_list_for_a_terminal_is_of_one_kind_or_of_all():
    whole = reference.listed()
    for kind in kinds():
        part = reference.listed(kind)
        assert part in whole and part.startswith(f"{kind}: ")
        for name in registry(kind):
            assert re.search(rf"^  {name} +\S", part, re.MULTILINE)
    with pytest.raises(ConfigError) as error:
        reference.listed("penalti")
    assert (error.value.key, error.value.hint) == ("kind", "did you mean 'penalty'?")
