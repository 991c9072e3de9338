"""The idx format of the MNIST family: one array in a file, gzipped or plain."""

import gzip
import math
import pathlib
import zlib

import numpy as np

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(folder: str | pathlib.Path, name: str) -> np.ndarray:
    """The array in ``folder``/``name``, or in ``name``.gz where that is what lies there; in its own dtype, read-only.

    The format is big-endian: two zero bytes, a byte for the type of the numbers, one for the number of axes, the
    size of each axis as uint32, the numbers. Raises FileNotFoundError where there is neither file, ValueError for
    one that is damaged, cut short or too long, or that is no idx file.
    """
    path = _existing(pathlib.Path(folder), name)
    data = _bytes(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in DTYPES or not data[3]:
        raise ValueError(f"{path.name} is no idx file: it begins with {data[:4].hex() or 'nothing'}")
    dtype, axes = np.dtype(DTYPES[data[2]]), data[3]
    first = 4 + 4 * axes
    if len(data) < first:
        raise ValueError(f"{path.name} is cut short: {len(data)} bytes where its head alone has {first}")
    shape = np.frombuffer(data, ">u4", axes, offset=4).tolist()
    expected = first + dtype.itemsize * math.prod(shape)
    if len(data) != expected:
        raise ValueError(f"{path.name} must hold {expected} bytes for an array {shape}, got {len(data)}")
    return np.frombuffer(data, dtype, offset=first).reshape(shape)


def _existing(folder: pathlib.Path, name: str) -> pathlib.Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} holds neither {name}.gz nor {name}")


def _bytes(path: pathlib.Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path.name} cannot be read as gzip: {error}") from error
