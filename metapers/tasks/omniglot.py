"""Omniglot as a stream of episodes: handwritten characters as classes, quarter turns as classes of their own."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metapers.base import Stream
from metapers.members import Member
from metapers.options import Option
from metapers.tasks.episodes import episodes as draw_episodes
from metapers.tasks.facts import SourceFacts, reads_folder
from metapers.tasks.omniglot_origins import Characters, characters_from_folder, characters_from_tfds


def omniglot(
    characters: Characters,
    *,
    classes: Sequence[int] = (1100, 100, 423),
    split_seed: int = 0,
    ways: int = 5,
    shots: int = 1,
    queries: int = 1,
    rotations: Sequence[int] = (0, 1, 2, 3),
    periods: int = 1,
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
        together = f"at most {len(characters.names)} characters together"
        raise ValueError(f"classes must be {together}, got {classes}; their sum is {sum(classes)}")
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
        periods=periods,
        episodes=episodes,
        examples=examples,
        train_ways=train_ways,
        seed=seed,
        about=about,
    )


def _from_options(
    *,
    backend: str,
    path: Any,  # None: TFDS's usual folder
    download: bool,
    size: int,
    smooth: bool,
    **options: Any,
) -> Stream:
    if backend == "folder":
        characters = characters_from_folder(path, size=size, smooth=smooth)
    else:
        characters = characters_from_tfds(path, size=size, smooth=smooth, download=download)
    return omniglot(characters, **options)


OMNIGLOT_MEMBER = Member(
    _from_options,
    options={
        "backend": Option(
            "folder",
            choices=("folder", "tfds"),
            doc="where the drawings come from: the original archives, TensorFlow Datasets",
        ),
        "path": Option(
            None,
            type=str,
            doc="`folder`: the folder of the two original archives; `tfds`: its data_dir, None for the usual one",
        ),
        "download": Option(False, doc="`tfds`: prepare the set if it is not prepared yet (needs TensorFlow)"),
        "size": Option(28, least=1, doc="height and width of an image in pixels"),
        "smooth": Option(True, doc="grey values when scaled down; False: the nearest pixel, black and white"),
        "classes": Option((1100, 100, 423), least=1, doc="characters for training, validation and test"),
        "split_seed": Option(0, least=0, doc="seed of the shuffle before that cut"),
        "ways": Option(5, least=1, doc="classes of an episode"),
        "train_ways": Option(None, type=int, least=2, doc="classes of a training episode; None: as many as `ways`"),
        "shots": Option(1, least=1, doc="support drawings of each class in a training episode"),
        "queries": Option(1, least=1, doc="query drawings of each class"),
        "rotations": Option(
            (0, 1, 2, 3), least=0, most=3, doc="quarter turns; each makes a class of its own, in all splits"
        ),
        "periods": Option(1, least=1, doc="number of periods; the classes of each split are divided over them"),
        "episodes": Option(600, least=1, doc="held-out episodes in a period, of each split"),
        "seed": Option(0, least=0, doc="seed of the held-out episodes"),
    },
    paper="Lake, Salakhutdinov, Tenenbaum 2015, doi:10.1126/science.aab3050",
    example={"classes": (40, 20, 20), "episodes": 6, "size": 16},
    facts=SourceFacts(
        objective="cross_entropy",
        sizes=lambda stream: {"classes": int(stream.provenance["classes"]), "width": 1},
        inputs="images",
        targets="classes",
        joint=False,
        ways=lambda section: section["ways"],
        from_files=reads_folder,
    ),
    doc="episodes of handwritten characters (Omniglot)",
)
