"""Shakespeare by speaking role: the next character of what a role says; roles never seen judge it."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from metapers.base import Stream
from metapers.members import Member
from metapers.options import Option
from metapers.tasks.facts import CUT_OPTIONS, FOLD, SourceFacts, reads_folder
from metapers.tasks.ragged import Examples, stream

FILES = ("shakespeare_train.h5", "shakespeare_test.h5")
CHARACTERS = "\n !\"&'(),-.0123456789:;?[]ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PADDING, UNKNOWN = 0, 1
VOCABULARY = 2 + len(CHARACTERS)


def shakespeare(
    path: str | pathlib.Path,
    *,
    length: int = 40,
    min_examples: int | None = None,
    fold: int = 0,
    support: int = 16,
    query: int = 32,
    p_full_support: float = 0.5,
    p_from_first: float = 0.0,
    length_power: float = 0.0,
) -> Stream:
    """One period of 715 roles; an example is a window of ``length`` characters, its target the same moved on by one.

    Inputs and targets: int [length]: 0 padding, 1 a character that is not in ``CHARACTERS``, 2 + its place there
    otherwise (80 in all). A role's snippets, those of the training file and then those of the test file, are joined
    by newlines and cut into windows that follow each other without overlap; all characters but the last are inputs,
    all but the first are targets, once each. The last window is padded at its end. Time is a window's place.

    ``path`` is a folder with the two HDF5 files of TensorFlow Federated (Caldas et al. 2018, LEAF):
    shakespeare_train.h5 and shakespeare_test.h5 with examples/<role>/snippets. The play in a role's name is theirs and
    not always the true one. ``min_examples`` leaves out roles with fewer windows. Provenance: ``length``,
    ``vocabulary``, ``characters``, what was left out, and what ``ragged.stream`` adds.

    Raises:
      ImportError: where h5py is missing.
      FileNotFoundError: for a missing file.
      ValueError: for ``length`` < 1, ``min_examples`` < 2, a role of fewer than two windows where it is None, a file
        that is no HDF5, without examples or with a role without snippets of text; and as ``ragged.stream``.
    """
    if length < 1:
        raise ValueError(f"length must be >= 1, got {length}")
    texts = _texts(pathlib.Path(path))
    kept, dropped = _enough({role: windows(text, length) for role, text in texts.items()}, min_examples)
    counts = [len(inputs) for inputs, _ in kept.values()]
    inputs, targets = (np.concatenate(parts) for parts in zip(*kept.values(), strict=True))
    about = {"source": "Shakespeare by role (TensorFlow Federated)", "version": "train and test", "length": length}
    about |= {"vocabulary": VOCABULARY, "characters": CHARACTERS, "min_examples": min_examples or 2, **dropped}
    user = np.repeat(np.arange(len(kept)), counts)
    return stream(
        Examples(
            tuple(kept),
            user,
            np.zeros_like(user),
            np.concatenate([np.arange(count) for count in counts]),
            inputs,
            targets,
        ),
        periods=1,
        fold=fold,
        support=support,
        query=query,
        p_full_support=p_full_support,
        p_from_first=p_from_first,
        length_power=length_power,
        about=about,
    )


SHAKESPEARE_MEMBER = Member(
    shakespeare,
    options={
        "path": Option(None, type=str, doc="folder with shakespeare_train.h5 and shakespeare_test.h5"),
        "length": Option(40, least=1, doc="characters of an example"),
        "min_examples": Option(
            None,
            type=int,
            least=2,
            doc="leave out roles with fewer examples; None: no role, and one with fewer than two is an error",
        ),
        "fold": FOLD,
        **CUT_OPTIONS,
    },
    paper="Caldas et al. 2018, arXiv:1812.01097",
    example={"length": 8, "support": 4, "query": 4},
    facts=SourceFacts(
        objective="next_token",
        sizes=lambda stream: {name: int(stream.provenance[name]) for name in ("vocabulary", "length")},
        inputs="characters",
        targets="characters",
        from_files=reads_folder,
    ),
    doc="the next character in the lines of a speaking role (Shakespeare)",
)


def windows(text: bytes, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, int32 [n, length] with n = ceil((len(text) - 1) / length), padded with 0.

    >>> [part.tolist() for part in windows(b"a!b~", 2)]
    [[[54, 4], [55, 0]], [[4, 55], [1, 0]]]
    """
    codes = _CODES[np.frombuffer(text, np.uint8)]
    count = -(-max(codes.size - 1, 0) // length)
    both = np.full((2, count * length), PADDING, np.int32)
    both[:, : codes.size - 1] = codes[:-1], codes[1:]
    inputs, targets = both.reshape(2, count, length)
    return inputs, targets


def _codes() -> np.ndarray:
    codes = np.full(256, UNKNOWN, np.int32)
    codes[np.frombuffer(CHARACTERS.encode(), np.uint8)] = np.arange(2, VOCABULARY)
    return codes


_CODES = _codes()


def _texts(folder: pathlib.Path) -> dict[str, bytes]:
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("the package h5py is missing: pip install 'metapers[shakespeare]'") from error
    found: dict[str, list[bytes]] = {}
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no file {name} in {folder}")
        try:
            file = h5py.File(folder / name, "r")
        except OSError as error:
            raise ValueError(f"{name} cannot be read as HDF5: {error}") from error
        with file:
            for role, snippets in _snippets(name, file).items():
                found.setdefault(role, []).extend(snippets)
    return {role: b"\n".join(found[role]) for role in sorted(found)}


def _snippets(name: str, file: Any) -> dict[str, list[bytes]]:
    roles = file.get("examples", {})
    if not len(roles):
        raise ValueError(f"{name} holds no examples/<role>/snippets")
    return {role: _of_role(f"{name} role {role}", group) for role, group in roles.items()}


def _of_role(where: str, group: Any) -> list[bytes]:
    snippets = group.get("snippets") if hasattr(group, "get") else None
    if snippets is None:
        raise ValueError(f"{where} has no snippets")
    values = snippets[()]
    if getattr(values, "ndim", None) != 1 or not all(isinstance(value, bytes) for value in values):
        raise ValueError(f"{where}: snippets must be a list of byte strings, got {getattr(values, 'dtype', values)!r}")
    return [bytes(value).strip(b"\n") for value in values]


Windows = Mapping[str, tuple[np.ndarray, np.ndarray]]


def _enough(roles: Windows, least: int | None) -> tuple[Windows, dict[str, int]]:
    if least is not None and least < 2:
        raise ValueError(f"min_examples must be >= 2, got {least}")
    few = {role: len(inputs) for role, (inputs, _) in roles.items() if len(inputs) < (least or 2)}
    if few and least is None:
        role, count = next(iter(few.items()))
        raise ValueError(
            f"min_examples must be >= 2 where roles have fewer windows, got None; support and query need one each; "
            f"{len(few)} such roles, the first is {role} with {count}"
        )
    if len(few) == len(roles):
        most = max(few.values())
        raise ValueError(f"min_examples must be <= {most}, the most windows of a role, got {least}")
    kept = {role: both for role, both in roles.items() if role not in few}
    return kept, {"dropped_users": len(few), "dropped_examples": sum(few.values())}
