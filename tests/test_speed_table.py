"""The speed table: how many products a step has, what is made of the rounds, and what is kept when it breaks off."""

import importlib
import json
import math
from types import SimpleNamespace

import jax
import pytest

from benchmarks import contenders, leads, products, speed, speed_table, workloads, yardstick
from benchmarks.contenders import CASES
from metapers.inner import once

pytestmark = pytest.mark.benchmarks

LINE = {"ms_per_step": 1.0, "cpu_ms_per_step": 1.0, "first_step_s": 1.0, "peak_rss_mb": 1000.0, "others": 0.1}


def summary(name, speeds, ours, **more):
    return speed_table.summary(name, [LINE | {"tasks_per_s": speed} | more for speed in speeds], ours)


def counted(jaxpr, times=1):
    """Multiplications and additions of all matrix products in a traced program, loops unrolled."""
    total = 0
    for equation in jaxpr.eqns:
        turns = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            sizes = equation.invars[0].aval.shape
            total += 2 * turns * math.prod(equation.outvars[0].aval.shape) * math.prod(sizes[i] for i in contracted)
        inside = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        total += sum(counted(part, turns) for part in inside if hasattr(part, "eqns"))
    return total


@pytest.mark.parametrize(("name", "told"), [("W2-5w1s", 1.27e9), ("W2-20w1s", 5.1e9)])
def test_the_products_of_a_step_are_those_of_the_program(name, told):
    work = workloads.make(name)
    data = jax.tree.map(lambda leaf: leaf[:1], work.data)
    slope = jax.grad(yardstick.mean_loss(work, yardstick.conv_patches, 1))
    assert products.flop_per_task(name) == counted(jax.make_jaxpr(slope)((work.layers, None), data).jaxpr)
    forward = sum(product.flop for product in products.of_task(name) if product.kind == "forward")
    assert 48 * forward == pytest.approx(told, rel=0.005)  # with the gradient of the images, which nobody needs
    assert 0.97 < products.flop_per_task(name) / (48 * forward) < 0.98


def test_the_rate_of_the_products_is_between_the_slowest_and_the_fastest(monkeypatch):
    monkeypatch.setattr(products, "TASKS", {"W2-5w1s": 2})
    monkeypatch.setattr(products, "LARGE", 64)
    told = products.rates("W2-5w1s", devices=2, repeats=3, max_s=0.0)
    assert 0 < min(told["products"].values()) <= told["gflop_per_s"] <= told["fastest"] and told["large"] > 0
    assert len(told["products"]) == 11  # three kinds of four convolutions, but no gradient of the images


def test_compiled_programs_lie_on_disk_only_where_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    assert not any(name.startswith("JAX_") and "CACHE" in name for name in contenders.environment("gpu"))
    kept = contenders.environment("gpu", programs="there")
    assert kept["JAX_COMPILATION_CACHE_DIR"] == "there" and kept.items() >= contenders.EVERY_PROGRAM.items()
    assert kept["JAX_PLATFORMS"] == "cuda,cpu" and kept["JAX_ENABLE_X64"] == "0"
    assert speed.arguments(["--programs", "there"]).programs == "there" and speed.arguments([]).programs is None


def test_ratios_are_of_one_round():
    row = summary("yardstick", [100.0, 400.0, 200.0], [100.0, 100.0, 190.0])
    assert row["ratio"] == 0.95 and row["ratio_low"] == 0.25 and row["ratio_high"] == 1.0
    assert row["ratio_of_best"] == 190 / 400 and row["tasks_per_s"] == 200.0 and row["ms_p99"] is None


