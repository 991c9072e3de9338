"""What arms are trained with: matched user-tasks, counts by hand and in the lineage, training until it converges."""

import json

import numpy as np
import pytest

from metapers import spec, store
from metapers.evaluation.evaluate_run import evaluate_run
from metapers.report import report_of
from metapers.run import converge, resume, setup, stepping, training
from metapers.run.training import train
from metapers.workdir import versions_of
from tests import runs
from tests.test_training import Signalled

pytestmark = pytest.mark.xdist_group("quick runs")
ALL = ("frozen", "fine_tune", "cumulative", "upper_bound", "continual", "joint_model")
SMALL_MEMORY = {"memory.capacity": 5, "memory.replay_batch": 6, "memory.consolidation_batches": 1}


def arms(chosen=ALL, **changes):
    """Arms of 10 outer steps of 4 user-tasks in each period, with a memory of 5 that gets 4 after each."""
    few = {"outer_steps": 10, "meta_batch": 4, "inner.steps": 2, "arms": chosen}
    return spec.arms(spec.check(spec.merged(runs.small(), few | SMALL_MEMORY | runs.dotted(changes))))


@pytest.fixture
def compiled_once(monkeypatch):
    """Runs of the same numbers share the compiled programs of the first one."""
    runs.share_programs(monkeypatch)


# By hand


def test_the_matched_steps_of_a_memory_that_begins_empty_by_hand():
    made = arms()
    # continual: 4 new ones, and in period 1 the 4 that were inserted, in period 2 the 5 that fit
    assert [made["continual"].tasks_per_step(now) for now in range(4)] == [4, 8, 9, 9]
    assert [made["continual"].tasks(now) for now in range(3)] == [40, 80, 90]
    assert [made["continual"].steps(now) for now in range(3)] == [10, 10, 10]
    # it begins anew each time: 40, 120 and 210 user-tasks in cycles of 40
    assert [made["cumulative"].steps(now) for now in range(3)] == [10, 30, 60]
    assert [made["cumulative"].steps_before(now) for now in range(4)] == [0, 10, 40, 100]
    # it goes on: 40, 80 and 90 user-tasks in cycles of 40
    assert [made["joint_model"].steps(now) for now in range(3)] == [10, 20, 30]
    assert [made["frozen"].steps(now) for now in range(3)] == [10, 0, 0]
    assert [made["upper_bound"].saves(now, 3) for now in range(3)] == [False, False, True]
    assert all(made[name].saves(now, 3) for name in set(made) - {"upper_bound"} for now in range(3))


def test_what_is_replayed_is_at_most_the_replay_batch():
    made = arms(memory__replay_batch=2, memory__capacity=64)
    assert [made["continual"].tasks_per_step(now) for now in range(3)] == [4, 6, 6]


def test_an_arm_that_begins_anew_has_an_empty_memory_in_each_period():
    mine = arms({"continual": {}, "mine": {"trains_on": "so_far", "restarts": True}})["mine"]
    assert mine.remembers and [mine.tasks_per_step(now) for now in range(3)] == [4, 4, 4]
    assert mine.spent(2) == {"outer_steps": 10, "user_tasks": 40, "gradient_evaluations": 120}


def test_without_a_memory_matched_is_the_same_number_of_steps_in_all_periods_together():
    made = arms(("cumulative", "fine_tune"))
    assert [made["cumulative"].steps(now) for now in range(3)] == [10, 20, 30]
    assert [made["joint_model"].steps(now) for now in range(3)] == [10, 10, 10]
    alone = arms("cumulative")  # nobody to match
    assert alone["cumulative"].matches is None and [alone["cumulative"].steps(now) for now in range(3)] == [10, 10, 10]


@pytest.mark.parametrize("batch", [1, 3, 7, 50])
@pytest.mark.parametrize("capacity", [1, 9, 200])
def test_a_matched_arm_sees_at_least_the_leaders_user_tasks_and_less_than_a_cycle_more(batch, capacity):
    made = arms(memory__replay_batch=batch, memory__capacity=capacity, memory__consolidation_batches=3)
    for now in range(5):
        least = made["continual"].spent(now)["user_tasks"]
        anew = made["cumulative"].spent(now)
        assert least <= anew["user_tasks"] < least + 40 and anew["outer_steps"] % 10 == 0
        assert least <= made["joint_model"].spent(now)["user_tasks"] < least + 40 * (now + 1)


