"""Where the Omniglot characters come from: the original files or TensorFlow Datasets, one result for both."""

import io
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from metapers.tasks import prepared

SIDE = 105  # pixels of an original image
PATH = re.compile(r"(?P<alphabet>[^/]+)/character(?P<number>\d\d)/(?P<label>\d{4})_(?P<drawing>\d\d)\.png$")
FEATURES = ("image", "label")
BLOCK = 4096  # examples read at a time


class Characters(NamedTuple):
    """Handwritten characters in the order of Omniglot's own numbers, with the drawings of each in a fixed order."""

    images: np.ndarray  # uint8 [characters, drawings, size, size, 1]: ink 255, paper 0
    names: tuple[str, ...]  # "Greek/character01"
    source: str
    version: str
    size: int
    smooth: bool


class _Drawing(NamedTuple):
    where: str  # for messages
    label: int  # from 0
    name: str
    png: bytes


def characters_from_folder(
    path: str | pathlib.Path,
    parts: Sequence[str] = ("images_background", "images_evaluation"),
    *,
    size: int = 28,
    smooth: bool = True,
) -> Characters:
    """Characters from the original files in a folder: for each part ``<part>.zip`` or the unzipped folder ``<part>``.

    The small sets are parts as well ("images_background_small1"). Images are scaled from 105 x 105 to ``size`` x
    ``size`` and inverted. ``smooth``: grey values, through Pillow's Lanczos filter; else black and white, the nearest
    pixel, which is what the reference codes get: they ask Pillow for Lanczos, but give it 1-bit images, for which it
    takes the nearest. Drawings are put in an order that their pixels alone decide, so that every origin agrees.

    Raises:
      FileNotFoundError: where a part is missing.
      ValueError: for ``size`` < 1, a file that cannot be read, another size of image, a character with more or fewer
        drawings than the others, or parts without images.
    """
    path = pathlib.Path(path)
    found = (drawing for part in parts for drawing in _files(path, part))
    return _collect(found, "original files", "+".join(parts), size=size, smooth=smooth)


def characters_from_tfds(
    data_dir: str | pathlib.Path | None = None,
    splits: Sequence[str] = ("train", "test"),
    *,
    size: int = 28,
    smooth: bool = True,
    download: bool = False,
    download_dir: str | pathlib.Path | None = None,
) -> Characters:
    """Characters of the data set ``omniglot`` as TFDS has prepared it (array_record) under ``data_dir``.

    ``splits`` of train (background), test (evaluation), small1 and small2; ``size`` and ``smooth`` as in
    ``characters_from_folder``. ``download``: prepare it first where it is not, which needs TensorFlow; archives
    already in ``download_dir`` (<data_dir>/downloads) are not fetched again.

    Raises:
      FileNotFoundError: where it is not prepared; ImportError: where preparing lacks TensorFlow.
      ValueError: for another file format, unknown splits, other features, and as ``characters_from_folder``.
    """
    import tensorflow_datasets as tfds

    builder = prepared.builder("omniglot", data_dir, FEATURES, download=download, download_dir=download_dir)
    if unknown := [split for split in splits if split not in builder.info.splits]:
        raise ValueError(f"splits must be among {sorted(builder.info.splits)}, got {unknown}")
    drawings = (drawing for split in splits for drawing in _examples(tfds, builder, split))
    version = f"{builder.info.version} {'+'.join(splits)}"
    return _collect(drawings, "tfds omniglot", version, size=size, smooth=smooth)


def _files(path: pathlib.Path, part: str) -> Iterator[_Drawing]:
    folder, packed = path / part, path / f"{part}.zip"
    if folder.is_dir():
        for file in sorted(folder.rglob("*.png")):
            yield _named(file.relative_to(path).as_posix(), file.read_bytes())
        return
    if not packed.is_file():
        raise FileNotFoundError(f"{path} holds neither the folder {part} nor {part}.zip of Omniglot")
    try:
        with zipfile.ZipFile(packed) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".png") and not name.startswith("__MACOSX/"):
                    yield _named(name, archive.read(name))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{packed} cannot be read as a .zip file: {error}") from error


def _named(where: str, png: bytes) -> _Drawing:
    match = PATH.search(where)
    if match is None:
        raise ValueError(f"{where}: expected <alphabet>/character<NN>/<NNNN>_<NN>.png")
    return _Drawing(where, int(match["label"]) - 1, f"{match['alphabet']}/character{match['number']}", png)


def _examples(tfds: Any, builder: Any, split: str) -> Iterator[_Drawing]:
    # the PNG as it is: without TensorFlow, TFDS makes 1-bit images of one channel with the values 0 and 1
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    labels = builder.info.features["label"].names
    for start in range(0, len(source), BLOCK):
        rows = range(start, min(start + BLOCK, len(source)))
        for row, example in zip(rows, source.__getitems__(rows), strict=True):
            label = int(example["label"])
            alphabet, number = labels[label].rsplit("_", 1)  # "Greek_0"
            name = f"{alphabet}/character{int(number) + 1:02d}"
            yield _Drawing(f"omniglot {split} example {row}", label, name, example["image"])


def _collect(drawings: Iterator[_Drawing], source: str, version: str, *, size: int, smooth: bool) -> Characters:
    if size < 1:
        raise ValueError(f"size must be >= 1, got {size}")
    found: dict[int, list[bytes]] = {}
    names: dict[int, str] = {}
    for drawing in drawings:
        if names.setdefault(drawing.label, drawing.name) != drawing.name:
            raise ValueError(f"{drawing.where}: its number belongs to {names[drawing.label]}, not to {drawing.name}")
        found.setdefault(drawing.label, []).append(_pixels(drawing, size, smooth))
    if not found:
        raise ValueError(f"{source} {version} must hold images, got none")
    order = sorted(found)
    usual = len(found[order[0]])
    for label in order:
        if len(found[label]) != usual:
            first = f"the {usual} drawings of {names[order[0]]}"
            raise ValueError(f"{names[label]} must have as many as {first}, got {len(found[label])}")
    pixels = b"".join(one for label in order for one in sorted(found[label]))
    images = np.frombuffer(pixels, np.uint8).reshape(len(order), usual, size, size, 1)
    return Characters(images, tuple(names[label] for label in order), source, version, size, smooth)


def _pixels(drawing: _Drawing, size: int, smooth: bool) -> bytes:
    try:
        with Image.open(io.BytesIO(drawing.png)) as opened:
            image = opened.convert("L")
    except (OSError, SyntaxError) as error:  # what Pillow raises for a file that is no image, or a broken one
        raise ValueError(f"{drawing.where} cannot be read as an image: {error}") from error
    if image.size != (SIDE, SIDE):
        raise ValueError(f"{drawing.where} must be {SIDE} x {SIDE} pixels, got {image.size[0]} x {image.size[1]}")
    way = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return (255 - np.asarray(image.resize((size, size), way), np.uint8)).tobytes()
