"""The whole of a training run: every arm over every period, saved, resumed and interrupted without loss."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from metapers import placement, store, users, workdir
from metapers.base import Array, Learner, Params, Tree
from metapers.journal import Journal, Meter, meter
from metapers.options import ConfigError
from metapers.run import bank_rows, converge, lineage, loop, resume, setup
from metapers.run.resume import Interrupted, interruptions
from metapers.scores import sign
from metapers.scoring import scorer as scoring
from metapers.scoring.scorer import Scorer
from metapers.spec import Components, Config, check, plain, unused
from metapers.spec.building import learner as build_learner
from metapers.users import Bank
from metapers.workdir import versions_of


class Snapshot(NamedTuple):
    """All arrays of a version, each with a leading seed axis."""

    params: Params  # what is judged and served
    state: Tree  # the whole of the learner
    bank: Bank
    keys: Array


class Run(NamedTuple):
    """What every arm of a run has in common; built once."""

    components: Components
    folder: Path
    mesh: Mesh | None
    keys: Array  # [seeds], root keys
    init: Params  # [seeds, ...], the initialisation that all arms share
    programs: dict[str, tuple[Learner, loop.Program]]  # by name of the arm
    scorer: Scorer
    journal: Journal
    meter: Meter
    asked: Callable[[], int]  # the signal that asked to stop, or 0


def train(config: Config, folder: Path) -> None:
    """Trains all of ``config.arms`` (and the joint model) into ``folder``, or goes on where it was.

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
                for name in names:
                    learn_stream(run, name)
            finally:
                lineage.add_seconds(folder, "train", seconds=time.monotonic() - began, compile_seconds=clock())
            journal.event("end")


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


def program(run: Run, name: str) -> tuple[Learner, loop.Program]:
    """The learner of an arm and its compiled steps. Arms of one structure share them, but for what begins the state."""
    arm, arms = run.components.arms[name], run.components.arms
    if name not in run.programs:
        alike = [other for other in run.programs if arms[other].structure == arm.structure]
        equal = [other for other in alike if arms[other].config == arm.config]
        run.programs[name] = run.programs[equal[0]] if equal else _built(run, name, *alike[:1])
    return run.programs[name]


def _built(run: Run, name: str, like: str | None = None) -> tuple[Learner, loop.Program]:
    """The learner and the program of an arm, its compiled steps those of the arm ``like``."""
    config = run.components.config
    learner = build_learner(run.components.arms[name].config, run.components.model, run.mesh)
    compiled = loop.program(
        learner,
        run.components.stream.family,
        users=config.meta_batch,
        chunk=min(config.chunk, config.outer_steps),
        mesh=run.mesh,
    )
    return learner, compiled if like is None else run.programs[like][1]._replace(init=compiled.init)


def check_memory(run: Run, name: str) -> None:
    """Refuses with a ValueError an arm whose state the machine cannot hold: before any is trained."""
    arm, (_, compiled) = run.components.arms[name], program(run, name)
    state = jax.eval_shape(compiled.init, run.init, placed(run, arm.window(0)))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    there = lineage.memory(run.components.devices)
    if size > there:
        memory = arm.config.memory
        smaller = f", memory.capacity ({memory.capacity})" if "capacity" in memory else ""
        raise ConfigError(
            f"arms: the state of {name!r}",
            f"{size / 1e9:,.0f} GB",
            f"at most {there / 1e9:,.0f} GB, the memory of the machine",
            f"lower seeds ({run.components.config.seeds}){smaller} or the size of the model",
        )


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
    learner, compiled = program(run, name)
    data = placed(run, run.components.arms[name].window(0))
    state = placement.place(compiled.init(run.init, data), run.mesh, by_seed=True)
    rows = len(run.components.stream.users) if run.components.config.bank else 1
    bank = jax.vmap(lambda params: users.empty(params, rows))(placement.host(run.init))
    fresh = Snapshot(learner.params(state), state, bank, run.keys)
    if number < 0:
        return fresh
    kept, _ = store.load_version(versions_of(run.folder, name), number, like=fresh)
    return kept


