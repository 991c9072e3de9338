"""One MAML outer step of a transformer with LoRA personal parameters, measured: one process, one way to differentiate.

    python -m benchmarks.memory_step --users 4 --blocks 1 --inner remat

Prints a JSON line; ``--gradient FILE.npz`` keeps the first step's gradient. ``benchmarks/memory.py`` runs them all.
"""

import argparse
import json
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from metapers import aggregate, inner, keys, learners, models, scores, trees
from metapers.base import Batch, Learner, Model, Params, Task, example_loss

INNER = {"plain": {}, "remat": {"remat": True}, "mixed": {"mixed": True}}
VOCABULARY = 96
SIZES = {  # name: (default, with --small, meaning)
    "width": (256, 16, "of the network"),
    "layers": (4, 2, "of the network"),
    "length": (128, 8, "places in a sequence"),
    "users": (4, 4, "in an outer step"),
    "sequences": (2, 2, "of a user's support, and of the query"),
    "inner-steps": (5, 3, "of gradient descent on the support"),
    "rank": (8, 2, "of what is added to the query and value kernels of a block"),
}


class Kept(NamedTuple):
    """The gradient that the optimizer was last given."""

    gradient: Params


def sizes_of(parser: argparse.ArgumentParser) -> None:
    """The flags for sizes."""
    for name, (default, small, told) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, help=f"{told} (default {default}; with --small {small})")
    parser.add_argument("--small", action="store_true", help="sizes for a test")


def filled(given: argparse.Namespace) -> dict[str, int]:
    """All sizes by name. Raises ValueError if one is below 1."""
    found = {}
    for name, (default, small, _) in SIZES.items():
        value = getattr(given, name.replace("-", "_"))
        found[name] = value if value is not None else small if given.small else default
        if found[name] < 1:
            raise ValueError(f"{name} must be >= 1, got {found[name]}")
    return found


def model_of(sizes: dict[str, int]) -> Model:
    told = {"length": sizes["length"], "width": sizes["width"], "layers": sizes["layers"], "heads": 4}
    return models.transformer(VOCABULARY, **told, low_rank=sizes["rank"], adapts=models.ADAPTS["low_rank"])


def tasks_of(sizes: dict[str, int]) -> Task:
    """Random sequences, what follows each place as its target."""
    shape = (sizes["users"], 2, sizes["sequences"], sizes["length"] + 1)
    ids = jax.random.randint(jax.random.key(1), shape, 1, VOCABULARY, jnp.int32)
    mask = jnp.ones(shape[:1] + shape[2:3], bool)
    support, query = (Batch(ids[:, i, :, :-1], ids[:, i, :, 1:], mask) for i in (0, 1))
    users = jnp.arange(sizes["users"], dtype=jnp.int32)
    return Task(support, query, users, {"period": jnp.zeros_like(users)})


def learner_of(sizes: dict[str, int], how: str, blocks: int) -> Learner:
    """MAML whose optimizer state remembers the gradient."""
    loss_fn = example_loss(model_of(sizes), scores.next_token())
    adapt = inner.gradient(loss_fn, sizes["inner-steps"], 0.1, **INNER[how])
    keep = optax.GradientTransformation(lambda params: Kept(trees.zeros(params)), lambda g, s, p=None: (g, Kept(g)))
    aggregator = aggregate.blocks(aggregate.mean(), blocks) if blocks else aggregate.mean()
    return learners.maml(loss_fn, adapt, optax.chain(keep, optax.adam(1e-3)), aggregator=aggregator)


def started(sizes: dict[str, int]) -> Params:
    """First parameters, the added products no longer zero: else half of their gradients would be."""
    params = model_of(sizes).init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params.personal)
    drawn = jax.random.split(jax.random.key(2), len(leaves))
    moved = [leaf + 0.05 * jax.random.normal(key, leaf.shape, leaf.dtype) for leaf, key in zip(leaves, drawn)]
    return params._replace(personal=jax.tree.unflatten(structure, moved))


def measure(sizes: dict[str, int], how: str, blocks: int, steps: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What a step costs, and the gradient of the first."""
    learner, tasks, root = learner_of(sizes, how, blocks), tasks_of(sizes), keys.root(0)
    mask = jnp.ones(sizes["users"], bool)
    state = jax.jit(learner.init)(started(sizes), tasks)
    before = time.perf_counter()
    step = jax.jit(learner.update, donate_argnums=0).lower(state, {"fresh": (tasks, mask)}, root).compile()
    compiled = time.perf_counter() - before
    whole = timing.peak_mb()
    again = timing.forget_peak()  # or what the compiler held would hide the step
    resting = timing.peak_mb()
    state, scores, _ = jax.block_until_ready(step(state, {"fresh": (tasks, mask)}, root))
    kept = next(part for part in state.opt_state if isinstance(part, Kept))
    gradient, loss = (
        [np.asarray(leaf) for leaf in jax.tree.leaves(kept.gradient)],
        float(np.mean(scores["fresh"]["losses"])),
    )
    took = []
    for _ in range(steps):
        before = time.perf_counter()
        state, scores, _ = jax.block_until_ready(step(state, {"fresh": (tasks, mask)}, root))
        took.append(time.perf_counter() - before)
    analysis = step.memory_analysis()
    return {
        "temp_mb": analysis.temp_size_in_bytes / 2**20 if analysis else None,
        "step_mb": timing.peak_mb() - resting if again else None,
        "peak_rss_mb": max(whole, timing.peak_mb()),
        "seconds": sorted(took)[len(took) // 2],
        "compile_s": compiled,
        "loss": loss,
        "parameters": sum(leaf.size for leaf in gradient),
        "personal": sum(leaf.size for leaf in jax.tree.leaves(state.params.personal)),
        **timing.on_device(jax.devices()[0].memory_stats()),
    }, gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes_of(parser)
    parser.add_argument("--inner", choices=list(INNER), default="plain")
    parser.add_argument("--blocks", type=int, default=0, help="users at a time; 0: all at once")
    parser.add_argument("--timed", type=int, default=3, help="steps after the first")
    parser.add_argument("--gradient", metavar="FILE.npz")
    given = parser.parse_args()
    told, gradient = measure(filled(given), given.inner, given.blocks, max(1, given.timed))
    if given.gradient:
        np.savez(given.gradient, **{str(i): leaf for i, leaf in enumerate(gradient)})
    print(json.dumps(told))


if __name__ == "__main__":
    main()
