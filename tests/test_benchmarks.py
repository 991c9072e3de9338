"""The benchmark compares like with like: metapers and the bare-JAX yardstick take the same outer steps."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import machine, ours, ours_adapt, speed, timing, workloads, yardstick
from metapers.base import Batch

pytestmark = pytest.mark.benchmarks

STEPS = 4
ROOT = pathlib.Path(__file__).resolve().parents[1]


def smaller(name: str, tasks: int, examples: int) -> workloads.Workload:
    work = workloads.make(name)
    data = jax.tree.map(lambda leaf: leaf[:tasks, :examples], work.data)
    return work._replace(tasks=tasks, data=data)


def losses(step, number: int = STEPS) -> np.ndarray:
    return np.array([step() for _ in range(number)])


@pytest.mark.parametrize(("name", "devices"), [("W1", 1), ("W3", 2)])  # as they are timed
def test_the_same_losses_as_bare_jax(name, devices):
    work = smaller(name, 6, 10)
    bare = losses(yardstick.stepper(work, devices=devices))
    assert bare[0] > 1.01 * bare[-1]  # something is learned, so equal losses mean equal gradients
    np.testing.assert_allclose(losses(ours.stepper(work, devices=devices)), bare, rtol=1e-11)


def test_the_same_losses_as_bare_jax_on_images():
    work = smaller("W2-5w1s", 2, 5)
    layers = [{name: leaf[..., :4] for name, leaf in layer.items()} for layer in work.layers[:-1]]
    layers = [layers[0], *({**layer, "w": layer["w"][:, :, :4]} for layer in layers[1:])]
    work = work._replace(layers=[*layers, {**work.layers[-1], "w": work.layers[-1]["w"][:4]}])
    bare = losses(yardstick.stepper(work, patches=True), 2)
    np.testing.assert_allclose(losses(ours.stepper(work), 2), bare, rtol=1e-9)


def test_second_order_and_five_steps_are_in_the_loss():
    # the yardstick's own loss, by hand: plain gradient steps of one task in a Python loop, then Adam's first move
    work = smaller("W1", 1, 10)
    data = jax.tree.map(lambda leaf: leaf[0], work.data)

    def loss(layers, x, y):
        return yardstick.squares(yardstick.mlp(layers, x), y)

    def adapted(layers, differentiable):
        for _ in range(5):
            slope = jax.grad(loss)(layers, data.support_x, data.support_y)
            slope = slope if differentiable else jax.lax.stop_gradient(slope)
            layers = jax.tree.map(lambda p, g: p - 0.01 * g, layers, slope)
        return loss(layers, data.query_x, data.query_y)

    value, slope = jax.value_and_grad(lambda layers: adapted(layers, True))(work.layers)
    first_order = jax.grad(lambda layers: adapted(layers, False))(work.layers)
    told, given = jax.value_and_grad(yardstick.mean_loss(work, yardstick.conv_lax, 1))((work.layers, None), work.data)
    np.testing.assert_allclose(told, value, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(given[0]), jax.tree.leaves(slope)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14)
    apart = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), slope, first_order)
    assert max(jax.tree.leaves(apart)) > 1e-5


def test_steps_in_the_training_scan_are_the_same_steps():
    work = smaller("W1", 4, 10)
    alone = losses(ours.stepper(work), 6)
    np.testing.assert_allclose(losses(ours.chunks(work, chunk=3), 2), alone[[2, 5]], rtol=1e-11)


def test_the_model_gets_every_parameter_of_the_workload():
    for name in workloads.NAMES:
        work = workloads.make(name)
        params, model = ours.params_of(work), ours.model_of(work)
        born = jax.eval_shape(model.init, jax.random.key(0))
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, born)
        task, mask = ours.tasks_of(work)
        assert isinstance(task.support, Batch) and bool(jnp.all(mask)) and bool(jnp.all(task.query.mask))


def test_another_workload_is_refused():
    with pytest.raises(ValueError, match="workload must be one of .*, got 'W9'"):
        workloads.make("W9")


def test_timing_counts_warm_steps_and_stops_by_the_clock(capsys):
    count = iter(range(10**9))
    measured = timing.timed(lambda: float(next(count)), began=0.0, steps=1000, max_s=0.0)
    assert (
        measured["steps_timed"] == 5 and measured["loss"] == 7.0 and measured["losses"] == [float(i) for i in range(8)]
    )
    timing.answer("W1", "someone", "1", 25, measured | {"ms_per_step": 5.0, "ms_min": 2.0})
    line = json.loads(capsys.readouterr().out)
    assert line["tasks_per_s"] == 5000 and line["tasks_per_s_best"] == 12500 and line["peak_rss_mb"] > 10


def test_a_quantile_is_one_of_the_values():
    values = [float(i) for i in range(200, 0, -1)]
    assert timing.quantile(values, 0.99) == 198.0  # 198 of 200 are at most this
    assert timing.quantile(values, 0.5) == 100.0 and timing.quantile([3.0], 0.99) == 3.0


def test_a_process_knows_its_age_and_its_own_memory():
    ages = timing.since_start(), timing.since_start()
    assert ages[0] is None or 0 < ages[0] <= ages[1]
    held = np.ones(30_000_000 // 8)
    most = timing.peak_mb()
    assert held.sum() > 0 and most > 30
    del held
    if timing.forget_peak():
        assert timing.peak_mb() < most
    assert timing.on_device(None) == {} and timing.on_device({"peak_bytes_in_use": 2**21}) == {"device_peak_mb": 2.0}


@pytest.mark.parametrize(("devices", "blocks"), [(1, 0), (2, 0), (2, 2)])
def test_adapting_alone_gives_the_same_users_as_bare_jax(devices, blocks, monkeypatch):
    work, given, each = smaller("W3", 6, 10), [], ours_adapt.adapting.each
    monkeypatch.setattr(ours_adapt.adapting, "each", lambda fn, **how: given.append(how) or each(fn, **how))
    step, proof = ours_adapt.everybody(work, devices=devices, blocks=blocks)
    assert [(how["block"], how["mesh"].size if how["mesh"] else 1) for how in given] == [(blocks, devices)]
    bare, told = yardstick.everybody(work, devices=devices)
    step(), bare()
    np.testing.assert_allclose(proof(), told(), rtol=1e-12)
    before = yardstick.mean_loss(work._replace(rate=0.0), yardstick.conv_lax, 1)((work.layers, work.table), work.data)
    assert abs(proof() - before) > 1e-3 * before  # the steps were taken


@pytest.mark.parametrize("path", [ours_adapt.TOGETHER, ours_adapt.CALLS])
def test_one_user_is_predicted_the_same_as_in_bare_jax(path):
    work = smaller("W3", 2, 10)
    told = yardstick.one_user(work)()
    np.testing.assert_allclose(ours_adapt.one_user(work, path)(), told, rtol=1e-12)
    assert abs(yardstick.one_user(work._replace(rate=0.0))() - told) > 1e-4  # an adapted user's prediction


def test_users_in_blocks_and_unrolled_steps_change_no_loss():
    work = smaller("W1", 5, 10)
    np.testing.assert_allclose(losses(ours.stepper(work, blocks=2, unroll=5)), losses(ours.stepper(work)), rtol=1e-12)


def test_a_user_that_fills_the_second_device_does_not_count():
    work = smaller("W1", 5, 10)
    np.testing.assert_allclose(losses(ours.stepper(work, devices=2)), losses(ours.stepper(work)), rtol=1e-12)


@pytest.mark.parametrize(
    ("told", "kept"), [("0123456789ab+changes", "0123456+changes"), ("0123456789ab", "0123456"), (None, "")]
)
def test_a_page_names_its_revision_and_whether_there_were_changes(told, kept, monkeypatch):
    monkeypatch.setattr(machine.lineage, "revision", lambda: told)
    assert machine.describe()["revision"] == kept


def test_the_work_of_other_processes_is_separated_from_our_own(monkeypatch):
    everybody, ours, clock = iter([100.0, 109.0]), iter([40.0, 44.0]), iter([7.0, 17.0])
    monkeypatch.setattr(machine, "busy_seconds", lambda: next(everybody))
    monkeypatch.setattr(machine, "child_seconds", lambda: next(ours))
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(clock))
    with machine.Others() as others:
        pass
    assert others.cores == 0.5  # nine seconds of work in ten, four of them ours


def test_the_work_of_ended_children_is_ours():
    before = machine.child_seconds(), machine.busy_seconds()
    burn = "import time; stop = time.process_time() + 0.3\nwhile time.process_time() < stop: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert machine.child_seconds() - before[0] >= 0.3
    if before[1]:  # where the system tells
        assert machine.busy_seconds() - before[1] >= 0.25


def test_a_failing_contender_is_named_with_its_own_words():
    given = speed.arguments(["--timeout", "5"])
    with pytest.raises(RuntimeError, match="(?s)ended with 3:.*broken"):
        speed.run([sys.executable, "-c", "import sys; print('broken', file=sys.stderr); sys.exit(3)"], given)
    with pytest.raises(RuntimeError, match="PATH -c pass did not end within 0 s"):
        speed.run([sys.executable, "-c", "pass"], speed.arguments(["--timeout", "0"]))


def test_a_contender_answers_with_one_line():
    command = [sys.executable, "-m", "benchmarks.ours", "-w", "W1", "--steps", "1", "--max-s", "0"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"JAX_ENABLE_X64": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["framework"] == "metapers" and line["steps_timed"] == 1 and len(line["losses"]) == 4
    assert line["losses"][0] == pytest.approx(0.14525855, rel=1e-5)  # the outside yardstick's first loss, float32
