"""The keys of a config that belong to no member, and the sections that hold members."""

from metapers.options import Choice, Option, Schema

GROUPS = ("param", "table", "personal", "inner")
"""Groups of parameters with an optimizer of their own; any other group has the optimizer of "param"."""

EVALUATION: Schema = {
    "metric": Option("rmse", doc="the metric of the headline, one that the objective has"),
    "shots": Option((1, 2, 4, 8, 16), least=1, doc="support sizes, increasing"),
    "steps": Option((0, 1, 2, 5, 10), least=0, doc="inner steps, increasing; 0 is the start"),
    "headline_shots": Option(16, least=1, doc="the support size of the headline, one of `shots`"),
    "headline_steps": Option(5, least=0, doc="the inner steps of the headline, one of `steps`"),
    "bootstrap": Option(2000, least=100, doc="resamples behind each interval"),
}

PLUGINS = Option((), item=str, doc="modules of other packages that register members")

ROOT: Schema = {
    "name": Option("", doc="title of the run"),
    "plugins": PLUGINS,
    "seed": Option(0, least=0, doc="the first seed"),
    "seeds": Option(1, least=1, doc="number of seeds, trained together"),
    "strategies": Option(("static", "naive", "joint_so_far", "continual"), doc="ways to learn from the stream"),
    "outer_steps": Option(100, least=1, doc="outer steps in each stage, the same for every strategy"),
    "meta_batch": Option(32, least=1, doc="new user-tasks in an outer step"),
    "chunk": Option(50, least=1, doc="outer steps in one compiled call"),
    "user_block": Option(None, type=int, least=1, doc="users computed at a time; None: all of a batch"),
    "clip_norm": Option(None, type=float, above=0.0, doc="bound on the norm of the outer gradient"),
    "start_from": Option(None, type=str, doc="folder of a version whose parameters this run begins with"),
    "bank": Option(True, doc="a version keeps the adapted parameters of each user for a later return"),
    "data": Choice("source", "linear_gaussian", doc="the stream of users"),
    "model": Choice("model", "linear", doc="the network"),
    "inner": Choice("inner_loop", "gradient", optional=True, doc="how one user adapts"),
    "gate": Choice("gate", None, optional=True, doc="whether, and how far, a user adapts; none: always, all the way"),
    "learner": Choice("learner", "maml", doc="the outer loop"),
    "aggregator": Choice("aggregator", "mean", doc="how the gradients of users become one"),
    "optimizer": {
        group: Choice("optimizer", "adam", doc=f"the outer optimizer of the group {group!r}") for group in GROUPS
    },
    "schedule": Choice("schedule", "constant", doc="the rates of the outer optimizers over outer steps"),
    "penalties": Choice("penalty", (), many=True, doc="penalties that the continual strategy adds to the loss"),
    "memory": Choice("memory", "reservoir", optional=True, doc="the memory that the continual strategy trains on too"),
    "evaluation": EVALUATION,
    "log_every": Option(50, least=1, doc="outer steps between points of the training curves"),
    "checkpoint_every": Option(200, least=1, doc="outer steps between checkpoints"),
    "validate_every": Option(100, least=1, doc="outer steps between points of the validation curve"),
    "progress": Option(True, doc="shows progress with the time that is left"),
    "tensorboard": Option(True, doc="writes TensorBoard files"),
    "profile": Option(None, type=str, doc="folder for a JAX trace of the run"),
    "devices": Option(None, type=int, least=1, doc="number of devices; None: all"),
}

OPERATIONAL = ("checkpoint_every", "log_every", "name", "profile", "progress", "tensorboard", "validate_every")
"""Keys that cannot change a number: a resumed run may have other values."""

PLACES = ("data.path", "data.download", "start_from")
"""Keys that name a place. A digest holds what lies there against the run, so a folder may move."""