def test_what_was_spent_by_hand():
    made = arms()
    # MAML: an evaluation for each of 2 inner steps and one for the outer gradient; 40, 80 and 90 user-tasks
    assert made["continual"].spent(1) == {"outer_steps": 20, "user_tasks": 120, "gradient_evaluations": 360}
    assert made["continual"].spent(2) == {"outer_steps": 30, "user_tasks": 210, "gradient_evaluations": 630}
    # its last version alone has the steps of its last beginning
    assert made["cumulative"].spent(2) == {"outer_steps": 60, "user_tasks": 240, "gradient_evaluations": 720}
    # no inner loop: the outer gradient alone
    assert made["joint_model"].spent(1) == {"outer_steps": 30, "user_tasks": 120, "gradient_evaluations": 120}
    assert made["frozen"].spent(2) == {"outer_steps": 10, "user_tasks": 40, "gradient_evaluations": 120}
    assert made["upper_bound"].spent(2, 70) == {"outer_steps": 70, "user_tasks": 280, "gradient_evaluations": 840}


def test_a_closed_form_is_one_evaluation():
    given = {"inner": "closed_form", "model.head": "bayes", "arms": ("fine_tune",), "outer_steps": 10, "meta_batch": 4}
    made = spec.arms(spec.check(spec.merged(spec.config_for("sinusoid", "solved"), given)))
    assert made["fine_tune"].config.inner.steps > 1
    assert made["fine_tune"].spent(0) == {"outer_steps": 10, "user_tasks": 40, "gradient_evaluations": 80}


# What really happened


def test_the_lineage_tells_the_tasks_that_were_really_drawn(monkeypatch, tmp_path, compiled_once):
    by_step = {"sampler": "single_pass", "memory": {"insertion": "step"}}
    compared = {"frozen": {}, "cumulative": {}, "continual": {}, "by_step": by_step}
    config = runs.quick(arms=compared, data__periods=3, learner="joint")
    config = spec.merged(config, SMALL_MEMORY | {"bank": False})
    drawn: dict[tuple[str, int], int] = {}
    tell = stepping.report

    def report(run, name, now, told, done):
        fresh = done * config.meta_batch
        drawn[name, now] = drawn.get((name, now), 0) + fresh + int(told.infos.get("replayed", np.zeros(1)).sum())
        tell(run, name, now, told, done)

    monkeypatch.setattr(stepping, "report", report)
    train(config, tmp_path)
    made = setup.components(spec.check(config)).arms
    assert {name for name, _ in drawn} == {"frozen", "cumulative", "continual", "by_step"}
    assert all(made["by_step"].steps(now) == made["by_step"].passes[now] < config.outer_steps for now in range(3))
    for name, arm in made.items():
        for now in range(3):
            told = store.read_record(versions_of(tmp_path, name), now)["lineage"]
            since = now if arm.restarts else 0
            tasks = sum(drawn.get((name, one), 0) for one in range(since, now + 1))
            assert told["budget"]["user_tasks"] == tasks, (name, now)
            assert (told["version"], told["boundary"], told["seen_until"]) == (now, now, 0 if name == "frozen" else now)
            assert told["budget"]["state_bytes"] > 0
    assert drawn["continual", 2] > drawn["continual", 1] > drawn["continual", 0]


# Until it converges


def converged(tmp_path, scores, least, done=0):
    """The score of the state that is found, the cycles it took, and how many were trained."""
    trained = []

    def cycle(number, state, told):
        assert told == scores[:number]
        trained.append(number)
        return {"cycle": state["cycle"] + 1}

    state = {"cycle": np.full(2, done)}
    found, best = converge.converge(
        tmp_path, least, state, scores[:done], cycle, lambda state: scores[int(state["cycle"][0]) - 1]
    )
    return int(found["cycle"][0]), best, len(trained)


UP = [0.1, 0.2, 0.3]


def test_training_ends_after_cycles_without_an_improvement_and_keeps_the_best(tmp_path):
    assert converge.PATIENCE == 5
    assert converged(tmp_path, [*UP, 0.25, 0.3, 0.1, 0.2, 0.29, 9.0], 1) == (3, 3, 8)  # as good is no improvement


def test_training_does_not_end_before_the_least_number_of_cycles(tmp_path):
    assert converged(tmp_path / "a", [*UP, *[0.0] * 9, 9.0], 12) == (3, 3, 12)
    assert converged(tmp_path / "b", [*UP, *[0.0] * 8, 9.0, *[0.0] * 9], 12) == (12, 12, 17)


def test_training_ends_at_a_multiple_of_the_least_number(tmp_path):
    scores = [float(cycle) for cycle in range(40)]
    assert converge.MOST == 10 and converged(tmp_path, scores, 3) == (30, 30, 30)


def test_training_goes_on_after_the_cycles_that_are_done(tmp_path):
    scores = [*UP, *[0.0] * 5]
    assert converged(tmp_path, scores, 1) == (3, 3, 8)
    assert converged(tmp_path, scores, 1, done=5) == (3, 3, 3)  # the best was kept before
    assert converged(tmp_path, scores, 1, done=8) == (3, 3, 0)


def bound(**changes):
    """Cycles of 7 steps, saved after 3, 6, 9, ... or, in the second, where a cycle ends."""
    return runs.quick(arms=("upper_bound",), bank=False, learner="joint", **changes)


