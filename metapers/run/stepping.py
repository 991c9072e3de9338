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

    The arm consolidates at each boundary, inside the period and at its end. An arm that trains until it converges does
    not: its caller consolidates the best state (``consolidated``).

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
            for chunk in loop.run(
                compiled, at.state, run.keys, lambda _: data, period=now, start=at.step, stop=stop, before=base
            ):
                at, here = _after_chunk(run, name, now, at, chunk)
                if here:
                    break
    except loop.Diverged as error:
        if error.step:
            _save(run, name, now, at._replace(step=error.step, state=error.state))
        raise loop.Diverged(f"{name}: {error}", error.step, error.state) from None
    return at


def _after_chunk(run: Run, name: str, now: int, at: Standing, chunk: loop.Progress) -> tuple[Standing, bool]:
    """Logs, consolidates and saves after a chunk: where the arm stands, and whether a boundary is here."""
    arm, every = run.components.arms[name], run.components.config.checkpoint_every
    step, done, here = chunk.step, chunk.step - at.step, False
    run.meter.advance(done if step <= arm.steps(now) else 0, f"{name}, period {now}")
    report(run, name, now, chunk, done)
    at = at._replace(step=step, state=chunk.state)
    if arm.budget != "converged":
        at, here = consolidated(run, name, now, at, chunk.infos)
    if run.asked():
        _save(run, name, now, at)
        raise Interrupted(f"stopped by signal {run.asked()}: saved at period {now}, step {step}", run.asked())
    goes_on = step != arm.steps(now) or arm.budget == "converged"
    if goes_on and step // every > (step - done) // every:
        _save(run, name, now, at)
    return at, here


def consolidated(run: Run, name: str, now: int, at: Standing, infos: Mapping[str, np.ndarray]) -> tuple[Standing, bool]:
    """Updates the boundary after a chunk, and consolidates the learner where a boundary is.

    Args:
      run: all that the arms have in common.
      name: of the arm.
      now: the period.
      at: where the arm stands.
      infos: of the chunk, as ``loop.run`` gives them.

    Returns:
      (where the arm stands, whether a boundary is here).
    """
    arm, (_, compiled, boundary) = run.components.arms[name], programs.program(run, name)
    losses, mask = np.zeros((0, 0)), np.zeros((0, 0), bool)
    if boundary.watches and "task_losses" in infos:
        there = infos["task_mask"]  # [seeds, steps, users]; one decision for all seeds
        mask = np.asarray(there.any(0))
        losses = np.where(there, infos["task_losses"], 0).sum(0) / np.maximum(there.sum(0), 1)
    held, here = boundary.update(at.boundary, losses, mask, at.step == arm.steps(now))
    at = at._replace(boundary=held)
    if not (here and arm.remembers):
        return at, here
    step = placement.place(np.int32(arm.steps_before(now) + at.step), run.mesh, by_seed=False)
    state = compiled.consolidate(at.state, run.keys, compiled.data((now, now)), step)
    return at._replace(state=state), here


def _save(run: Run, name: str, now: int, at: Standing) -> None:
    meta = {"period": now, "step": at.step, "scores": at.scores}
    number = run.components.arms[name].steps_before(now) + at.step
    size = store.save_checkpoint(checkpoints_of(run, name), number, (at.state, run.keys, at.boundary), meta)
    run.journal.say(f"{name}: checkpoint at period {now}, step {at.step}: {size:,} bytes")


def report(run: Run, name: str, now: int, chunk: loop.Progress, done: int) -> None:
    """Logs the scalars of a chunk of ``done`` steps, and a point of the validation curve, where they are due."""
    config = run.components.config

    def due(every: int) -> bool:
        return chunk.step // every > (chunk.step - done) // every or chunk.step == run.components.arms[name].steps(now)

    values = {}
    if due(config.log_every):
        values = {key: float(np.mean(value)) for key, value in chunk.infos.items() if not key.startswith("task_")}
    if due(config.validate_every):
        learner = programs.program(run, name).learner
        values |= run.scorer.curve_point(learner.params(chunk.state), name, now)
    if values:
        run.journal.scalars(name, run.components.arms[name].steps_before(now) + chunk.step, values, period=now)
