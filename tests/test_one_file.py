"""A new member is one file in another package: each kind is chosen, trained, killed, resumed, evaluated and listed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metapers import inner, members, spec, store
from metapers.spec import building, inner_loops
from tests import runs
from tests.plug_ins import FILES, KINDS, SERVER, Commands, package, registered

PAGE = runs.ROOT / "docs" / "adding_members.md"
together = pytest.mark.xdist_group("one file")  # they share a server of commands


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    folder = package(tmp_path_factory.mktemp("commands"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        server = runs.child("-c", SERVER, stdin=subprocess.PIPE, stderr=None)
    with server:
        yield Commands(server, folder)


DATA = {"periods": 2, "users_per_period": 24, "examples": 8, "support": 4, "query": 4}
TINY = {
    "arms": ("continual",),
    "outer_steps": 6,
    "chunk": 2,
    "meta_batch": 4,
    "checkpoint_every": 2,
    "validate_every": 6,
    "log_every": 6,
    "seeds": 1,
    "devices": 1,
    "progress": False,
    "tensorboard": False,
    "memory": "none",
    "evaluation.shots": (4,),
    "evaluation.steps": (0, 1),
    "evaluation.headline_shots": 4,
    "evaluation.headline_steps": 1,
    "evaluation.bootstrap": 100,
}
TOGETHER = (("penalty", "memory", "model", "baseline"), ("learner", "inner_loop", "source"))
"""Kinds whose members share a run: each is chosen, trained, killed, resumed and evaluated."""
SECTIONS = {"penalty": "penalties", "inner_loop": "inner", "source": "data"}
MORE = {"learner": {"inner.rates": "constant"}}  # what this member asks of the others
JOINT = {"learner": "joint", "bank": False}  # half of the compilation, where the learner does not matter
QUICKER = TOGETHER[0]


def chosen(kind: str) -> dict[str, Any]:
    """The keys of a config that choose the member of a file, with the options of its example."""
    if kind == "baseline":
        return {}  # every baseline that fits the data is in the tables
    one, section = registered(kind), SECTIONS.get(kind, kind)
    place = f"{section}.{one.name}" if kind == "penalty" else section
    return {section: one.name} | {f"{place}.{key}": value for key, value in one.member.example.items()}


def words(*kinds: str) -> list[str]:
    """The words of a command line that shrink a run and choose the members of files."""
    given = TINY | ({} if "source" in kinds else {f"data.{key}": value for key, value in DATA.items()})
    given |= JOINT if set(kinds) <= set(QUICKER) else {}
    for kind in kinds:
        given |= ({} if "inner_loop" in kinds else MORE.get(kind, {})) | chosen(kind)
    return [f"--config.{key}={value}" for key, value in given.items()]


def train(kinds: tuple[str, ...], folder: Path) -> list[str]:
    """The command that trains with the members of files."""
    start = ["train.py", "--config=configs/synthetic.py", f"--workdir={folder}"]
    return [*start, f"--config.plugins={','.join(plugins(kinds))}", *words(*kinds)]


def plugins(kinds: tuple[str, ...]) -> list[str]:
    """The modules of the members."""
    return [f"acme.{kind}" for kind in kinds]


def killed(commands: Commands, kinds: tuple[str, ...], folder: Path) -> bool:
    """Whether a training was killed after its first checkpoint and before its end."""
    process, until = commands.begin(*train(kinds, folder)), time.monotonic() + 300
    while not list((folder / "arms" / "continual" / "checkpoints").glob("[0-9]*")):
        os.kill(process, 0)  # it still runs
        assert time.monotonic() < until
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return commands.end()[0] == -signal.SIGKILL


@pytest.mark.parametrize("kinds", TOGETHER, ids=" ".join)
@together
def test_a_member_of_another_package_is_trained_killed_resumed_and_evaluated(kinds, commands, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, _, err = commands(*train(kinds, whole))
    assert code == 0, err
    assert killed(commands, kinds, cut)
    code, out, err = commands(*train(kinds, cut))
    assert code == 0, err
    assert "continual: resumed period 0 at step " in out
    found = runs.numbers(cut)
    assert runs.same_bits(found, runs.numbers(whole)) == []
    assert json.loads((cut / "config.json").read_text())["plugins"] == plugins(kinds)
    lineage = store.read_record(cut / "arms" / "continual" / "versions")["lineage"]
    assert lineage["plugins"] == plugins(kinds)
    last = {name.removeprefix("continual/1/"): leaf[0] for name, leaf in found.items() if "continual/1/" in name}
    for kind in kinds:
        if kind in LEFT:
            LEFT[kind](last)
    evaluated(kinds, commands, cut)


def test_every_kind_has_a_run():
    assert sorted(kind for kinds in TOGETHER for kind in kinds) == sorted(KINDS)


def evaluated(kinds: tuple[str, ...], commands: Commands, folder: Path) -> None:
    """Evaluates a run, once the caller allows its plug-ins."""
    allowed = [f"--allow-plugin={name}" for name in plugins(kinds)]
    for place, name in enumerate(plugins(kinds)):
        code, _, err = commands("eval.py", f"--workdir={folder}", *(allowed[:place] + allowed[place + 1 :]))
        assert code == 1 and err.splitlines()[0] == REFUSED.format(name)
    code, out, err = commands("eval.py", f"--workdir={folder}", *allowed)
    assert code == 0, err
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["headline"]["adapted"]["mean"] > 0 and "continual, adapted " in out
    assert ("user_median" in summary["headline"]["baselines"]) == ("baseline" in kinds)
    if "baseline" in kinds:
        row = summary["headline"]["baselines"]["user_median"]
        assert row["low"] <= row["mean"] <= row["high"]
        assert re.search(rf"^user_median +{row['mean']:.4f} ", out, re.MULTILINE)
    assert summary["provenance"]["source"] == ("square_wave" if "source" in kinds else "synthetic.linear_gaussian")


REFUSED = "error: plugins must be installed or allowed, got {0!r}; --allow-plugin={0} imports it"


def of_penalty(last: dict[str, np.ndarray]) -> None:
    """The anchor is where the period ended, and the state carries the strength."""
    (where,) = (name.removesuffix("values/strength") for name in last if name.endswith("/penalty/values/strength"))
    assert last[f"{where}values/strength"] == np.float32(0.1) and last[f"{where}state/active"]
    anchor = {name: leaf for name, leaf in last.items() if name.startswith(f"{where}state/anchor/")}
    trained = [name for name in last if name.startswith(("params/shared/", "params/personal/"))]
    assert len(anchor) == len(trained) > 1
    for name, leaf in anchor.items():
        np.testing.assert_array_equal(leaf, last[name.replace(f"{where}state/anchor", "params")])


def of_memory(last: dict[str, np.ndarray]) -> None:
    """Two batches of four tasks of each period, in order."""
    assert last["state/memory/items/notes/period"].tolist() == [0] * 8 + [1] * 8
    np.testing.assert_array_equal(last["state/memory/users"], last["state/memory/items/user"])
    assert last["state/memory/place"] == 0


def of_inner_loop(last: dict[str, np.ndarray]) -> None:
    """The bank keeps users after one step, as the headline is evaluated: 0.05 from the start."""
    here = last["bank/period"] == 1
    moved = np.linalg.norm(last["bank/personal/weights"][here] - last["params/personal/weights"], axis=-1)
    assert here.sum() > 10
    np.testing.assert_allclose(moved, 0.05, rtol=1e-4)


def of_learner(last: dict[str, np.ndarray]) -> None:
    """The outer step moved shared and personal parameters."""
    shared = last["params/shared/map"]
    assert np.abs(shared - np.eye(len(shared))).max() > 0 and np.abs(last["params/personal/weights"]).max() > 0


def of_model(last: dict[str, np.ndarray]) -> None:
    """The scale is shared and trained."""
    assert last["params/shared/scale"].shape == (12,) and (last["params/shared/scale"] != 1).all()
    assert set(name for name in last if name.startswith("params/personal/")) == {
        "params/personal/weights",
        "params/personal/bias",
    }


LEFT = {
    "penalty": of_penalty,
    "memory": of_memory,
    "inner_loop": of_inner_loop,
    "learner": of_learner,
    "model": of_model,
}
"""What a member leaves in the last version, by the kind of the member."""


@together
def test_the_reference_has_a_section_with_the_options(commands):
    code, out, err = commands("metapers", "list", "--markdown", *(f"--plugin={name}" for name in plugins(KINDS)))
    assert code == 0, err
    code, without, _ = commands("metapers", "list", "--markdown")
    assert code == 0
    for kind in KINDS:
        one = registered(kind)
        section = re.search(rf"^### {kind} `{one.name}`\n(.*?)(?=^##)", out + "\n##", re.DOTALL | re.MULTILINE)
        assert section is not None, kind
        assert one.member.doc[1:] in section[1] and one.member.paper in section[1]
        for name, option in one.member.options.items():
            assert f"| `{name}` | {option.bound()}" in section[1] and option.doc in section[1]
        assert f"`{one.name}`" not in without


CHOICE = """
from metapers import spec

