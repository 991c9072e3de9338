"""The whole of a training run: every strategy over every stage, saved, resumed and interrupted without loss."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from metapers import placement, store, users, workdir
from metapers.base import Array, Cohort, Learner, Params, Tree
from metapers.journal import Journal, Meter, meter
from metapers.options import ConfigError
from metapers.run import lineage, loop, resume, setup
from metapers.run.resume import Interrupted, interruptions
from metapers.scoring import scorer as scoring
from metapers.scoring.scorer import Scorer
from metapers.spec import STRATEGIES, Components, Config, check, plain, strategies, unused
from metapers.spec.building import learner as build_learner
from metapers.spec.strategies import Strategy
from metapers.users import Bank
from metapers.workdir import versions_of


class Snapshot(NamedTuple):
    """All arrays of a version, each with a leading seed axis."""

    params: Params  # what is judged and served
    state: Tree  # the whole of the learner
    bank: Bank
    keys: Array


class Run(NamedTuple):
    """What every strategy of a run has in common; built once."""

    components: Components
    folder: Path
    mesh: Mesh | None
    keys: Array  # [seeds], root keys
    init: Params  # [seeds, ...], the initialisation that all strategies share
    programs: dict[tuple[str, bool], tuple[Learner, loop.Program]]  # by (learner, remembers)
    scorer: Scorer
    journal: Journal
    meter: Meter
    asked: Callable[[], int]  # the signal that asked to stop, or 0


def train(config: Config, folder: Path) -> None:
    """Trains all of ``config.strategies`` (and the joint baseline) into ``folder``, or goes on where it was.

    Raises:
      ValueError: if the folder holds a run whose config or data differs in what can change a number.
      WorkdirInUse: if another process trains there.
      Diverged: if a loss became NaN or infinite; the last good state is kept.
      Interrupted: after Ctrl-C or SIGTERM, when all is saved.
    """
    config = check(config)
    names = strategies(config)
    folder = workdir.open_workdir(folder)
    began = time.monotonic()
    with workdir.lock(folder), lineage.compile_clock() as clock:
        operational = resume.check_compatible(config, folder)
        lineage.say_reading(config)
        components = setup.components(config)
        resume.same_data(components, folder)
        total = config.outer_steps * sum(
            STRATEGIES[name].trains(t, components.stream.stages)
            for name in names
            for t in range(components.stream.stages)
        )
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
    """Keys, initial parameters and scorer of a run; programs are compiled when a strategy first needs them."""
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


def program(run: Run, strategy: Strategy) -> tuple[Learner, loop.Program]:
    """The learner of a strategy and its compiled steps: strategies that differ only in their window share them."""
    config = run.components.config
    kind = (strategy.learner or config.learner.name, strategy.remembers)
    if kind not in run.programs:
        learner = build_learner(config, run.components.model, strategy, run.mesh)
        compiled = loop.program(
            learner,
            run.components.stream.family,
            users=config.meta_batch,
            chunk=min(config.chunk, config.outer_steps),
            mesh=run.mesh,
        )
        run.programs[kind] = learner, compiled
    return run.programs[kind]


def check_memory(run: Run, name: str) -> None:
    """Refuses with a ValueError a strategy whose state the machine cannot hold: before any is trained."""
    _, compiled = program(run, STRATEGIES[name])
    state = jax.eval_shape(compiled.init, run.init, placed(run, STRATEGIES[name].window(0)))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    there = lineage.memory(run.components.devices)
    if size > there:
        config = run.components.config
        remembers = STRATEGIES[name].remembers and "capacity" in config.memory
        smaller = f", memory.capacity ({config.memory.capacity})" if remembers else ""
        raise ConfigError(
            f"strategies: the state of {name!r}",
            f"{size / 1e9:,.0f} GB",
            f"at most {there / 1e9:,.0f} GB, the memory of the machine",
            f"lower seeds ({config.seeds}){smaller} or the size of the model",
        )


def learn_stream(run: Run, name: str) -> None:
    """One strategy through all stages; stages that already have their version are left as they are."""
    strategy, config = STRATEGIES[name], run.components.config
    stages = run.components.stream.stages
    done = store.versions(versions_of(run.folder, name))
    before: Snapshot | None = None
    for now in range(stages):
        works = strategy.trains(now, stages)
        if now in done:
            run.meter.advance(config.outer_steps if works else 0, worked=False)
            before = None
        elif strategy.saves(now, stages):
            if run.asked():
                raise Interrupted(f"stopped by signal {run.asked()} before stage {now} of {name}", run.asked())
            before = one_stage(run, name, now, before or begin(run, strategy, name, now - 1 if done else -1))


def begin(run: Run, strategy: Strategy, name: str, number: int) -> Snapshot:
    """What a strategy starts a stage from: its version ``number``, or the initialisation for -1."""
    learner, compiled = program(run, strategy)
    data = placed(run, strategy.window(0))
    state = placement.place(compiled.init(run.init, data), run.mesh, by_seed=True)
    rows = len(run.components.stream.users) if run.components.config.bank else 1
    bank = jax.vmap(lambda params: users.empty(params, rows))(placement.host(run.init))
    fresh = Snapshot(learner.params(state), state, bank, run.keys)
    if number < 0:
        return fresh
    kept, _ = store.load_version(versions_of(run.folder, name), number, like=fresh)
    return kept


def one_stage(run: Run, name: str, now: int, before: Snapshot) -> Snapshot:
    """One stage of one strategy: outer steps, consolidation, bank, validation, version."""
    strategy, began = STRATEGIES[name], time.monotonic()
    learner, compiled = program(run, strategy)
    state = before.state
    if strategy.restarts:
        state = begin(run, strategy, name, -1).state
    if strategy.trains(now, run.components.stream.stages):
        state = outer_steps(run, name, now, state, compiled)
        if strategy.remembers:
            data = placed(run, (now, now))
            state = compiled.consolidate(state, run.keys, data, placement.place(np.int32(now), run.mesh, by_seed=False))
    params = learner.params(state)
    bank = banked(run, name, params, before.bank, now)
    kept = Snapshot(params, state, bank, run.keys)
    table, scores = run.scorer.validation(params, name, now)
    scoring.save(run.folder, table, "validation", name, now)
    story = lineage.of_version(
        run.components, name, now, scores, parent=versions_of(run.folder, name), seconds=time.monotonic() - began
    )
    store.save_version(versions_of(run.folder, name), now, kept, story)
    run.journal.say(f"{name} stage {now + 1}/{run.components.stream.stages}: {scoring.sentence(scores)}")
    return kept


def outer_steps(run: Run, name: str, now: int, state: Tree, compiled: loop.Program) -> Tree:
    """The outer steps of a stage, from its newest checkpoint if it has one; saves, logs and heeds signals."""
    config, checkpoints = run.components.config, run.folder / "strategies" / name / "checkpoints"
    base, start = now * config.outer_steps, 0
    latest = store.latest_checkpoint(checkpoints)
    if latest is not None and base < latest <= base + config.outer_steps:
        (state, _), _ = store.load_checkpoint(checkpoints, latest, like=(state, run.keys))
        start = latest - base
        run.meter.advance(start, worked=False)
        run.journal.say(f"{name}: resumed stage {now} at step {start} of {config.outer_steps}")

    def save(step: int, state: Tree) -> None:
        size = store.save_checkpoint(checkpoints, base + step, (state, run.keys), {"stage": now, "step": step})
        run.journal.say(f"{name}: checkpoint at stage {now}, step {step}: {size:,} bytes")

    data = placed(run, STRATEGIES[name].window(now))
    try:
        for told in loop.run(
            compiled, state, run.keys, lambda _: data, stage=now, start=start, stop=config.outer_steps
        ):
            done, state, step = told.step - start, told.state, told.step
            start = step
            run.meter.advance(done, f"{name}, stage {now}")
            report(run, name, now, told, done)
            ended = step == config.outer_steps
            if run.asked():
                save(step, state)
                raise Interrupted(f"stopped by signal {run.asked()}: saved at stage {now}, step {step}", run.asked())
            if not ended and step // config.checkpoint_every > (step - done) // config.checkpoint_every:
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
        return told.step // every > (told.step - done) // every or told.step == config.outer_steps

    values = {}
    if due(config.log_every):
        values = {key: float(np.mean(value)) for key, value in told.infos.items()}
    if due(config.validate_every):
        learner, _ = program(run, STRATEGIES[name])
        values |= run.scorer.curve_point(learner.params(told.state), name, now)
    if values:
        run.journal.scalars(name, now * config.outer_steps + told.step, values, stage=now)


def placed(run: Run, window: tuple[int, int]) -> Tree:
    """A window's data where the program expects it: a copy on every device."""
    return placement.place(run.components.stream.family.data(window, 0, 0), run.mesh, by_seed=False)


