"""A finished version in the hands of a notebook or a service: adapt a user, predict for that user."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metapers import store
from metapers.base import Array, Batch, InnerLoop, Model, Objective, Params, Stream, Tree
from metapers.inner.path import entries, entry, length
from metapers.options import ConfigError
from metapers.run import input_schema
from metapers.run.load import opened, params_of, tuned
from metapers.spec import Config, building
from metapers.spec.arms import arm_of
from metapers.spec.heads import objective
from metapers.spec.inner_loops import inner_loop, rate_before_tuning, tuning_grid, tuning_loop
from metapers.workdir import read_json, versions_of


class Served(NamedTuple):
    """One seed of one version, ready to adapt and to predict."""

    config: Config
    model: Model
    objective: Objective
    params: Params  # one seed's: no leading axis
    lineage: Mapping[str, Any]
    bank: Mapping[str, Any]  # personal [rows, ...], period [rows]; one seed's
    inner_loop: InnerLoop

    def adapt(self, inputs: Tree, targets: Tree, *, start: Tree | None = None, step: int | None = None) -> Tree:
        """One user's path over the inner steps on a support set: personal [steps + 1, ...], the start first; or, with
        ``step``, the personal parameters [...] of that entry alone (-1: after the last), which takes less time.

        ``inputs`` leaves [n, ...], ``targets`` [n, ...]; ``start``: personal parameters instead of the version's
        start, as a row of ``bank``. Where the user diverged (``inner.path``) an entry is the start instead, with a
        RuntimeWarning. Compiles once for each step and ``input_schema.bucket(n)``: n is padded to a power of two or one
        and a half of it, and the padding is masked. ValueError for an empty or ragged support, for a step that the
        path does not have, and for examples of another form (``input_schema.read``), as a NaN or an unknown item.
        """
        params, support = self._support(inputs, targets, start)
        found, diverged = _adapt(self.model, self.inner_loop, step, params, support)
        _tell(diverged, step)
        return found

    def predict(self, inputs: Tree, personal: Tree | None = None) -> Array:
        """Outputs [n, ...] for ``inputs`` [n, ...] with one user's ``personal`` parameters, or the start's; compiles
        and raises as ``adapt`` does."""
        params = self.params if personal is None else self.params._replace(personal=personal)
        read, count = self._read("inputs", inputs)
        found = _apply(self.model.apply, params, *input_schema.padded(read, count))
        return found if input_schema.bucket(count) == count else jax.tree.map(lambda leaf: leaf[:count], found)

    def adapt_and_predict(
        self, inputs: Tree, targets: Tree, query: Tree, *, start: Tree | None = None, step: int = -1
    ) -> np.ndarray:
        """Outputs [m, ...], on the host, for ``query`` [m, ...] of a user who is adapted to a support set as by
        ``adapt``, which says what is warned of and raised, and not kept: one program, so the least time from examples
        to answers. Compiles once for each step and bucket of n and m."""
        if step is None:
            raise ValueError("step must be an entry of the path, -1 for the last, got None")
        params, support = self._support(inputs, targets, start)
        read, count = self._read("query", query)
        rows = input_schema.padded(read, count)
        found, diverged = jax.device_get(_answer(self.model, self.inner_loop, step, params, support, *rows))
        _tell(diverged, step)
        return jax.tree.map(lambda leaf: leaf[:count], found)

    def _support(self, inputs: Tree, targets: Tree, start: Tree | None) -> tuple[Params, Batch]:
        (read, count), (told, answers) = self._read("inputs", inputs), self._read("targets", targets)
        if count == 0:
            raise ValueError("inputs must hold >= 1 example to adapt to, got 0: predict(inputs) answers from the start")
        if count != answers:
            raise ValueError(f"targets must hold {count} rows, as inputs do, got {answers}")
        params = self.params if start is None else self.params._replace(personal=start)
        (rows, mask), (labels, _) = input_schema.padded(read, count), input_schema.padded(told, count)
        return params, Batch(rows, labels, mask)

    def _read(self, name: str, tree: Tree) -> tuple[Tree, int]:
        specs = self.lineage.get("examples", {})  # an older version does not say
        return input_schema.read(name, tree, specs.get("targets" if name == "targets" else "inputs"))

    def stream(self) -> Stream:
        """The stream that the run was trained on, read again from its source."""
        return building.stream(self.config)


def load(
    workdir: str | Path, arm: str = "continual", version: int = -1, seed: int = 0, plugins: Sequence[str] = ()
) -> Served:
    """Version ``version`` (-1: the last) of an arm of a finished run, one of its seeds.

    Its users take the inner steps of the headline, ``config.evaluation.headline_steps``: what is served is what was
    evaluated. An arm without an inner loop is tuned at the rate that evaluation chose on validation users; before,
    at the rate of the training's own records, with a RuntimeWarning.

    Raises:
      FileNotFoundError: if the workdir holds no run, or not this version.
      ValueError: for an unknown arm or a seed the run does not have.
      CorruptVersion: if a file is not what was saved.
    """
    config = opened(workdir, plugins)
    chosen = arm_of(config, "arm", arm)
    if not 0 <= seed < config.seeds:
        raise ConfigError("seed", seed, f"between 0 and {config.seeds - 1}")
    tree, told = store.load_version(versions_of(workdir, arm), version)
    one = jax.tree.map(lambda leaf: leaf[seed], {"params": tree["params"], "bank": tree["bank"]})
    model = building.model(config, told["sizes"])
    params = jax.tree.map(jnp.asarray, params_of(one))
    steps = config.evaluation.headline_steps
    if not chosen.adapts:
        rate = tuned(workdir).get(arm)
        if rate is None and tuning_grid(config):
            warnings.warn(
                f"{arm!r} was trained without an inner loop, and no rate is chosen yet for its users: "
                f"eval.py --workdir={workdir} chooses one on validation users; until then they are tuned cautiously",
                RuntimeWarning,
                stacklevel=2,
            )
        rate = rate or rate_before_tuning(config)
        loop = tuning_loop(config, model, steps=steps, rate=rate)
    else:
        loop = inner_loop(config, model, steps=steps)
    if not jax.tree.leaves(params.inner):
        params = params._replace(inner=loop.init(params))
    return Served(config, model, objective(config), params, told, one["bank"], loop)


def provenance(workdir: str | Path) -> dict[str, Any]:
    """Where the data of a run came from."""
    return read_json(Path(workdir) / "provenance.json")


def _path(model: Model, inner_loop: InnerLoop, step: int | None, params: Params, support: Batch) -> tuple[Tree, Array]:
    adapted, path = inner_loop.adapt(params, support, None)
    if step is None:
        return entries(model, params, support, path)
    last = length(path) - 1
    if not -last - 1 <= step <= last:
        raise ValueError(f"step must be between {-last - 1} and {last}, got {step}")
    if last and step in (-1, last):  # without the others: who asks for the end alone waits for nothing else
        path = jax.tree.map(lambda start, end: jnp.stack([start, end]), params.personal, adapted.personal)
        return entry(model, params, support, path, 1)
    return entry(model, params, support, path, step % (last + 1))


def _outputs(
    model: Model, inner_loop: InnerLoop, step: int, params: Params, support: Batch, inputs: Tree, mask: Array
) -> tuple[Array, Array]:
    personal, diverged = _path(model, inner_loop, step, params, support)
    return model.apply(params._replace(personal=personal), inputs, mask, None), diverged


def _tell(diverged: Array, step: int | None) -> None:
    if (lost := np.flatnonzero(diverged)).size:
        one = "by the last inner step" if step == -1 else f"by inner step {step}"
        where = f"after {lost[0]} of {diverged.size - 1} inner steps" if step is None else one
        warnings.warn(
            f"adapting diverged {where}: the start in {'their' if step is None else 'its'} place",
            RuntimeWarning,
            stacklevel=3,
        )


_adapt = jax.jit(_path, static_argnums=(0, 1, 2))
_answer = jax.jit(_outputs, static_argnums=(0, 1, 2))
_apply = jax.jit(lambda apply, params, inputs, mask: apply(params, inputs, mask, None), static_argnums=0)
