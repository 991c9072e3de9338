"""Compiles what later arms need in a thread, while earlier arms train."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from metapers import placement
from metapers.run import programs
from metapers.run.programs import Run

LARGE = 2**16
"""Examples of validation users beyond which their scores are not compiled ahead: that computes them once."""


@contextlib.contextmanager
def compiling(run: Run, names: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """Compiles the programs of arms in a thread, one arm after the other.

    The programs are those that training would compile when it first needs them, so nothing is compiled twice and no
    number changes. If compiling fails here, training meets the same error where it needs the program.

    Args:
      run: all that the arms have in common.
      names: the arms that will be trained, in this order.

    Yields:
      A function that waits until the programs of an arm are there.
    """
    x64, first, seen = bool(jax.config.read("jax_enable_x64")), names[0] if names else None, set[bool]()

    def work(name: str, steps: bool, scores: bool) -> None:
        with jax.enable_x64(x64):  # a setting of the thread
            if steps:
                _steps(run, name)
            if scores:
                _scores(run, name)

    def ready(name: str) -> None:
        with contextlib.suppress(Exception):
            if name == first:  # in this thread, while the thread compiles its scores
                _steps(run, name)
            if name in jobs:
                jobs[name].result()

    jobs = dict[str, Future]()
    with ThreadPoolExecutor(1, "compile") as thread:
        for name in names:
            adapts = run.components.arms[name].adapts
            jobs[name] = thread.submit(work, name, name != first, adapts not in seen)
            seen.add(adapts)
        try:
            yield ready
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


def _steps(run: Run, name: str) -> None:
    """The outer steps of an arm and its consolidation, where it has one."""
    arm, (_, compiled, _) = run.components.arms[name], programs.program(run, name)
    data = compiled.data(arm.window(0))
    state = placement.place(compiled.init(run.init, data), run.mesh, by_seed=True)
    number = placement.place(np.int32(0), run.mesh, by_seed=False)
    compiled.chunk.lower(state, run.keys, data, number, number, number).compile()
    if arm.remembers:
        compiled.consolidate.lower(state, run.keys, data, number).compile()


def _scores(run: Run, name: str) -> None:
    """The scores of validation users, for arms that adapt as this one does."""
    if run.scorer.everyone("validation").offsets[-1] <= LARGE:
        params = run.scorer.initial()
        run.scorer.validation(params, name, 0)
        run.scorer.curve_point(params, name, 0)