def one_period(run: Run, name: str, now: int, before: Snapshot) -> Snapshot:
    """One period of one arm: outer steps, consolidation, bank, validation, version."""
    arm, began = run.components.arms[name], time.monotonic()
    learner, compiled = program(run, name)
    state, spent = before.state, arm.spent(now)
    if arm.restarts:
        state = begin(run, name, -1).state
    if arm.budget == "converged":
        state, cycles = converged(run, name, now, state)
        spent = arm.spent(now, cycles * arm.config.outer_steps)
    elif arm.trains(now):
        state = outer_steps(run, name, now, resumed(run, name, now, state))
    if arm.trains(now) and arm.remembers:
        after = placement.place(np.int32(arm.steps_before(now + 1)), run.mesh, by_seed=False)
        state = compiled.consolidate(state, run.keys, placed(run, (now, now)), after)
    params = learner.params(state)
    bank = bank_rows.after(run.scorer, name, params, before.bank, now)
    kept = Snapshot(params, state, bank, run.keys)
    table, scores = run.scorer.validation(params, name, now)
    scoring.save(run.folder, table, "validation", name, now)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((kept.state, kept.bank)))
    spent |= {"state_bytes": size // run.components.config.seeds}
    parent, seconds = versions_of(run.folder, name), time.monotonic() - began
    story = lineage.of_version(run.components, name, now, scores, parent=parent, seconds=seconds, spent=spent)
    store.save_version(parent, now, kept, story)
    run.journal.say(f"{name} period {now + 1}/{run.components.stream.periods}: {scoring.sentence(scores)}")
    return kept


class Resumed(NamedTuple):
    """Where the outer steps of a period go on."""

    step: int  # steps of the period that are done
    state: Tree
    scores: list[float]  # of the cycles that are done, for an arm that trains until it converges


def resumed(run: Run, name: str, now: int, state: Tree) -> Resumed:
    """The newest checkpoint of a period, or its beginning."""
    arm, folder = run.components.arms[name], checkpoints_of(run, name)
    base, latest = arm.steps_before(now), store.latest_checkpoint(checkpoints_of(run, name))
    if latest is None or latest <= base or (arm.budget != "converged" and latest > base + arm.steps(now)):
        return Resumed(0, state, [])
    (state, _), meta = store.load_checkpoint(folder, latest, like=(state, run.keys))
    step = latest - base
    run.meter.advance(min(step, arm.steps(now)), worked=False)
    run.journal.say(f"{name}: resumed period {now} at step {step} of {arm.steps(now)}")
    return Resumed(step, state, meta.get("scores", []))


def converged(run: Run, name: str, now: int, state: Tree) -> tuple[Tree, int]:
    """The state where validation users were best, and the cycles of ``outer_steps`` until there (``run.converge``)."""
    arm, cycle = run.components.arms[name], run.components.config.outer_steps
    learner, _ = program(run, name)
    there = resumed(run, name, now, state)

    def train(number: int, state: Tree, scores: list[float]) -> Tree:
        begun = there if there.step > number * cycle else Resumed(number * cycle, state, [])
        return outer_steps(run, name, now, begun._replace(scores=scores), stop=(number + 1) * cycle)

    def score(state: Tree) -> float:
        _, scores = run.scorer.validation(learner.params(state), name, now)
        held = [value for period, value in scores["adapted"].items() if period != "-1"]
        return sign(scores["metric"]) * float(np.mean(held))

    best = run.folder / "arms" / name / "best"
    found = converge.converge(best, arm.steps(now) // cycle, there.state, there.scores, train, score)
    return found


def checkpoints_of(run: Run, name: str) -> Path:
    """Where the checkpoints of an arm lie."""
    return run.folder / "arms" / name / "checkpoints"


def outer_steps(run: Run, name: str, now: int, begun: Resumed, stop: int | None = None) -> Tree:
    """The outer steps of a period from where they were; saves, logs and heeds signals.

    Args:
      run: all that the arms have in common.
      name: of the arm.
      now: the period.
      begun: where to go on.
      stop: outer steps of the period; None: all of the arm's.
    """
    arm, config, (_, compiled) = run.components.arms[name], run.components.config, program(run, name)
    base, stop, start, state = arm.steps_before(now), arm.steps(now) if stop is None else stop, begun.step, begun.state

    def save(step: int, state: Tree) -> None:
        told = {"period": now, "step": step, "scores": begun.scores}
        size = store.save_checkpoint(checkpoints_of(run, name), base + step, (state, run.keys), told)
        run.journal.say(f"{name}: checkpoint at period {now}, step {step}: {size:,} bytes")

    data = placed(run, arm.window(now))
    try:
        for told in loop.run(
            compiled, state, run.keys, lambda _: data, period=now, start=start, stop=stop, before=base
        ):
            done, state, step = told.step - start, told.state, told.step
            start = step
            run.meter.advance(done if step <= arm.steps(now) else 0, f"{name}, period {now}")
            report(run, name, now, told, done)
            if run.asked():
                save(step, state)
                raise Interrupted(f"stopped by signal {run.asked()}: saved at period {now}, step {step}", run.asked())
            goes_on = step != stop or arm.budget == "converged"
            if goes_on and step // config.checkpoint_every > (step - done) // config.checkpoint_every:
                save(step, state)
    except loop.Diverged as error:
        if error.step:
            save(error.step, error.state)
        raise loop.Diverged(f"{name}: {error}", error.step, error.state) from None
    return state


def report(run: Run, name: str, now: int, told: loop.Progress, done: int) -> None:
    """Scalars of a chunk, and a point of the validation curve, where their turn has come."""
    config = run.components.config

    def due(every: int) -> bool:
        return told.step // every > (told.step - done) // every or told.step == run.components.arms[name].steps(now)

    values = {}
    if due(config.log_every):
        values = {key: float(np.mean(value)) for key, value in told.infos.items()}
    if due(config.validate_every):
        learner, _ = program(run, name)
        values |= run.scorer.curve_point(learner.params(told.state), name, now)
    if values:
        run.journal.scalars(name, run.components.arms[name].steps_before(now) + told.step, values, period=now)


def placed(run: Run, window: tuple[int, int]) -> Tree:
    """A window's data where the program expects it: a copy on every device."""
    return placement.place(run.components.stream.family.data(window, 0, 0), run.mesh, by_seed=False)
