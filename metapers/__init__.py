"""Continual meta-learned personalization: one shared backbone, adapted to each user in a few compiled steps.

From a notebook::

    import metapers
    metapers.use_all_cores()                     # before JAX is first used
    from metapers import serving
    served = serving.load("runs/demo", arm="continual", version=-1, seed=0)
    path = served.adapt(inputs, targets)         # one user's support: personal [steps + 1, ...], the start first
    personal = jax.tree.map(lambda leaf: leaf[-1], path)
    outputs = served.predict(new_inputs, personal)
"""

import os

from metapers._version import __version__ as __version__


def use_all_cores(count: int | None = None) -> int:
    """Makes every CPU core (or ``count`` of them) a JAX device of its own; returns how many devices there are.

    To be called before JAX is first used. Users or seeds are then spread over the cores, which is faster than
    one device's threads for many small products.

    Raises:
      ValueError: if ``count`` is below 1.
      RuntimeError: if JAX was already used with another number of devices.
    """
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = cores if count is None else count
    if wanted < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        if len(jax.devices()) != wanted:
            raise RuntimeError(
                f"use_all_cores must run before JAX is first used: it already has {len(jax.devices())} devices, "
                f"wanted {wanted}"
            ) from error
    return len(jax.devices())
