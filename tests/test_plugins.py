"""Members of other packages: modules that a caller allows, and those that installed packages name."""

import importlib.metadata
import sys
import types

import pytest

from metapers import members
from metapers.members import Context, Member, build, load_installed, load_plugins, plugin_of, register, registry
from metapers.options import ConfigError
from metapers.spec import config_for


def plate(length=1.0):
    return length


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    """A registry of this test alone."""
    monkeypatch.setattr(members, "_REGISTRIES", dict(members._REGISTRIES))
    registry("tool").add(knife=Member(plate))


MODULE = """
from metapers.members import Member, register

def fork(length=1.0):
    return length

register("tool", "fork", Member(fork, doc="with prongs"))
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The name of a module on the path that registers a tool, and is imported in no other test."""
    name = f"metapers_plugin_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def installed(monkeypatch):
    """Sets the entry points that installed packages have in the group of members."""

    def put(*values):
        points = [importlib.metadata.EntryPoint(f"n{i}", value, members.GROUP) for i, value in enumerate(values)]
        groups = []
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: groups.append(group) or points)
        load_installed.cache_clear()
        return groups

    yield put
    load_installed.cache_clear()


def test_a_module_that_is_allowed_is_imported_and_registers_its_members(plugin):
    load_plugins([plugin], [plugin])
    assert plugin in sys.modules and build("tool", {"name": "fork"}, Context()) == 1.0
    load_plugins([plugin], [plugin])
    assert list(registry("tool")) == ["knife", "fork"]


@pytest.mark.parametrize("allowed", [(), ("another",)])
def test_a_module_that_is_not_allowed_is_not_imported(plugin, allowed):
    with pytest.raises(ConfigError) as error:
        load_plugins([plugin], allowed)
    assert (error.value.key, error.value.value) == (
        "plugins",
        plugin,
    ) and f"--allow-plugin={plugin}" in error.value.hint
    assert plugin not in sys.modules and "fork" not in registry("tool")


def test_a_module_that_cannot_be_imported_is_refused_with_the_reason():
    with pytest.raises(ConfigError) as error:
        load_plugins(["no_such_module_here"], ["no_such_module_here"])
    assert (error.value.key, error.value.value) == ("plugins", "no_such_module_here")
    assert "No module named 'no_such_module_here'" in error.value.hint
    assert isinstance(error.value.__cause__, ImportError)


def test_a_module_that_is_imported_already_needs_no_permission(monkeypatch):
    held = types.ModuleType("held_already")
    monkeypatch.setitem(sys.modules, "held_already", held)
    load_plugins(["held_already"])
    assert sys.modules["held_already"] is held
    monkeypatch.delitem(sys.modules, "held_already")
    with pytest.raises(ConfigError):
        load_plugins(["held_already"])


def test_installed_entry_points_are_imported_once_and_need_no_permission(plugin, installed):
    groups = installed(f"{plugin}:attribute")
    assert load_installed() == (plugin,) and plugin in sys.modules
    assert load_installed() == (plugin,) and groups == ["metapers.members"]
    load_plugins([plugin])
    assert "fork" in registry("tool")


def test_installed_entry_points_are_there_wherever_a_config_is_made(plugin, installed):
    installed(plugin)
    config_for("linear_gaussian", "linear")
    assert "fork" in registry("tool")


def test_an_installed_module_that_cannot_be_imported_is_refused_with_the_group(installed):
    installed("no_such_module_here")
    with pytest.raises(ConfigError) as error:
        load_installed()
    assert (error.value.key, error.value.value) == ("plugins", "no_such_module_here")
    assert "No module named" in error.value.hint and members.GROUP in error.value.hint


def test_without_entry_points_nothing_is_installed(installed):
    installed()
    assert load_installed() == ()


def test_the_plugin_of_a_member_is_the_module_that_registered_it(plugin):
    load_plugins([plugin], [plugin])
    assert plugin_of("tool", "fork") == plugin
    assert plugin_of("penalty", "anchor") is None
    assert plugin_of("rates", "lslr") is None and plugin_of("tool", "knife") is None
    register("tool", "bowl", Member(plate))
    assert plugin_of("tool", "bowl") == __name__
