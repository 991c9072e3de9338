"""Omniglot as a stream of episodes: handwritten characters as classes, quarter turns as classes of their own."""

from collections.abc import Sequence

import numpy as np

from metapers.base import Stream
from metapers.tasks.episodes import episodes as draw_episodes
from metapers.tasks.omniglot_origins import Characters


def omniglot(
    characters: Characters,
    *,
    classes: Sequence[int] = (1100, 100, 423),
    split_seed: int = 0,
    ways: int = 5,
    shots: int = 1,
    queries: int = 1,
    rotations: Sequence[int] = (0, 1, 2, 3),
    stages: int = 1,
    episodes: int = 600,
    examples: int | None = None,
    train_ways: int | None = None,
    seed: int = 0,
) -> Stream:
    """Episodes of handwritten characters: inputs [size, size, 1] with ink 1 and paper 0, targets 0..ways-1.

    All characters, of the background and the evaluation set together, are shuffled with ``split_seed`` and cut into
    ``classes`` = (train, validation, test); what is left over is not used. The sizes are those of Finn, Abbeel, Levine
    2017 (arXiv:1703.03400); their shuffle depends on the order in which their disk listed the files, so it cannot be
    had. The rest as ``episodes.episodes``. Their code draws distinct characters and then turns each; here two turns of
    one character may meet in an episode, as classes of their own.

    Provenance: source, version, ``size``, ``smooth``, ``split_seed``, ``characters`` (how many, by split) and what
    ``episodes.episodes`` adds.

    Raises:
      ValueError: for classes that are not three sizes >= 1 with a sum of at most the number of characters, and as
        ``episodes.episodes``.
    """
    classes = tuple(classes)
    if len(classes) != 3 or min(classes) < 1:
        raise ValueError(f"classes must be three sizes >= 1 (train, validation, test), got {classes}")
    if sum(classes) > len(characters.names):
        raise ValueError(f"classes must sum to <= {len(characters.names)} characters, got {classes}: {sum(classes)}")
    order = np.random.default_rng(split_seed).permutation(len(characters.names))
    cuts = np.cumsum(classes)
    chosen = dict(zip(("train", "validation", "test"), np.split(order[: cuts[-1]], cuts[:-1]), strict=True))
    about = {
        "source": characters.source,
        "version": characters.version,
        "size": characters.size,
        "smooth": characters.smooth,
        "split_seed": split_seed,
        "characters": {split: len(places) for split, places in chosen.items()},
    }
    return draw_episodes(
        {split: characters.images[places] for split, places in chosen.items()},
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations,
        stages=stages,
        episodes=episodes,
        examples=examples,
        train_ways=train_ways,
        seed=seed,
        about=about,
    )
