"""Omniglot, N-way K-shot: characters that no training task has shown, from a few drawings of each.

Command:  python train.py --config=configs/omniglot.py:maml --config.data.path=FOLDER --workdir=runs/omniglot
          python eval.py --workdir=runs/omniglot
          after the colon a method of metapers.spec.METHODS: maml, fomaml, meta_sgd, maml_plus_plus, proto_maml, imaml,
          reptile, anil, boil, biases, film, ridge, prototypes; behind it any of FORMS with a dash before each,
          omniglot.py:maml_plus_plus-20way-pool-means:
            20way    20 ways instead of 5
            pool     convolutions of stride 1 and max-pooling instead of stride 2
            short    with pool: features of a quarter of the length, which two cores have in less than 100 minutes
            means    the head of every user begins at the class means of the support (Proto-MAML), with any method whose
                     head takes gradient steps
            support  no transduction: features are normalised by the statistics of the support set
            drawn    with 20 ways: maml or fomaml at half length from random parameters
            paper    maml or fomaml as in MAML's paper, at its whole length: for a GPU
          FOLDER holds the original archives images_background.zip and images_evaluation.zip.
Minutes:  see docs/results.md, which has each row's.
Expect:   docs/results.md; 600 test episodes of 5 ways and 1 shot, characters split 1100 / 100 / 423.

Lengths. They are shorter than in the papers:

- maml with 5 ways, and "drawn": 30,000 outer steps of 16 episodes with a cosine, from random parameters. The outer rate
  is 5e-3, and 2e-3 with 20 ways. MAML's paper has 60,000 steps of 32 episodes (16 with 20 ways) at 1e-3.
- prototypes: 18,000 steps of 8 episodes of 20 ways at 2e-3; "short": 4,500 at 3e-3. Training has more ways than
  evaluation, as in Snell, Swersky, Zemel 2017.
- Every other method, and maml with 20 ways: few steps at small rates (LENGTHS). They are meant to begin with the
  features of a finished run of prototypes (of prototypes-pool, prototypes-pool-short, prototypes-support):

    --config.start_from=runs/prototypes/arms/fine_tune/versions/0

The head. Where the head adapts, it begins at zero for every user and stays there, which is the zeroing trick
(``model.head_scale``, a ``frozen`` group; reptile moves it). Another head would spoil good features in the first inner
step. With "means" the head begins at the class means instead. These methods train with as many inner steps as
evaluation takes. Only reptile trains with fewer, as in its paper.

Episodes. They have three query drawings of each class instead of one, in training and at test. Images are grey
(``data.smooth``); those of the papers are black and white. "paper" follows MAML's own protocol in all this, for 5 ways
and for 20: 60,000 steps of 32 and 16 episodes at 1e-3, one query, black and white images, a random head with deviation
1. fomaml has the inner rate there that validation characters chose. benchmarks/results/family_sweep.md has what they
chose elsewhere, and what was not swept.

Transduction. The published codes normalise a query by the statistics of all queries of its episode. So does
``model.norm`` "batch", the default here, and the report says so. "group", "layer" and "support" do not.
"""

from typing import Any, NamedTuple

from metapers import spec
from metapers.options import ConfigError, nearest

FROM_FEATURES = (1000, 8)  # outer steps, episodes in each
FROM_MEANS = (200, 8)  # on validation characters as good as 1,000
LENGTHS = {"drawn": (30000, 16), "prototypes": (18000, 8), "short": (4500, 8), "reptile": (2000, 8)}
FORMS = ("5way", "20way", "pool", "short", "means", "support", "drawn", "paper")
SAID = {
    "pool": "pooled",
    "short": "short features",
    "means": "head from means",
    "support": "no transduction",
    "drawn": "from random parameters",
    "paper": "as in the paper",
}


class Row(NamedTuple):
    """A row of docs/results.md."""

    method: str
    forms: tuple[str, ...]
    ways: int
    solved: bool  # the head is computed in closed form
    means: bool  # the head begins at the class means
    random: bool  # parameters begin at random, else at the features of a finished run
    zeroed: bool  # the head begins at zero


def get_config(method="maml"):
    method, *forms = method.split("-")
    _check_forms(forms)
    config = spec.method_config("omniglot", "conv4", method)
    row = _row(config, method, tuple(forms))
    titles = [SAID[one] for one in forms if one in SAID]
    config.name = ", ".join([f"Omniglot, {row.ways} ways, 1 shot: {method}", *titles])
    spec.choose(config, "arms", ("fine_tune",))  # one period: nothing to forget
    config.bank = False  # an episode does not return
    config.data.update(ways=row.ways, queries=3, train_ways=20 if row.solved and row.ways == 5 else None)
    config.chunk = 50
    config.user_block = 1 if 20 in (row.ways, config.data.train_ways) else 4  # faster: the values fit in the cache
    spec.choose(config, "memory", "none")
    config.model.pool = "pool" in forms
    if "support" in forms:
        spec.choose(config, "model.norm", "support")
    if row.means:
        config.model.prototypes = True
    if row.zeroed:
        config.model.head_scale = 0.0
    _outer_loop(config, row)
    _inner_loop(config, row)
    steps = (0, 1) if row.solved else (0, 1, 3, 5)
    if "paper" in forms:
        steps = _as_in_the_paper(config, row)
    if method == "imaml":  # as many steps as in training: after fewer, the proximal problem is not solved
        steps = (*steps, config.inner.steps)
    if method == "reptile":  # its paper has 50 inner steps at test
        steps = (*steps, 20, 50)
    config.evaluation.update(metric="accuracy", shots=(row.ways,), headline_shots=row.ways)
    config.evaluation.update(steps=steps, headline_steps=steps[-1])
    config.log_every = 500
    config.checkpoint_every = 1000
    config.validate_every = 5000
    return config


