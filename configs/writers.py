"""MNIST by its writers: 539 hands, each with about a hundred digits; adapting to a hand is the task.

Command:  python train.py --config=configs/writers.py:maml --config.data.path=FOLDER --workdir=runs/writers
          python eval.py --workdir=runs/writers
          after the colon a method of metapers.experiment.METHODS, with "-if_it_helps" behind it where a user goes only
          as far as serves on parts of his support held back in turn: writers.py:maml-if_it_helps. FOLDER holds MNIST's
          two training files and qmnist-train-labels-idx2-int (the writers of the digits).
Minutes:  see docs/results.md.
Expect:   docs/results.md; first 16 digits of a hand as support, all later ones as query.
"""

from metapers import experiment

# Inner rates, the best on validation users (benchmarks/results/family_sweep.md); 0.1 is MAML's and served meta_sgd too.
RATES = {"anil": 0.3, "biases": 0.3, "film": 0.1, "boil": 0.03, "imaml": 0.01, "reptile": 1e-3}


def get_config(method="maml"):
    name, (method, _, keep) = method, method.partition("-")
    config = experiment.method_config("writers", "conv4", method)
    config.name = f"digits by their writers: {name}"
    config.learner.keep = keep or "always"
    config.strategies = ("naive",)
    config.bank = False
    config.seeds = 5
    config.data.update(size=14, support=16, query=16, full=1.0, from_start=1.0)
    config.model.update(filters=32, norm="group")
    config.update(steps=400, users=16, chunk=50, schedule="cosine", clip_norm=1.0)
    config.learner.update(inner_steps=3, inner_rate=RATES.get(method, 0.1))
    config.learner.block = 2  # users whose values stay in the cache are faster than all at once
    for group in ("param", "personal"):
        config.optimizer[group].rate = 2e-3
    if method == "maml_plus_plus":
        config.learner.anneal = config.steps // 5
    config.continual.update(penalty=(), memory="none")
    steps = (0, 1) if config.learner.inner == "written" else (0, 1, 3, 5)
    headline = min(3, steps[-1])
    config.evaluation.update(metric="accuracy", shots=(4, 16), steps=steps, headline_shots=16, headline_steps=headline)
    config.log_every = 100
    config.checkpoint_every = 400
    config.validate_every = 200
    return config