def get_config():
    config = spec.config_for("linear_gaussian", "linear")
    config.plugins = ("acme.penalty",)
    spec.choose(config, "penalties", {"l1": {"strength": 0.1}})
    return config
"""


@together
def test_a_plug_in_that_only_a_config_file_names_is_not_imported_unless_the_caller_allows_it(commands, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CHOICE)
    line = REFUSED.format("acme.penalty").replace("error: ", f"error: --config={path} cannot be used: ")
    for command in (["train.py", f"--workdir={tmp_path / 'run'}"], ["metapers", "inspect-config"]):
        code, out, err = commands(*command, f"--config={path}")
        assert code == 2 and not out and err.splitlines()[0] == line
    assert not (tmp_path / "run").exists()
    code, out, err = commands("metapers", "inspect-config", f"--config={path}", "--allow-plugin=acme.penalty")
    assert code == 0, err
    assert "penalties.l1.strength = 0.1\n" in out and "plugins = ('acme.penalty',)\n" in out


@together
def test_a_plug_in_that_cannot_be_imported_is_named(commands):
    code, _, err = commands("metapers", "inspect-config", "--config=synthetic", "--config.plugins=acme.missing")
    assert code == 2 and err.splitlines()[0] == (
        "error: plugins must be a module that can be imported, got 'acme.missing'; No module named 'acme.missing'"
    )


@together
def test_an_installed_plug_in_needs_no_permission(commands, tmp_path):
    info = package(tmp_path) / "acme-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[metapers.members]\nmedian = acme.baseline\nl1 = acme.penalty\n")
    given = ["--config=synthetic", "--config.penalties=l1", "--config.penalties.l1.strength=0.1"]
    code, out, err = commands("metapers", "inspect-config", *given, path=[str(tmp_path)])
    assert code == 0 and "\npenalties.l1.strength = 0.1\nplugins = ('acme.penalty',)\n" in out, err
    code, out, err = commands("metapers", "list", "--markdown", path=[str(tmp_path)])
    assert code == 0 and "\n### baseline `user_median`\n" in out, err


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="penalty 'anchor' is taken; register the member under another name"):
        members.register("penalty", "anchor", registered("penalty").member)


# The page


def test_the_page_shows_exactly_the_files():
    shown = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```\n", PAGE.read_text(), re.DOTALL))
    assert shown == {f"acme/{kind}.py": (FILES / f"{kind}.py").read_text() for kind in KINDS}


def test_the_page_lists_what_each_kind_may_need(monkeypatch):
    config = spec.config_for("linear_gaussian", "linear")
    model = building.model(config, {"width": 2})
    builders = {
        "penalty": lambda: building.penalty(config, model, inner.none()),
        "memory": lambda: building.memory(config),
        "inner_loop": lambda: inner_loops.inner_loop(config, model),
        "learner": lambda: building.learner(config, model, None),
        "model": lambda: building.model(config, {"width": 2}),
        "source": lambda: building.stream(config),
    }
    spec.choose(config, "penalties", {"anchor": {"strength": 1.0}})
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|\n]*\|([^|\n]*)\|", PAGE.read_text(), re.MULTILINE))
    for kind, make in builders.items():
        section = config["penalties"] if kind == "penalty" else config[SECTIONS.get(kind, kind)]
        name = "anchor" if kind == "penalty" else section.name
        member = members.registry(kind)[name]
        monkeypatch.setitem(members.registry(kind)._members, name, member._replace(needs=("nothing",)))
        with pytest.raises(LookupError) as refused:
            make()
        monkeypatch.setitem(members.registry(kind)._members, name, member)
        provided = re.findall(r"'(\w+)'", str(refused.value).partition("provides")[2])
        assert sorted(re.findall(r"`(\w+)`", rows[kind])) == provided, kind
