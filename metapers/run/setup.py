"""The parts of a run: what its config builds, and the version that it begins with."""

from metapers.run.warm_start import warm_start
from metapers.spec import Components, Config
from metapers.spec import components as build_components


def components(config: Config) -> Components:
    """``spec.components`` with the version that ``config.start_from`` names.

    Raises:
      ConfigError, FileNotFoundError: as ``spec.components`` and ``warm_start``.
      CorruptVersion: if a file of that version is not what was saved.
    """
    begun = warm_start(config)
    return build_components(config)._replace(warm_start=begun)