@pytest.fixture
def impatient(monkeypatch, compiled_once):
    """Training ends after two cycles without an improvement, and after 5 at most."""
    monkeypatch.setattr(converge, "PATIENCE", 2)
    monkeypatch.setattr(converge, "MOST", 5)


class Killed(BaseException):
    """What a process does not survive."""


def die_at(monkeypatch, number):
    """Kills the run in place of the upper bound's n-th checkpoint, counted from 0; those before are told."""
    save, saved = store.save_checkpoint, []

    def saving(folder, step, tree, meta):
        if folder.parent.name == "upper_bound":
            if len(saved) == number:
                raise Killed
            saved.append((folder.name, step))
        return save(folder, step, tree, meta)

    monkeypatch.setattr(store, "save_checkpoint", saving)
    return saved


@pytest.mark.parametrize("every", [3, 7])
def test_a_run_that_is_killed_ends_bit_for_bit_where_an_uninterrupted_one_does(every, monkeypatch, tmp_path, impatient):
    config = bound(checkpoint_every=every, data__periods=1)
    with monkeypatch.context() as patched:
        saved = die_at(patched, -1)
        train(config, tmp_path / "whole")
    whole = {name: one for name, one in runs.numbers(tmp_path / "whole").items() if name.startswith("upper_bound")}
    cycles = [step for name, step in saved if name == "best"]
    assert {name for name, _ in saved} == {"best", "checkpoints"} and len(cycles) >= 2
    steps = [step for name, step in saved if name == "checkpoints"]
    assert (np.array(steps) % 7 > 0).any() == (every == 3)  # saved in the middle of a cycle; or at its end
    told = store.read_record(versions_of(tmp_path / "whole", "upper_bound"), 0)["lineage"]
    assert told["budget"]["outer_steps"] == 7 * cycles[-1]
    for place in {*range(0, len(saved), 4), len(saved) - 2, len(saved) - 1} if every == 3 else {1, len(saved) - 1}:
        folder = tmp_path / str(place)
        with monkeypatch.context() as patched:
            before = die_at(patched, place)
            with pytest.raises(Killed):
                train(config, folder)
        with monkeypatch.context() as patched:
            after = die_at(patched, -1)
            train(config, folder)
        ours = {name: one for name, one in runs.numbers(folder).items() if name.startswith("upper_bound")}
        assert runs.same_bits(ours, whole) == [], saved[place]
        again = store.read_record(versions_of(folder, "upper_bound"), 0)["lineage"]
        assert again["budget"] == told["budget"] and again["scores"] == told["scores"]
        if any(name == "checkpoints" for name, _ in before):  # it went on there, not from its beginning
            resumed = max(step for name, step in before if name == "checkpoints")
            assert min((step for name, step in after if name == "checkpoints"), default=99) > resumed


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_run_that_is_stopped_goes_on_in_its_cycle(after, monkeypatch, tmp_path, impatient, capsys):
    train(bound(), tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(training, "interruptions", lambda: Signalled(after))
        with pytest.raises(resume.Interrupted):
            train(bound(), tmp_path / "cut")
    capsys.readouterr()
    train(bound(), tmp_path / "cut")
    assert f"upper_bound: resumed period 1 at step {(0, 3, 6, 7, 10)[after]} of 7" in capsys.readouterr().out
    assert runs.same_bits(runs.numbers(tmp_path / "cut"), runs.numbers(tmp_path / "whole")) == []


def test_the_upper_bound_is_evaluated_with_its_last_version_and_shown(tmp_path, impatient):
    train(runs.quick(arms=("fine_tune", "upper_bound", "continual")), tmp_path)
    assert store.versions(versions_of(tmp_path, "upper_bound")) == [1]
    said = []
    evaluate_run(tmp_path, say=said.append)
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["continual"]["upper_bound"].keys() == {"average"} == told["continual_at_start"]["upper_bound"].keys()
    assert told["continual"]["continual"].keys() > {"average", "past", "next", "forgetting_first"}
    assert "upper_bound" not in told["matrix"] and told["gap"]["to"].keys() == {"upper_bound"}
    periods = [row["upper_bound"] for row in told["periods"]]
    assert told["continual"]["upper_bound"]["average"] == pytest.approx(-np.mean(periods))
    budget = store.read_record(versions_of(tmp_path, "upper_bound"), 1)["lineage"]["budget"]
    assert {key: told["budget"]["upper_bound"][key] for key in budget} == budget
    row = next(line for line in said[0].splitlines() if line.startswith("upper_bound ") and "[" not in line)
    assert f"{budget['user_tasks']:,}" in row and f"{budget['gradient_evaluations']:,}" in row
    page = report_of(tmp_path).read_text()
    table = page[page.index("trained with") :]
    assert ">upper_bound<" in table and f"{budget['state_bytes']:,}" in table
    assert "trained on all periods until validation users stop improving" in page
