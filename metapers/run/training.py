"""The whole of a training run: every arm over every period, saved, resumed and interrupted without loss."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from metapers import placement, store, users, workdir
from metapers.base import Tree
from metapers.journal import Journal, Meter, meter
from metapers.run import ahead, bank_rows, converge, lineage, programs, resume, setup, stepping
from metapers.run.programs import Run, Snapshot, check_memory
from metapers.run.resume import Interrupted, interruptions
from metapers.run.stepping import Standing
from metapers.scores import sign
from metapers.scoring import scorer as scoring
from metapers.spec import Components, Config, check, plain, unused
from metapers.spec.arms import Arm
from metapers.workdir import versions_of


def train(config: Config, folder: Path, *, compile_ahead: bool = False) -> None:
    """Trains all of ``config.arms`` (and the joint model) into ``folder``, or goes on where it was.

    ``compile_ahead``: a thread compiles what later arms need while earlier ones train. No number depends on it.

    Raises:
      ValueError: if the folder holds a run whose config or data differs in what can change a number.
      WorkdirInUse: if another process trains there.
      Diverged: if a loss became NaN or infinite; the last good state is kept.
      Interrupted: after Ctrl-C or SIGTERM, when all is saved.
    """
    config = check(config)
    folder = workdir.open_workdir(folder)
    began = time.monotonic()
    with workdir.lock(folder), lineage.compile_clock() as clock:
        operational = resume.check_compatible(config, folder)
        lineage.say_reading(config)
        components = setup.components(config)
        resume.same_data(components, folder)
        names, periods = list(components.arms), range(components.stream.periods)
        saved = [(arm, t) for arm in components.arms.values() for t in periods if arm.saves(t, len(periods))]
        total = sum(arm.steps(t) for arm, t in saved)
        with (
            Journal(folder, tensorboard=config.tensorboard) as journal,
            meter(total, title="train", shown=config.progress) as progress,
            interruptions() as asked,
            lineage.trace(config.profile),
        ):
            journal.event("start", config=plain(config), provenance=components.stream.provenance)
            for change in (*operational, *resume.another_machine(components, folder)):
                journal.say(f"resumed with another {change}")
            for note in unused(config):
                journal.say(f"note: {note}")
            run = prepare(components, folder, journal, progress, asked)
            for name in names:
                check_memory(run, name)  # compiles nothing, but refuses unknown members too
            resume.save_config(components, folder)
            progress.waiting("compiling")
            try:
                with ahead.compiling(run, _unfinished(folder, saved) if compile_ahead else ()) as ready:
                    for name in names:
                        ready(name)
                        learn_stream(run, name)
            finally:
                lineage.add_seconds(folder, "train", seconds=time.monotonic() - began, compile_seconds=clock())
            journal.event("end")


def _unfinished(folder: Path, saved: Sequence[tuple[Arm, int]]) -> list[str]:
    """The arms that still lack one of the versions ``saved``, in order."""
    found = [arm.name for arm, period in saved if period not in store.versions(versions_of(folder, arm.name))]
    return list(dict.fromkeys(found))


def prepare(components: Components, folder: Path, journal: Journal, progress: Meter, asked: Callable[[], int]) -> Run:
    """Keys, initial parameters and scorer of a run; programs are compiled when an arm first needs them."""
    config = components.config
    mesh = placement.training_mesh(config.seeds, components.devices)
    roots = placement.place(scoring.roots(components), mesh, by_seed=True)
    own = scoring.scorer(components)
    first = own.initial()
    if components.warm_start is not None:
        _, new = components.warm_start.begin(first)
        journal.say(f"parameters begin as in {config.start_from}; newly initialised: {', '.join(new) or 'none'}")
    init = placement.place(first, mesh, by_seed=True)
    return Run(components, folder, mesh, roots, init, {}, own, journal, progress, asked)


def learn_stream(run: Run, name: str) -> None:
    """One arm through all periods; periods that already have their version are left as they are."""
    arm, periods = run.components.arms[name], run.components.stream.periods
    done = store.versions(versions_of(run.folder, name))
    before: Snapshot | None = None
    for now in (now for now in range(periods) if arm.saves(now, periods)):
        if now in done:
            run.meter.advance(arm.steps(now), worked=False)
            before = None
        else:
            if run.asked():
                raise Interrupted(f"stopped by signal {run.asked()} before period {now} of {name}", run.asked())
            before = one_period(run, name, now, before or begin(run, name, now - 1 if done else -1))


def begin(run: Run, name: str, number: int) -> Snapshot:
    """What an arm starts a period from: its version ``number``, or the initialisation for -1."""
    learner, compiled, boundary = programs.program(run, name)
    data = compiled.data(run.components.arms[name].window(0))
    state = placement.place(compiled.init(run.init, data), run.mesh, by_seed=True)
    rows = len(run.components.stream.users) if run.components.config.bank else 1
    bank = jax.vmap(lambda params: users.empty(params, rows))(placement.host(run.init))
    fresh = Snapshot(learner.params(state), state, bank, run.keys, boundary.init())
    if number < 0:
        return fresh
    kept, _ = store.load_version(versions_of(run.folder, name), number, like=fresh)
    return kept


def one_period(run: Run, name: str, now: int, before: Snapshot) -> Snapshot:
    """One period of one arm: outer steps, consolidation, bank, validation, version."""
    arm, began = run.components.arms[name], time.monotonic()
    learner, spent = programs.program(run, name).learner, arm.spent(now)
    at = Standing(0, before.state, before.boundary, [])
    if arm.restarts:
        fresh = begin(run, name, -1)
        at = at._replace(state=fresh.state, boundary=fresh.boundary)
    if arm.budget == "converged":
        at, cycles = converged(run, name, now, at)
        at, _ = stepping.consolidated(run, name, now, at._replace(step=arm.steps(now)), {})
        spent = arm.spent(now, cycles * arm.config.outer_steps)
    elif arm.trains(now):
        at = stepping.outer_steps(run, name, now, stepping.resumed(run, name, now, at))
    state = at.state
    params = learner.params(state)
    bank = bank_rows.after(run.scorer, name, params, before.bank, now)
    kept = Snapshot(params, state, bank, run.keys, at.boundary)
    table, scores = run.scorer.validation(params, name, now)
    scoring.save(run.folder, table, "validation", name, now)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((kept.state, kept.bank)))
    spent |= {"state_bytes": size // run.components.config.seeds}
    parent, seconds = versions_of(run.folder, name), time.monotonic() - began
    story = lineage.of_version(run.components, name, now, scores, parent=parent, seconds=seconds, spent=spent)
    store.save_version(parent, now, kept, story)
    run.journal.say(f"{name} period {now + 1}/{run.components.stream.periods}: {scoring.sentence(scores)}")
    return kept


def converged(run: Run, name: str, now: int, begun: Standing) -> tuple[Standing, int]:
    """Where validation users were best, and the cycles of ``outer_steps`` until there (``run.converge``)."""
    arm, cycle = run.components.arms[name], run.components.config.outer_steps
    learner = programs.program(run, name).learner
    there = stepping.resumed(run, name, now, begun)

    def train(number: int, state: Tree, scores: list[float]) -> Tree:
        at = there if there.step > number * cycle else begun._replace(step=number * cycle, state=state)
        return stepping.outer_steps(run, name, now, at._replace(scores=scores), stop=(number + 1) * cycle).state

    def score(state: Tree) -> float:
        _, scores = run.scorer.validation(learner.params(state), name, now)
        held = [value for period, value in scores["adapted"].items() if period != "-1"]
        return sign(scores["metric"]) * float(np.mean(held))

    best = run.folder / "arms" / name / "best"
    state, cycles = converge.converge(best, arm.steps(now) // cycle, there.state, there.scores, train, score)
    return begun._replace(state=state), cycles
