"""Omniglot, N-way K-shot: characters that no training task has shown, from a few drawings of each.

Command:  python train.py --config=configs/omniglot.py:maml --config.data.path=FOLDER --workdir=runs/omniglot
          python eval.py --workdir=runs/omniglot
          after the colon a method of metapers.experiment.METHODS: maml, fomaml, meta_sgd, maml_plus_plus, proto_maml,
          imaml, reptile, anil, boil, biases, film, ridge, prototypes; behind it any of FORMS with a dash before each,
          omniglot.py:maml_plus_plus-20way-pool-means:
            20way    20 ways instead of 5
            pool     convolutions of stride 1 and max-pooling instead of stride 2
            short    with pool: features of a quarter of the length, which two cores have in less than 100 minutes
            means    every user's head begins at the class means of his support (Proto-MAML), with any method whose head
                     takes gradient steps
            support  no transduction, features measured against the support set's
            drawn    with 20 ways: maml or fomaml at half length from drawn parameters
            paper    maml or fomaml as in MAML's paper, at its whole length: for a GPU
          FOLDER holds the original archives images_background.zip and images_evaluation.zip.
Minutes:  see docs/results.md, which has each row's.
Expect:   docs/results.md; 600 test episodes of 5 ways and 1 shot, characters split 1100 / 100 / 423.

Shorter than the papers. maml, 5 ways, and "drawn": 30,000 outer steps of 16 episodes with a cosine from drawn
parameters, where its paper has 60,000 of 32 (of 16 with 20 ways) at an outer rate of 1e-3; here 5e-3, and 2e-3 with 20
ways. prototypes: 18,000 steps of 8 episodes of 20 ways at 2e-3, "short" 4,500 at 3e-3, more ways than they are judged
on, as in Snell, Swersky, Zemel 2017. Every other method, and maml with 20 ways, is meant to begin with the features of
a finished run of prototypes (of prototypes-pool, prototypes-pool-short, prototypes-support) and takes few steps from
there (LENGTHS), at small rates:

    --config.start_from=runs/prototypes/strategies/naive/versions/0

Where the head adapts, every user's begins at zero and that stays so, which is the zeroing trick (``model.head_scale``,
a ``frozen`` group; reptile moves it): another head would pull good features about in the first inner step. With
"means" it begins at the class means instead. These train with as many inner steps as they are judged after, reptile
alone with fewer, as its paper has it.

Three query drawings of each class instead of one, in training and at test; grey images (``data.smooth``), theirs are
black and white. "paper" has MAML's own protocol in all this, for 5 ways and for 20: 60,000 steps of 32 and 16 episodes
at 1e-3, one query, black and white, the head drawn with deviation 1. fomaml has the inner rate there that validation
characters chose. What they chose elsewhere, and what was not swept: benchmarks/results/family_sweep.md.

The published codes normalise a query by the statistics of all queries of its episode (transductive): so does
``model.norm`` "batch", the default here, and the report says so. "group", "layer" and "support" do not.
"""

from metapers import experiment
from metapers.experiment.config import one_of

OWN = {  # where a method is not as the others; imaml from its paper, of reptile's the minibatches
    "maml": {"inner_steps": 1},  # from drawn parameters
    "imaml": {"inner_steps": 16, "inner_rate": 0.1, "strength": 2.0, "cg_steps": 5},
    "reptile": {"inner_optimizer": "sgd", "inner_rate": 0.02, "minibatch": 10},
}
FROM_FEATURES = (1000, 8)  # outer steps, episodes in each
FROM_MEANS = (200, 8)  # on validation characters as good as 1,000
LENGTHS = {"drawn": (30000, 16), "prototypes": (18000, 8), "short": (4500, 8), "reptile": (2000, 8)}
FORMS = ("5way", "20way", "pool", "short", "means", "support", "drawn", "paper")
SAID = {
    "pool": "pooled",
    "short": "short features",
    "means": "head from means",
    "support": "no transduction",
    "drawn": "from drawn parameters",
    "paper": "as in the paper",
}


