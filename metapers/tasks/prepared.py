"""A set of TensorFlow Datasets as it lies prepared on a disk, or prepared first: reading it needs no TensorFlow."""

import importlib.util
import pathlib
from collections.abc import Iterable
from typing import Any


def builder(
    name: str,
    data_dir: str | pathlib.Path | None,
    features: Iterable[str],
    *,
    download: bool,
    download_dir: str | pathlib.Path | None,
) -> Any:
    """TFDS's builder of ``name`` in array_record under ``data_dir``, ready to be read.

    ``download``: prepare it first where it is not, which needs TensorFlow; archives already in ``download_dir``
    (<data_dir>/downloads) are not fetched again.

    Raises:
      FileNotFoundError: where it is not prepared; ImportError: where preparing lacks TensorFlow.
      ValueError: for another file format, or without ``features``.
    """
    import tensorflow_datasets as tfds

    try:
        found: Any = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except ValueError as error:  # it was prepared in another one
        raise ValueError(f"{name} in {data_dir} must be in the format array_record, got: {error}") from error
    if not found.is_prepared():
        _prepare(tfds, found, download=download, download_dir=download_dir)
    ready: Any = tfds.builder_from_directory(found.data_path)
    if missing := [feature for feature in features if feature not in ready.info.features]:
        there = sorted(ready.info.features)
        raise ValueError(f"{name} lacks the features {missing}; expected {list(features)}, found {there}")
    return ready


def _prepare(tfds: Any, found: Any, *, download: bool, download_dir: str | pathlib.Path | None) -> None:
    needs = "needs TensorFlow (pip install 'metapers[tensorflow]'), once: reading works without"
    if not download:
        raise FileNotFoundError(
            f"{found.data_path} is not prepared: download=True (--config.data.download=True) does it, which {needs}"
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(f"preparing {found.data_path} {needs}")
    only_here = tfds.download.DownloadConfig(try_download_gcs=False)
    found.download_and_prepare(download_dir=download_dir, download_config=only_here)
