"""Users with a square wave each: a daily habit that is on for half of the day, from a time of the user's own."""

from typing import Any

import numpy as np

from metapers.base import Stream
from metapers.members import Member, register
from metapers.options import Option
from metapers.tasks import Examples, stream
from metapers.tasks.facts import CUT_OPTIONS, FOLD, SourceFacts


def square_wave(
    *, periods: int, users: int, examples: int, drift: float, noise: float, seed: int, **cut: Any
) -> Stream:
    """y = 1 for half of the day from time h_u on, else -1, plus noise; h_u is around drift * period, in days.

    Inputs are (sin 2πt, cos 2πt) [N, 2] of the time t of the day, uniform in [0, 1); targets [N].

    Args:
      users: users in each period, of all splits together.
      drift: how far the mean of h_u moves from period to period, in days.
      noise: standard deviation of a target.
      **cut: how users are split and how their examples become tasks: ``fold`` and the options of ``CUT_OPTIONS``.
    """
    rng = np.random.default_rng(seed)
    home = np.repeat(np.arange(periods), users)  # the period of each user
    start = drift * home + 0.1 * rng.standard_normal(len(home))
    user = np.repeat(np.arange(len(home)), examples)
    time = rng.uniform(size=len(user))
    wave = np.where((time - start[user]) % 1.0 < 0.5, 1.0, -1.0)
    return stream(
        Examples(
            users=tuple(f"square-wave-{row}" for row in range(len(home))),
            user=user,
            period=home[user],
            time=np.tile(np.arange(examples), len(home)),
            inputs=np.stack([np.sin(2 * np.pi * time), np.cos(2 * np.pi * time)], axis=1),
            targets=wave + noise * rng.standard_normal(len(user)),
        ),
        periods=periods,
        about={"source": "square_wave", "version": "1", "drift": drift, "noise": noise, "seed": seed},
        **cut,
    )


register(
    "source",
    "square_wave",
    Member(
        square_wave,
        options={
            "periods": Option(4, least=1, doc="number of periods"),
            "users": Option(200, least=1, doc="users in each period, of all splits together"),
            "examples": Option(24, least=2, doc="examples of a user"),
            "drift": Option(0.25, doc="how far the mean start of the wave moves from period to period, in days"),
            "noise": Option(0.1, least=0.0, doc="standard deviation of a target"),
            "seed": Option(0, least=0, doc="seed of the users and their examples"),
            "fold": FOLD,
            **CUT_OPTIONS,
        },
        example={"periods": 2, "users": 24, "examples": 8, "support": 4, "query": 4},
        facts=SourceFacts(objective="squared_error", inputs="vectors", targets="numbers"),
        doc="synthetic users with a square wave each, under drift",
    ),
)
