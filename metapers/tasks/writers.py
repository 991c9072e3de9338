"""MNIST digits by the person who wrote them: adapting to a hand is the task, writers never seen judge it."""

import pathlib

import numpy as np

from metapers.base import Stream
from metapers.members import Member
from metapers.options import Option
from metapers.tasks.facts import CUT_OPTIONS, FOLD, SourceFacts, classes_and_width, reads_folder
from metapers.tasks.idx import read_idx
from metapers.tasks.ragged import Examples, stream

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
ORIGINS = "qmnist-train-labels-idx2-int"  # row i tells where MNIST's training digit i came from
SIDE, CLASSES = 28, 10
SIZES = (28, 14, 7)


def writers(
    path: str | pathlib.Path,
    *,
    size: int = 28,
    periods: int = 1,
    fold: int = 0,
    support: int = 16,
    query: int = 32,
    p_full_support: float = 0.5,
    p_from_first: float = 0.0,
    length_power: float = 0.0,
) -> Stream:
    """A stream of 539 writers of MNIST's 60,000 training digits; an example is one digit, its target the class.

    Inputs: float [size, size, 1] in 0..1, the means of blocks of 28 / ``size`` pixels squared. Targets: int 0..9.
    A user is a writer by the number that NIST gave; time is the place of a digit among the writer's own, which is
    the order of the boxes on the form (many forms begin with 0 to 9 in turn). ``periods``: 1, or 2: the employees of
    NIST's series 0, then the school students of series 4, whose hands differ; nobody returns. A writer's digits cut
    into periods would be one hand all along, so there is no such choice.

    ``path`` is a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte of MNIST and
    qmnist-train-labels-idx2-int of QMNIST (Yadav and Bottou 2019), whose columns are class, series, writer, the
    writer's digit index and four more; each gzipped (.gz) or plain. Provenance: ``classes``, ``size``, ``series`` by
    period, and what ``ragged.stream`` adds. At size 28 the digits take 0.19 GB in float32, and 0.65 GB while the stream
    is made.

    Raises:
      FileNotFoundError: for a missing file.
      ValueError: for ``size`` not in 28, 14, 7; ``periods`` other than 1 and the number of series; a file that cannot
        be read or has another shape; a class outside 0..9 or other than QMNIST's, naming the row; and as
        ``ragged.stream``.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {SIZES}, got {size}")
    images, labels, origins = _read(path)
    series, period = np.unique(origins[:, 1], return_inverse=True)
    if periods not in (1, len(series)):
        raise ValueError(f"periods must be 1 or {len(series)}, the number of NIST series, got {periods}")
    names, user = np.unique(origins[:, 2], return_inverse=True)
    groups = [series.tolist()] if periods == 1 else [[one] for one in series.tolist()]
    about = {"source": "MNIST by writer", "version": "QMNIST labels", "classes": CLASSES, "size": size}
    return stream(
        Examples(
            tuple(str(name) for name in names.tolist()),
            user,
            period if periods > 1 else np.zeros_like(period),
            origins[:, 3],
            _pooled(images, size),
            labels.astype(np.int32),
        ),
        periods=periods,
        fold=fold,
        support=support,
        query=query,
        p_full_support=p_full_support,
        p_from_first=p_from_first,
        length_power=length_power,
        about=about | {"series": groups},
    )


WRITERS_MEMBER = Member(
    writers,
    options={
        "path": Option(
            None, type=str, doc="folder with two files of MNIST and qmnist-train-labels-idx2-int (.gz or plain)"
        ),
        "size": Option(28, choices=SIZES, doc="height and width of an image in pixels: means of blocks"),
        "periods": Option(1, choices=(1, 2), doc="number of periods; 2: the employees, then the school students"),
        "fold": FOLD,
        **CUT_OPTIONS,
    },
    paper="Yadav, Bottou 2019, arXiv:1905.10498",
    example={"size": 7, "support": 4, "query": 8},
    facts=SourceFacts(
        objective="cross_entropy", sizes=classes_and_width, inputs="images", targets="classes", from_files=reads_folder
    ),
    doc="handwritten digits by the writer (MNIST)",
)


def _read(folder: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images, labels, origins = (read_idx(folder, name) for name in (IMAGES, LABELS, ORIGINS))
    count = len(images)
    expected = ((IMAGES, images, (count, SIDE, SIDE), "u1"), (LABELS, labels, (count,), "u1"))
    for name, array, shape, kind in (*expected, (ORIGINS, origins, (count, 8), "i4")):
        if array.shape != shape or array.dtype.str[1:] != kind:
            raise ValueError(
                f"{name} must be {np.dtype(kind)} of shape {list(shape)}, got {array.dtype.name} {list(array.shape)}"
            )
    if not count:
        raise ValueError(f"{IMAGES} must hold at least one digit, got none")
    origins = origins.astype(np.int64)
    for bad, bound in (
        (labels >= CLASSES, f"must be between 0 and {CLASSES - 1}, got"),
        (labels != origins[:, 0], f"must be the class of {ORIGINS}, {{other}}, got"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"{LABELS} row {row} {bound.format(other=origins[row, 0])} {labels[row]}")
    return images, labels, origins


def _pooled(images: np.ndarray, size: int) -> np.ndarray:
    block = SIDE // size
    pixels = np.zeros((len(images), size, size), np.float32)
    for row in range(block):  # one corner of every block at a time: uint8 stays uint8 until it is added
        for column in range(block):
            pixels += images[:, row::block, column::block]
    pixels /= 255 * block**2
    return pixels[..., None]