def get_config(method="maml"):
    method, *forms = method.split("-")
    for form in forms:
        one_of("form", form, FORMS)
    if len({*forms}) < len(forms) or {"5way", "20way"} <= {*forms}:
        raise ValueError(f"forms must be named once, and one number of ways, got {forms}")
    ways = 20 if "20way" in forms else 5
    config = experiment.method_config("omniglot", "conv4", method)
    solved = config.learner.inner == "written"
    config.name = ", ".join([f"Omniglot, {ways} ways, 1 shot: {method}", *(SAID[one] for one in forms if one in SAID)])
    config.strategies = ("naive",)  # one stage: nothing to forget
    config.bank = False  # an episode does not return
    config.data.update(ways=ways, queries=3, train_ways=20 if solved and ways == 5 else 0)
    means = "means" in forms or method == "proto_maml"
    if means and (config.learner.inner != "gradient" or config.learner.adapts not in ("all", "head")):
        raise ValueError(f"form 'means' needs a method whose head takes gradient steps, got {method!r}")
    if "drawn" in forms and (ways != 20 or means or method not in ("maml", "fomaml")):
        raise ValueError(f"form 'drawn' is of maml and fomaml with 20 ways, got {method!r} with {forms}")
    paper = "paper" in forms
    if paper and (method not in ("maml", "fomaml") or {*forms} - {"5way", "20way", "paper"}):
        raise ValueError(f"form 'paper' is of maml and fomaml and of no other form, got {method!r} with {forms}")
    short = "short" in forms
    drawn = method == "prototypes" or paper or "drawn" in forms or method == "maml" and ways == 5 and not means
    if short and ("pool" not in forms or drawn and not solved):
        raise ValueError(f"form 'short' is of pooled features and what begins with them, got {method!r} with {forms}")
    if drawn:
        length, users = LENGTHS[("short" if short else "prototypes") if solved else "drawn"]
    else:
        length, users = LENGTHS.get(method, FROM_MEANS if means and ways == 5 else FROM_FEATURES)
    config.update(steps=length, users=users, chunk=50, schedule="cosine")
    if "support" in forms:
        config.model.norm = "support"
    config.model.pool = "pool" in forms
    if means:
        config.model.prototypes = True
    # joint training through a head that stays at zero would learn nothing
    zeroed = not (drawn or solved or method == "joint") and config.learner.adapts in ("all", "head")
    config.learner.update(inner_steps=5, inner_rate=0.1 if means else 0.4)
    config.learner.update({} if means else OWN.get(method, {}))
    if ways == 20 and config.learner.inner == "gradient":  # 0.1: MAML's paper, where the head is drawn
        config.learner.update(inner_steps=5, inner_rate=0.5 if zeroed and not means else 0.1)
    config.learner.block = 1 if 20 in (ways, config.data.train_ways) else 4  # what stays in the cache is faster
    if config.learner.inner == "gradient":
        config.learner.unroll = min(5, config.learner.inner_steps)
    if zeroed:
        config.model.head_scale = 0.0
        config.optimizer.personal.name = "frozen"  # the head's start, which alone is of this group here
    first = 1e-3 if paper else 3e-3 if short else 2e-3 if solved or ways == 20 else 5e-3
    for group in ("param", "inner") if zeroed else ("param", "personal", "inner"):
        config.optimizer[group].rate = first if drawn else 1e-4
    config.continual.update(penalty=(), memory="none")
    steps = (0, 1) if solved else (0, 1, 3, 5)
    if paper:  # its code sums a loss over the ways, at 0.4 and 0.1: 2.0 for the mean, at which the first order fails
        users, count, steps = (32, 1, (0, 1, 3)) if ways == 5 else (16, 5, (0, 1, 3, 5))
        config.update(steps=60000, users=users, schedule="constant")
        config.data.update(queries=1, smooth=False)
        config.learner.update(inner_rate=0.5 if config.learner.first_order else 2.0, inner_steps=count, unroll=count)
        config.model.head_scale = config.model.filters**0.5  # its weights are drawn with deviation 1
    if method == "imaml":  # as far from the start as in training: nearer, it is another problem's solution
        steps = (*steps, config.learner.inner_steps)
    if method == "reptile":  # its paper: the start moves by plain steps, and 50 inner ones at test
        steps = (*steps, 20, 50)
        for group in ("param", "personal"):
            config.optimizer[group].update(name="sgd", rate=0.1 if "support" in forms else 1.0)
    config.evaluation.update(
        metric="accuracy", shots=(ways,), steps=steps, headline_shots=ways, headline_steps=steps[-1]
    )
    if method == "maml_plus_plus":  # its paper: every step is judged for a tenth, first order for a half
        config.learner.update(anneal=length // 10, second_from=length // 2)
    config.log_every = 500
    config.checkpoint_every = 1000
    config.validate_every = 5000
    return config
