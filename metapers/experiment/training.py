"""The whole of a training run: every strategy over every stage, saved, resumed and interrupted without loss."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from metapers import stage, store, users, workdir
from metapers.base import Array, Cohort, Learner, Params, Tree
from metapers.experiment import assembly, lineage, printing, refusals, scoring, starting
from metapers.experiment import config as configs
from metapers.experiment.assembly import STRATEGIES, Parts, Strategy
from metapers.experiment.config import Config
from metapers.experiment.resuming import Interrupted, agree, another_machine, interruptions, keep, same_data
from metapers.experiment.scoring import versions_of
from metapers.journal import Journal, Meter, meter
from metapers.users import Bank


class Kept(NamedTuple):
    """All arrays of a version, each with a leading seed axis."""

    params: Params  # what is judged and served
    state: Tree  # the whole of the learner
    bank: Bank
    keys: Array


class Run(NamedTuple):
    """What every strategy of a run has in common; built once."""

    parts: Parts
    folder: Path
    mesh: Mesh | None
    keys: Array  # [seeds], root keys
    init: Params  # [seeds, ...], the initialisation that all strategies share
    programs: dict[tuple[str, bool], tuple[Learner, stage.Program]]  # by (learner, remembers)
    scorer: scoring.Scorer
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
    names = assembly.strategies(config)
    configs.check(config)
    folder = workdir.open_workdir(folder)
    began = time.monotonic()
    with workdir.lock(folder), lineage.compile_clock() as clock:
        operational = agree(config, folder)
        printing.reading(config)
        parts = assembly.parts(config)
        same_data(parts, folder)
        total = config.steps * sum(
            STRATEGIES[name].trains(t, parts.stream.stages) for name in names for t in range(parts.stream.stages)
        )
        with (
            Journal(folder, tensorboard=config.tensorboard) as journal,
            meter(total, title="train", shown=config.progress) as told,
            interruptions() as asked,
            lineage.trace(config.profile),
        ):
            journal.event("start", config=configs.plain(config), provenance=parts.stream.provenance)
            for change in (*operational, *another_machine(parts, folder)):
                journal.say(f"resumed with another {change}")
            for told_once in refusals.unread(config):
                journal.say(f"note: {told_once}")
            run = prepare(parts, folder, journal, told, asked)
            for name in names:
                check_memory(run, name)  # compiles nothing, but refuses unknown members too
            keep(parts, folder)
            told.waiting("compiling")
            try:
                for name in names:
                    live(run, name)
            finally:
                lineage.add_seconds(folder, "train", seconds=time.monotonic() - began, compile_seconds=clock())
            journal.event("end")


def prepare(parts: Parts, folder: Path, journal: Journal, told: Meter, asked: Callable[[], int]) -> Run:
    """Keys, initial parameters and scorer of a run; programs are compiled when a strategy first needs them."""
    config = parts.config
    mesh = assembly.mesh_for(config, parts.devices)
    roots = stage.place(scoring.roots(parts), mesh, by_seed=True)
    scorer = scoring.scorer(parts)
    first = scorer.initial()
    if parts.donor is not None:
        _, drawn = starting.begun(first, parts.donor)
        journal.say(f"parameters begin where {config.start_from} ended; drawn: {', '.join(drawn) or 'none'}")
    init = stage.place(first, mesh, by_seed=True)
    return Run(parts, folder, mesh, roots, init, {}, scorer, journal, told, asked)


def program(run: Run, strategy: Strategy) -> tuple[Learner, stage.Program]:
    """The learner of a strategy and its compiled steps: strategies that differ only in their window share them."""
    config = run.parts.config
    kind = (strategy.learner or config.learner.name, strategy.remembers)
    if kind not in run.programs:
        learner = assembly.learner(config, run.parts.model, strategy, run.mesh)
        compiled = stage.program(
            learner, run.parts.stream.family, users=config.users, chunk=min(config.chunk, config.steps), mesh=run.mesh
        )
        run.programs[kind] = learner, compiled
    return run.programs[kind]


def check_memory(run: Run, name: str) -> None:
    """Refuses with a ValueError a strategy whose state the machine cannot hold: before any is trained."""
    _, compiled = program(run, STRATEGIES[name])
    state = jax.eval_shape(compiled.init, run.init, placed(run, STRATEGIES[name].window(0)))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    there = lineage.memory(run.parts.devices)
    if size > there:
        config = run.parts.config
        smaller = f", continual.capacity ({config.continual.capacity})" if STRATEGIES[name].remembers else ""
        raise ValueError(
            f"the state of strategy {name!r} must fit into the {there / 1e9:,.0f} GB that there are, got "
            f"{size / 1e9:,.0f} GB: lower seeds ({config.seeds}){smaller} or the size of the model"
        )


def live(run: Run, name: str) -> None:
    """One strategy through all stages; stages that already have their version are left as they are."""
    strategy, config = STRATEGIES[name], run.parts.config
    stages = run.parts.stream.stages
    done = store.versions(versions_of(run.folder, name))
    before: Kept | None = None
    for now in range(stages):
        works = strategy.trains(now, stages)
        if now in done:
            run.meter.advance(config.steps if works else 0, worked=False)
            before = None
        elif strategy.saves(now, stages):
            if run.asked():
                raise Interrupted(f"stopped by signal {run.asked()} before stage {now} of {name}", run.asked())
            before = one_stage(run, name, now, before or begin(run, strategy, name, now - 1 if done else -1))


def begin(run: Run, strategy: Strategy, name: str, number: int) -> Kept:
    """What a strategy starts a stage from: its version ``number``, or the initialisation for -1."""
    learner, compiled = program(run, strategy)
    data = placed(run, strategy.window(0))
    state = stage.place(compiled.init(run.init, data), run.mesh, by_seed=True)
    rows = len(run.parts.stream.users) if run.parts.config.bank else 1
    bank = jax.vmap(lambda params: users.empty(params, rows))(scoring.host(run.init))
    fresh = Kept(learner.params(state), state, bank, run.keys)
    if number < 0:
        return fresh
    kept, _ = store.load_version(versions_of(run.folder, name), number, like=fresh)
    return kept


def one_stage(run: Run, name: str, now: int, before: Kept) -> Kept:
    """One stage of one strategy: outer steps, consolidation, bank, validation, version."""
    strategy, began = STRATEGIES[name], time.monotonic()
    learner, compiled = program(run, strategy)
    state = before.state
    if strategy.restarts:
        state = begin(run, strategy, name, -1).state
    if strategy.trains(now, run.parts.stream.stages):
        state = outer_steps(run, name, now, state, compiled)
        if strategy.remembers:
            data = placed(run, (now, now))
            state = compiled.consolidate(state, run.keys, data, stage.place(np.int32(now), run.mesh, by_seed=False))
    params = learner.params(state)
    bank = banked(run, name, params, before.bank, now)
    kept = Kept(params, state, bank, run.keys)
    table, scores = run.scorer.validation(params, name, now)
    scoring.save(run.folder, table, "validation", name, now)
    story = lineage.of_version(
        run.parts, name, now, scores, parent=versions_of(run.folder, name), seconds=time.monotonic() - began
    )
    store.save_version(versions_of(run.folder, name), now, kept, story)
    run.journal.say(f"{name} stage {now + 1}/{run.parts.stream.stages}: {scoring.sentence(scores)}")
    return kept


def outer_steps(run: Run, name: str, now: int, state: Tree, compiled: stage.Program) -> Tree:
    """The outer steps of a stage, from its newest checkpoint if it has one; saves, logs and heeds signals."""
    config, checkpoints = run.parts.config, run.folder / "strategies" / name / "checkpoints"
    base, start = now * config.steps, 0
    latest = store.latest_checkpoint(checkpoints)
    if latest is not None and base < latest <= base + config.steps:
        (state, _), _ = store.load_checkpoint(checkpoints, latest, like=(state, run.keys))
        start = latest - base
        run.meter.advance(start, worked=False)
        run.journal.say(f"{name}: resumed stage {now} at step {start} of {config.steps}")

    def save(step: int, state: Tree) -> None:
        size = store.save_checkpoint(checkpoints, base + step, (state, run.keys), {"stage": now, "step": step})
        run.journal.say(f"{name}: checkpoint at stage {now}, step {step}: {size:,} bytes")

    data = placed(run, STRATEGIES[name].window(now))
    try:
        for told in stage.run(compiled, state, run.keys, lambda _: data, stage=now, start=start, stop=config.steps):
            done, state, step = told.step - start, told.state, told.step
            start = step
            run.meter.advance(done, f"{name}, stage {now}")
            report(run, name, now, told, done)
            ended = step == config.steps
            if run.asked():
                save(step, state)
                raise Interrupted(f"stopped by signal {run.asked()}: saved at stage {now}, step {step}", run.asked())
            if not ended and step // config.checkpoint_every > (step - done) // config.checkpoint_every:
                save(step, state)
    except stage.Diverged as error:
        if error.step:
            save(error.step, error.state)
        raise stage.Diverged(f"{name}: {error}", error.step, error.state) from None
    return state


def report(run: Run, name: str, now: int, told: stage.Progress, done: int) -> None:
    """Scalars of a chunk, and a point of the validation curve, where their turn has come."""
    config = run.parts.config

    def due(every: int) -> bool:
        return told.step // every > (told.step - done) // every or told.step == config.steps

    values = {}
    if due(config.log_every):
        values = {key: float(np.mean(value)) for key, value in told.infos.items()}
    if due(config.validate_every):
        learner, _ = program(run, STRATEGIES[name])
        values |= run.scorer.curve_point(learner.params(told.state), name, now)
    if values:
        run.journal.scalars(name, now * config.steps + told.step, values, stage=now)


def placed(run: Run, window: tuple[int, int]) -> Tree:
    """A window's data where the program expects it: a copy on every device."""
    return stage.place(run.parts.stream.family.data(window, 0, 0), run.mesh, by_seed=False)


def banked(run: Run, name: str, params: Params, bank: Bank, now: int) -> Bank:
    """The bank after a stage: every training user so far, and the stage's held-out users by their support alone.

    With ``config.bank`` off it has one row, which nobody ever gets.
    """
    stream = run.parts.stream
    if not run.parts.config.bank:
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
    rows = len(run.parts.stream.users)
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
