"""The keys of a config that belong to no member, and the sections that hold members."""

from metapers.options import Arms, Choice, Option, Schema

ARM: Schema = {
    "trains_on": Option(
        "period",
        choices=("period", "so_far", "first"),
        doc="what an arm trains on in a period: this period, all periods so far, or the first period alone",
    ),
    "restarts": Option(False, doc="an arm begins each period from the same initialisation"),
    "budget": Option(
        "own",
        choices=("own", "matched", "converged"),
        doc="outer steps of an arm: `outer_steps` in each period; as many as give it at least the user-tasks of the "
        "arm that the run is about; or, for the last version alone, until validation users stop improving",
    ),
}
"""The keys that an arm alone has."""

OVERRIDES = (
    *("learner", "aggregator", "update_rule", "optimizer", "schedule", "clip_norm", "user_block"),
    *("penalties", "memory", "sampler", "boundary"),
)
"""The keys and sections that an arm may override: the learner, and what keeps the past. The rest is the same for all
arms, so that their rows can be compared."""

_NOTHING_KEPT = {"penalties": (), "memory": "none"}
_AS_OFTEN_AS_NEEDED = {"sampler": "with_replacement"}  # for as many user-tasks as another arm, or more
SHIPPED_ARMS = {
    "frozen": {"trains_on": "first", **_NOTHING_KEPT},
    "fine_tune": _NOTHING_KEPT,
    "cumulative": {
        "trains_on": "so_far",
        "restarts": True,
        "budget": "matched",
        **_NOTHING_KEPT,
        **_AS_OFTEN_AS_NEEDED,
    },
    "upper_bound": {
        "trains_on": "so_far",
        "restarts": True,
        "budget": "converged",
        **_NOTHING_KEPT,
        **_AS_OFTEN_AS_NEEDED,
    },
    "continual": {},
    "joint_model": {
        "trains_on": "so_far",
        "learner": "joint",
        "budget": "matched",
        **_NOTHING_KEPT,
        **_AS_OFTEN_AS_NEEDED,
    },
}
"""What an arm of these names overrides, where a config does not say otherwise."""

OLD_ARMS = {"static": "frozen", "naive": "fine_tune", "joint_so_far": "cumulative", "joint": "joint_model"}
"""The strategies of metapers 0.1 by name: no arm has one of these."""

BASELINE = "joint_model"
"""One model without an inner loop, trained on all periods so far; a run trains it where it can be trained."""

GROUPS = ("param", "table", "personal", "inner")
"""Groups of parameters with an optimizer of their own; any other group has the optimizer of "param"."""

EVALUATION: Schema = {
    "metric": Option("rmse", doc="the metric of the headline, one that the objective has"),
    "shots": Option((1, 2, 4, 8, 16), least=1, doc="support sizes, increasing"),
    "steps": Option((0, 1, 2, 5, 10), least=0, doc="inner steps, increasing; 0 is the start"),
    "headline_shots": Option(16, least=1, doc="the support size of the headline, one of `shots`"),
    "headline_steps": Option(5, least=0, doc="the inner steps of the headline, one of `steps`"),
    "tolerance": Option(0.05, least=0, doc="a difference that does not matter to a user, in the metric's unit"),
    "bootstrap": Option(2000, least=100, doc="resamples behind each interval"),
}

PLUGINS = Option((), item=str, doc="modules of other packages that register members")

ROOT: Schema = {
    "name": Option("", doc="title of the run"),
    "plugins": PLUGINS,
    "seed": Option(0, least=0, doc="the first seed"),
    "seeds": Option(1, least=1, doc="number of seeds, trained together"),
    "arms": Arms(
        ("frozen", "fine_tune", "cumulative", "continual"),
        doc="what is compared on the stream: arms by name, each with the keys that it overrides",
    ),
    "outer_steps": Option(100, least=1, doc="outer steps in each period, the same for every arm"),
    "meta_batch": Option(32, least=1, doc="new user-tasks in an outer step"),
    "chunk": Option(50, least=1, doc="outer steps in one compiled call"),
    "user_block": Option(None, type=int, least=1, doc="users computed at a time; None: all of a batch"),
    "clip_norm": Option(None, type=float, above=0.0, doc="bound on the norm of the outer gradient"),
    "start_from": Option(None, type=str, doc="folder of a version whose parameters this run begins with"),
    "bank": Option(True, doc="a version keeps the adapted parameters of each user for a later return"),
    "as_of": Option(
        "before",
        choices=("before", "end", "retrospective"),
        doc="data of other users in an example's statistics and in the baselines: up to the beginning of its period, "
        "up to its end, or of the whole stream",
    ),
    "data": Choice("source", "linear_gaussian", doc="the stream of users"),
    "model": Choice("model", "linear", doc="the network"),
    "inner": Choice("inner_loop", "gradient", optional=True, doc="how one user adapts"),
    "gate": Choice("gate", None, optional=True, doc="whether, and how far, a user adapts; none: always, all the way"),
    "learner": Choice("learner", "maml", doc="the outer loop"),
    "aggregator": Choice("aggregator", "mean", doc="how the gradients of users become one"),
    "update_rule": Choice("update_rule", "sum", doc="how the gradients of new and of remembered tasks become one"),
    "optimizer": {
        group: Choice("optimizer", "adam", doc=f"the outer optimizer of the group {group!r}") for group in GROUPS
    },
    "schedule": Choice("schedule", "constant", doc="the rates of the outer optimizers over outer steps"),
    "penalties": Choice("penalty", (), many=True, doc="terms of the loss that keep what earlier periods taught"),
    "sampler": Choice("sampler", "with_replacement", doc="which training users have a task in an outer step"),
    "boundary": Choice("boundary", "calendar", doc="when an arm consolidates"),
    "memory": Choice("memory", "reservoir", optional=True, doc="tasks of earlier periods that are trained on again"),
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
