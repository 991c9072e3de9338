"""The outer steps of a period: saved, logged, interrupted and resumed without loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metapers import placement, store
from metapers.base import Tree
from metapers.run import loop, programs
from metapers.run.programs import Run
from metapers.run.resume import Interrupted


class Standing(NamedTuple):
    """Where the outer steps of a period stand."""

    step: int  # outer steps of the period that are done
    state: Tree  # of the learner
    boundary: Tree  # the state of the boundary
    scores: list[float]  # of the cycles that are done, for an arm that trains until it converges


def resumed(run: Run, name: str, now: int, begun: Standing) -> Standing:
    """The newest checkpoint of a period, or its beginning."""
    arm, folder = run.components.arms[name], checkpoints_of(run, name)
    base, latest = arm.steps_before(now), store.latest_checkpoint(folder)
    if latest is None or latest <= base or (arm.budget != "converged" and latest > base + arm.steps(now)):
        return begun
    saved, meta = store.load_checkpoint(folder, latest, like=(begun.state, run.keys, begun.boundary))
    step = latest - base
    run.meter.advance(min(step, arm.steps(now)), worked=False)
    run.journal.say(f"{name}: resumed period {now} at step {step} of {arm.steps(now)}")
    return Standing(step, saved[0], saved[2], meta.get("scores", []))


def checkpoints_of(run: Run, name: str) -> Path:
    """Where the checkpoints of an arm lie."""
    return run.folder / "arms" / name / "checkpoints"


def outer_steps(run: Run, name: str, now: int, begun: Standing, stop: int | None = None) -> Standing:
    """The outer steps of a period from where they were; saves, logs and heeds signals.

    Where the boundary lies inside the period, the arm consolidates and goes on. The end of the period is the caller's.

    Args:
      run: all that the arms have in common.
      name: of the arm.
      now: the period.
      begun: where to go on.
      stop: outer steps of the period; None: all of the arm's.
    """
    arm, compiled = run.components.arms[name], programs.program(run, name).compiled
    base, stop = arm.steps_before(now), arm.steps(now) if stop is None else stop
    data, at = compiled.data(arm.window(now)), begun
    try:
        while at.step < stop:
            # anew after each boundary, which changes the state
            for told in loop.run(
                compiled, at.state, run.keys, lambda _: data, period=now, start=at.step, stop=stop, before=base
            ):
                at, here = _chunk(run, name, now, at, told, stop)
                if here:
                    break
    except loop.Diverged as error:
        if error.step:
            _save(run, name, now, at._replace(step=error.step, state=error.state))
        raise loop.Diverged(f"{name}: {error}", error.step, error.state) from None
    return at


def _chunk(run: Run, name: str, now: int, at: Standing, told: loop.Progress, stop: int) -> tuple[Standing, bool]:
    """What follows a chunk of outer steps: where the arm stands, and whether it consolidated."""
    arm, config, done = run.components.arms[name], run.components.config, told.step - at.step
    step = told.step
    run.meter.advance(done if step <= arm.steps(now) else 0, f"{name}, period {now}")
    report(run, name, now, told, done)
    at, here = at._replace(step=step, state=told.state), False
    goes_on = step != stop or arm.budget == "converged"
    if arm.budget != "converged" and step != stop:
        boundary, here = asked(run, name, at.boundary, told.infos, ends=False)
        at = at._replace(boundary=boundary)
        at = at._replace(state=consolidated(run, name, now, at)) if here else at
    if run.asked():
        _save(run, name, now, at)
        raise Interrupted(f"stopped by signal {run.asked()}: saved at period {now}, step {step}", run.asked())
    if goes_on and step // config.checkpoint_every > (step - done) // config.checkpoint_every:
        _save(run, name, now, at)
    return at, here


def asked(run: Run, name: str, state: Tree, infos: Mapping[str, np.ndarray], *, ends: bool) -> tuple[Tree, bool]:
    """(state of the boundary, whether one is here) after a chunk with ``infos``; ``ends``: whether a period ends."""
    boundary = programs.program(run, name).boundary
    losses, mask = np.zeros((0, 0)), np.zeros((0, 0), bool)
    if boundary.watches and "task_losses" in infos:
        there = infos["task_mask"]  # [seeds, steps, users]; one decision for all seeds
        mask = np.asarray(there.any(0))
        losses = np.where(there, infos["task_losses"], 0).sum(0) / np.maximum(there.sum(0), 1)
    return boundary.update(state, losses, mask, ends)


def consolidated(run: Run, name: str, now: int, at: Standing) -> Tree:
    """The state of the learner after it consolidated what came since the last boundary."""
    arm, compiled = run.components.arms[name], programs.program(run, name).compiled
    if not arm.remembers:
        return at.state
    after = placement.place(np.int32(arm.steps_before(now) + at.step), run.mesh, by_seed=False)
    return compiled.consolidate(at.state, run.keys, compiled.data((now, now)), after)


def _save(run: Run, name: str, now: int, at: Standing) -> None:
    told = {"period": now, "step": at.step, "scores": at.scores}
    number = run.components.arms[name].steps_before(now) + at.step
    size = store.save_checkpoint(checkpoints_of(run, name), number, (at.state, run.keys, at.boundary), told)
    run.journal.say(f"{name}: checkpoint at period {now}, step {at.step}: {size:,} bytes")


def report(run: Run, name: str, now: int, told: loop.Progress, done: int) -> None:
    """Scalars of a chunk, and a point of the validation curve, where their turn has come."""
    config = run.components.config

    def due(every: int) -> bool:
        return told.step // every > (told.step - done) // every or told.step == run.components.arms[name].steps(now)

    values = {}
    if due(config.log_every):
        scalars = {key: value for key, value in told.infos.items() if not key.startswith("task_")}
        values = {key: float(np.mean(value)) for key, value in scalars.items()}
    if due(config.validate_every):
        learner = programs.program(run, name).learner
        values |= run.scorer.curve_point(learner.params(told.state), name, now)
    if values:
        run.journal.scalars(name, run.components.arms[name].steps_before(now) + told.step, values, period=now)