def _outer_loop(config: Any, row: Row) -> None:
    if row.random:
        length, episodes = LENGTHS[("short" if "short" in row.forms else "prototypes") if row.solved else "drawn"]
    else:
        length, episodes = LENGTHS.get(row.method, FROM_MEANS if row.means and row.ways == 5 else FROM_FEATURES)
    config.update(outer_steps=length, meta_batch=episodes)
    spec.choose(config, "schedule", "cosine")
    if "paper" in row.forms:
        first = 1e-3
    elif "short" in row.forms:
        first = 3e-3
    else:
        first = 2e-3 if row.solved or row.ways == 20 else 5e-3
    config.optimizer.inner.rate = config.optimizer.param.rate = first if row.random else 1e-4
    if row.method == "reptile":  # its paper: plain steps move the start
        config.optimizer.param.rate = config.optimizer.personal.rate = 0.1 if "support" in row.forms else 1.0
    elif row.zeroed:  # the start of the head, which alone is of this group here
        spec.choose(config, "optimizer.personal", "frozen")
    else:
        config.optimizer.personal.rate = config.optimizer.param.rate
    if row.method == "maml_plus_plus":  # its paper: the multi-step loss for a tenth, first order for a half
        config.learner.update(msl_anneal_steps=length // 10, second_order_from=length // 2)


def _inner_loop(config: Any, row: Row) -> None:
    steps, rate = 5, 0.1 if row.means else 0.4
    if row.method == "maml" and row.ways == 5 and not row.means:  # from random parameters
        steps = 1
    if row.method == "imaml":  # its paper
        steps, rate = 16, 0.1
        config.inner.update(strength=2.0, cg_steps=5)
    if row.method == "reptile":  # the minibatches are those of its paper
        rate, config.inner.minibatch = 0.02, 10
        spec.choose(config, "inner.optimizer", "sgd")
    if config.inner.name == "gradient" and row.ways == 20:  # 0.1: MAML's paper, where the head is random
        rate = 0.5 if row.zeroed and not row.means else 0.1
    config.inner.steps = steps
    if config.inner.name == "gradient":
        config.inner.unroll = min(5, steps)
    for place in ("rates", "optimizer"):
        if place in config.inner:
            config.inner[place].rate = rate


def _as_in_the_paper(config: Any, row: Row) -> tuple[int, ...]:
    # The paper's code sums a loss over the ways, at rates of 0.4 and 0.1. That is 2.0 for the mean, at which the first
    # order fails.
    episodes, count, steps = (32, 1, (0, 1, 3)) if row.ways == 5 else (16, 5, (0, 1, 3, 5))
    config.update(outer_steps=60000, meta_batch=episodes)
    spec.choose(config, "schedule", "constant")
    config.data.update(queries=1, smooth=False)
    config.inner.update(steps=count, unroll=count)
    config.inner.rates.rate = 0.5 if config.inner.first_order else 2.0
    config.model.head_scale = config.model.filters**0.5  # the first weights of the head have deviation 1
    return steps


def _row(config: Any, method: str, forms: tuple[str, ...]) -> Row:
    ways = 20 if "20way" in forms else 5
    solved = config.inner.name == "closed_form"
    means = "means" in forms or method == "proto_maml"
    if means and (config.inner.name != "gradient" or config.model.adapts not in ("all", "head")):
        raise _left_out("means", method, forms, "it needs a method whose head takes gradient steps")
    if "drawn" in forms and (ways != 20 or means or method not in ("maml", "fomaml")):
        raise _left_out("drawn", method, forms, "it is a form of maml and fomaml with 20 ways")
    if "paper" in forms and (method not in ("maml", "fomaml") or {*forms} - {"5way", "20way", "paper"}):
        raise _left_out("paper", method, forms, "it is a form of maml and fomaml, and goes with no other form")
    random = method == "prototypes" or "paper" in forms or "drawn" in forms
    random = random or (method == "maml" and ways == 5 and not means)
    if "short" in forms and ("pool" not in forms or (random and not solved)):
        raise _left_out("short", method, forms, "it is a form of pooled features and of what begins with them")
    # joint training learns nothing through a head that stays at zero
    zeroed = not (random or solved or method == "joint") and config.model.adapts in ("all", "head")
    return Row(method, forms, ways, solved, means, random, zeroed)


def _check_forms(forms: list[str]) -> None:
    for form in forms:
        if form not in FORMS:
            raise ConfigError("form", form, f"one of {sorted(FORMS)}", nearest(form, FORMS))
    if len({*forms}) < len(forms) or {"5way", "20way"} <= {*forms}:
        raise ConfigError("forms", forms, "named once, and one number of ways")


def _left_out(form: str, method: str, forms: tuple[str, ...], because: str) -> ConfigError:
    return ConfigError("form", form, f"left out with method {method!r} and forms {list(forms)}", because)