def test_goals_and_verdicts():
    ours, theirs = summary("metapers", [100.0], [100.0]), summary("torch.func", [20.0], [100.0])
    (line,) = speed_table.goals("W1", [ours, theirs], 2)
    assert line == "- at least 8 x torch.func: 5.00, MISSED"
    (line,) = speed_table.goals("W1", [ours, theirs | {"ratio_high": 8.1}], 2)
    assert line == "- at least 8 x torch.func: 5.00, missed, met in some rounds"
    (line,) = speed_table.goals("W1", [ours, theirs | {"ratio": 8.0}], 2)
    assert line == "- at least 8 x torch.func: 8.00, met"
    (line,) = speed_table.goals("W1", [ours | {"others": 0.3}, theirs | {"ratio": 8.0}], 2)
    assert line.endswith("not judged: the machine was busy with other work")
    (line,) = speed_table.goals("W1", [ours | {"others": 0.3}, theirs | {"ratio": 8.0}], 16)
    assert line.endswith("met")
    scan = summary(contenders.SCAN, [150.0], [100.0])
    assert speed_table.goals("W1", [ours, theirs, scan], 2)[0].endswith("MISSED; 7.50 in the training scan")
    assert [line.split(", ")[-1] for line in speed_table.goals("one-user", [ours | {"ms_p99": 3.5}], 2)] == [
        "met",
        "MISSED",
    ]
    heavy = summary("torch.func", [100.0], [100.0], peak_rss_mb=2000.0)
    kept = speed_table.goals("W2-5w1s", [ours | {"first_step_s": 3.0}], 2, programs=True)
    assert kept == ["- first step, compiled: not judged, the program lay on disk"]
    disk = summary(contenders.ON_DISK, [1.0], [100.0], first_step_s=7.0)
    lines = speed_table.goals("W2-5w1s", [ours, heavy, disk], 2)
    assert [line.split(", ")[-1] for line in lines] == ["MISSED", "met", "MISSED", "met"]
    on = [ours | {"device_peak_mb": 20.0}, heavy | {"device_peak_mb": 10.0}]
    assert (
        speed_table.goals("W2-5w1s", on, 2)[-1]
        == "- peak memory on the device, MB (torch.func's): at most 10: 20, MISSED"
    )


def test_a_table_has_every_contender_and_dashes_for_what_is_not_known():
    rows = [summary("metapers", [2000.0], [2000.0]), {"name": "higher", "error": "no", "runs": []}]
    rows.append(summary(contenders.ON_DISK, [1.0], [2000.0], start_s=2.0))
    title, line, *body = speed_table.table(rows)
    cells = [row.split(" | ") for row in (title, *body)]
    assert len({len(row) for row in cells}) == 1 and title.count("|") == line.count("|")
    assert body[0].startswith("| metapers | 2000 (2000–2000) | 1.00 (1.00–1.00) | 1.00 | 1 | 1 | 1 | – | 1000 |")
    assert body[1].startswith("| higher | failed | – |") and body[2].count("–") == 5


def test_every_case_has_goals_a_title_and_commands_that_run_in_the_project(tmp_path):
    assert set(speed_table.GOALS) == set(CASES)
    given = speed.arguments(["--reference", "own", "--peers-script", "peer.py"])
    for case in CASES.values():
        found = contenders.every(case, given, "python-of-peers", tmp_path)
        names = [contender.name for contender in found]
        assert names[:2] == ["metapers", "yardstick"] and len(set(names)) == len(names)
        assert set(speed_table.GOALS[list(CASES)[list(CASES.values()).index(case)]]) <= set(names)
    gpu = speed.arguments(["--device", "gpu", "--reference", "own"])
    assert contenders.ours(CASES["W2-5w1s"], gpu)[-2:] == ["--unroll", "5"]
    assert not {"--devices", "--blocks", "2"} & set(
        contenders.ours(CASES["W3"], gpu) + contenders.bare(CASES["W3"], gpu, "own")
    )
    assert "--conv" in contenders.bare(CASES["W2-5w1s"], gpu, "own")


def test_what_was_timed_is_kept_when_a_later_round_breaks_off(tmp_path, monkeypatch):
    calls = []

    def answer(command, given, bits=32, more=None):
        calls.append(command)
        if command[:2] == contenders.ours(CASES["W1"], given)[:2] and len(calls) > 7:
            raise RuntimeError("gone")
        if "-f" in command:
            raise RuntimeError("no such peer")
        return LINE | {"tasks_per_s": 100.0}

    monkeypatch.setattr(speed, "run", answer)
    monkeypatch.setattr("sys.argv", ["speed.py", "--workloads", "W1", "--rounds", "3", "--no-proof"])
    given = ["--workloads", "W1", "--rounds", "3", "--no-proof", "--out", str(tmp_path), "--reference", "own"]
    plain = speed.arguments([*given, "--peers-python", "/peers", "--peers-script", "peer.py", "--peers", "higher"])
    monkeypatch.setattr(speed, "arguments", lambda: plain)
    monkeypatch.setattr(speed, "about", lambda *_: told())
    with pytest.raises(RuntimeError, match="gone"):
        speed.main()
    kept = json.loads((tmp_path / "speed_cpu.json").read_text())
    rows = {row["name"]: row for row in kept["workloads"]["W1"]["contenders"]}
    assert kept["programs"] is False and kept["rounds_done"] == 2 and len(rows["metapers"]["runs"]) == 2
    assert rows["higher"]["error"] == "no such peer" and len(rows["higher"]["runs"]) == 1  # not tried again
    page = (tmp_path / "speed_cpu.md").read_text()
    assert "**Unfinished: 2 of 3 rounds are complete.**" in page and "| higher | failed |" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed_cpu.json", "speed_cpu.md"]


