"""Every key of a config with its default; docs/configs.md has their bounds."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

GROUPS = ("param", "table", "personal", "inner")
"""Groups of parameters with an optimizer of their own; any other goes with "param"."""

LEARNER: dict[str, Any] = {
    "name": "maml",
    "inner": "gradient",
    "inner_steps": 5,
    "inner_rate": 0.1,
    "inner_optimizer": "sgd",  # of "optimized" and "implicit"
    "inner_clip": 0.0,  # of these: the norm of a user's gradient in a step; 0: none
    "minibatch": 0,  # of "optimized": examples in an inner step; 0: all that a user shows
    "strength": 1.0,  # of "implicit": weight of half the squared distance from the start
    "cg_steps": 5,  # of "implicit": conjugate gradients in the outer derivative
    "keep": "always",  # or "if_it_helps", "if_it_moves", "gated": how far a user adapts, from his support
    "folds": 4,  # of these two: parts of the support held back in turn
    "least_move": 0.0,  # of "if_it_moves": mean square by which predictions of the support must move
    "margin": 0.0,  # of "if_it_helps": standard errors by which adapting must gain
    "rates": "fixed",  # or "learned", one for each personal number (Meta-SGD), or "log": kept positive;
    # "per_step": one for each layer and step (MAML++)
    "first_order": False,
    "backward": "plain",  # or "remat", "mixed": less memory in the outer derivative, the same result
    "unroll": 1,  # inner steps in a turn of the compiled loop: faster, and longer to compile
    "shrink": 0.0,  # pseudo-examples of no loss in the support loss
    "pull": 0.0,  # weight of the squared distance from the start in it
    "anneal": 0,  # of "multi_step": outer steps until only the last inner step counts
    "second_from": 0,  # of "multi_step": the outer step from which on the derivative is of second order
    "serial": False,  # one call of the optimizer for each user of the batch, one after the other
    "root": 0.0,  # > 0: a user's loss is sqrt(mean + root)
    "adapts": "personal",  # a layer set, or several joined by "+"
    "aggregator": "mean",
    "clip": 0.0,  # of "clipped": the norm of one user's gradient
    "block": 0,  # users held in memory at once; 0: all
}

CONTINUAL: dict[str, Any] = {
    "penalty": ("anchor",),
    "anchor_strength": 0.0,
    "ewc_strength": 0.0,
    "ewc_decay": 1.0,
    "ewc_draws": 4,
    "ewc_exact": True,
    "memory": "reservoir",
    "capacity": 256,  # user-tasks
    "replayed": 32,  # remembered tasks beside the fresh ones in each step
    "draws": 16,  # batches of the stage that ended offered to the memory
}

EVALUATION: dict[str, Any] = {
    "metric": "rmse",
    "shots": (1, 2, 4, 8, 16),
    "steps": (0, 1, 2, 5, 10),
    "headline_shots": 16,
    "headline_steps": 5,
    "bootstrap": 2000,
}


def default(data: Mapping[str, Any], model: Mapping[str, Any]) -> Any:
    """Every key of a config with its default; ``data`` and ``model`` are the options of the chosen source and model.

    A shipped config starts from this (``experiment.config_for``) and sets values; the result is locked, so a
    misspelt key is refused where it is written.
    """
    config = ConfigDict(
        {
            "name": "",
            "seed": 0,  # the first seed's root key
            "seeds": 1,  # how many, trained together under vmap
            "strategies": ("static", "naive", "joint_so_far", "continual"),
            "steps": 100,  # outer steps in a stage, the same for every strategy
            "users": 32,  # fresh tasks in an outer step
            "chunk": 50,  # outer steps in one dispatch
            "start_from": "",  # a version's folder: what it has of these parameters begins where it ended
            "bank": True,  # a version keeps what every user adapted to, for one who returns
            "data": dict(data),
            "model": dict(model),
            "learner": dict(LEARNER),
            "schedule": "constant",  # or "cosine", anew in each stage
            "warmup": 0,  # outer steps of a cosine's rise
            "clip_norm": 0.0,  # of the whole gradient; 0: none
            "optimizer": {  # by group of parameters; a group without a line of its own goes with "param"
                group: {"name": "adam", "rate": 1e-3, "weight_decay": 0.0} for group in GROUPS
            },
            "continual": dict(CONTINUAL),
            "evaluation": dict(EVALUATION),
            "log_every": 50,
            "checkpoint_every": 200,
            "validate_every": 100,
            "progress": True,
            "tensorboard": True,
            "profile": "",
            "devices": 0,  # 0: all there are
        }
    )
    return config.lock()