def banked(run: Run, name: str, params: Params, bank: Bank, now: int) -> Bank:
    """The bank after a stage: every training user so far, and the stage's held-out users by their support alone.

    With ``config.bank`` off it has one row, which nobody ever gets.
    """
    stream = run.components.stream
    if not run.components.config.bank:
        return bank
    for cohort in (
        stream.training(now),
        *(stream.held_out(split, now, STRATEGIES[name].known(now)) for split in ("validation", "test")),
    ):
        bank = _write(run, name, params, bank, cohort, now)
    return bank


def _write(run: Run, name: str, params: Params, bank: Bank, cohort: Cohort, now: int) -> Bank:
    known = cohort.users >= 0
    if not known.any():
        return bank
    rows = len(run.components.stream.users)
    personal = run.scorer.adapted(params, name, cohort)
    mask = np.zeros(rows, bool)
    mask[cohort.users[known]] = True

    def spread(leaf: np.ndarray) -> np.ndarray:
        full = np.zeros((leaf.shape[0], rows, *leaf.shape[2:]), leaf.dtype)
        full[:, cohort.users[known]] = np.asarray(leaf)[:, known]
        return full

    everyone = np.arange(rows, dtype=np.int32)
    return _put(bank, everyone, jax.tree.map(spread, personal), np.int32(now), mask)


_put = jax.jit(jax.vmap(users.write, in_axes=(0, None, 0, None, None)))