def test_a_page_of_programs_that_lay_on_disk_judges_no_compile_time():
    row = summary("metapers", [100.0], [100.0])
    workloads = {"W2-5w1s": {"agreement": [], "contenders": [row]}}
    page = {"machine": told(), "command": "c", "rounds": 1, "rounds_done": 1, "workloads": workloads}
    assert "first step, compiled, s: at most 20: 1, met" in speed_table.report(page)  # kept before there was a choice
    assert "first step, compiled: not judged" in speed_table.report(page | {"programs": True})


def test_a_run_finds_its_programs_where_they_are_kept(monkeypatch):
    seen = {}

    def ended(command, env, **_):
        seen.update(env)
        return SimpleNamespace(returncode=0, stdout='{"loss": 1.0}\n')

    monkeypatch.setattr(speed.subprocess, "run", ended)
    assert speed.run(["true"], speed.arguments(["--programs", "there"])) == {"loss": 1.0}
    assert seen["JAX_COMPILATION_CACHE_DIR"] == "there"


def told():
    words = {"revision": "abc", "date": "2026-01-01", "processor": "P", "system": "S", "python": "3", "device": "cpu"}
    return words | {"cores": 2, "packages": {"jax": "0"}}


def test_equal_losses_are_of_every_step_and_five_decimals_are_forgiven():
    mine = {"losses": [1.0, 0.5], "loss": 0.5}
    row = speed.compared(mine, {"losses": [1.0, 0.5001], "loss": 0.5001}, True)
    assert row["difference"] == pytest.approx(2e-4, rel=1e-3) and not row["agrees"]
    assert speed.compared(mine, {"losses": [1.0, 0.5001], "loss": 0.5001}, False)["agrees"]  # told only
    assert speed.compared(mine | {"loss": 0.500004}, {"loss": 0.5}, True)["agrees"]


def test_a_lead_changes_one_thing_of_the_step_as_it_is():
    as_is = leads.command("W2-5w1s", leads.AS_IS)
    for lead in leads.LEADS["W2-5w1s"]:
        flags = leads.command("W2-5w1s", lead)
        assert lead in (leads.AS_IS, leads.BARE) or flags not in (as_is, leads.command("W2-5w1s", leads.BARE))
    assert as_is[-6:] == ["--devices", "2", "--unroll", "5", "--blocks", "2"]
    assert leads.command("W2-5w1s", leads.ONE_DEVICE)[-4:] == ["--unroll", "5", "--blocks", "2"]
    assert leads.command("W2-5w1s", leads.blocks(8)[0])[-6:] == ["--devices", "2", "--unroll", "5", "--blocks", "8"]


@pytest.mark.parametrize("name", list(leads.LEADS))
def test_every_lead_is_a_command_that_its_script_takes(name):
    for lead in leads.LEADS[name]:
        python, m, script, *flags = leads.command(name, lead)
        assert importlib.import_module(script).arguments(flags).workload == contenders.CASES[name].workload


def test_a_lead_is_run_and_told():
    told = leads.once("W1", leads.AS_IS, leads.arguments(["--steps", "2", "--max-s", "0.1"]))
    assert told["tasks_per_s"] > 0 and set(told) == {"tasks_per_s", "first_step_s", "peak_rss_mb", "others"}


def test_what_the_lead_repeats_is_what_the_inner_loops_compute_once():
    module = importlib.import_module("metapers.inner.support_loss")
    assert module.cut is once.cut  # the name that ours.py --repeated puts something else in place of
    assert "--repeated" in leads.command("W3", leads.REPEATED)


def test_the_table_of_leads_holds_each_against_its_own_step_as_it_is():
    runs = {lead.name: [LINE | {"tasks_per_s": 50.0}, LINE | {"tasks_per_s": 30.0}] for lead in leads.LEADS["W1"]}
    runs[leads.AS_IS.name] = [LINE | {"tasks_per_s": 100.0}, LINE | {"tasks_per_s": 60.0}]
    told = {"packages": {"jax": "1"}, "revision": "r", "date": "d", "cores": 2, "processor": "p"}
    text = leads.report({"command": "c", "machine": told, "workloads": {"W1": runs}})
    assert "| inner steps not unrolled | 40 (30–50) | 0.50 | 1 | 1000 | 0.10 |" in text
    assert "| bare JAX, as it is | 40 (30–50) | 1.00 | 1 | 1000 | 0.10 |" in text
