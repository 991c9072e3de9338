"""MNIST by its writers: 539 writers, each with about a hundred digits; the task is to adapt to a handwriting.

Command:  python train.py --config=configs/writers.py:maml --config.data.path=FOLDER --workdir=runs/writers
          python eval.py --workdir=runs/writers
          after the colon a method of metapers.spec.METHODS, with the name of a gate behind it. With
          writers.py:maml-cross_validated a user adapts only as far as helps on parts of the support that are held back
          in turn. FOLDER holds MNIST's two training files and qmnist-train-labels-idx2-int (the writers of the digits).
Minutes:  see docs/results.md.
Expect:   docs/results.md; first 16 digits of a writer as support, all later ones as query.
"""

from metapers import spec

# Inner rates, the best on validation users (benchmarks/results/family_sweep.md). MAML's 0.1 was used for meta_sgd too.
RATES = {"anil": 0.3, "biases": 0.3, "film": 0.1, "boil": 0.03, "imaml": 0.01, "reptile_adam": 1e-3}


def get_config(method="maml"):
    name, (method, _, gate) = method, method.partition("-")
    config = spec.method_config("writers", "conv4", method)
    config.name = f"digits by their writers: {name}"
    spec.choose(config, "gate", gate or "none")
    spec.choose(config, "arms", ("fine_tune",))
    config.bank = False
    config.seeds = 5
    config.data.update(size=14, support=16, query=16, p_full_support=1.0, p_from_first=1.0)
    config.model.filters = 32
    spec.choose(config, "model.norm", "group")
    config.update(outer_steps=400, meta_batch=16, chunk=50, clip_norm=1.0)
    config.user_block = 2  # faster, as the values of so few users fit in the cache
    config.inner.steps = 3
    for place in ("rates", "optimizer"):
        if place in config.inner:
            config.inner[place].rate = RATES.get(method, 0.1)
    for group in ("param", "personal"):
        if config.optimizer[group].name == "adam":  # the method `reptile` has an outer step of its own
            config.optimizer[group].rate = 2e-3
    if "msl_anneal_steps" in config.learner:
        config.learner.msl_anneal_steps = config.outer_steps // 5
    spec.choose(config, "schedule", "cosine")
    spec.choose(config, "memory", "none")
    steps = (0, 1) if config.inner.name == "closed_form" else (0, 1, 3, 5)
    headline = min(3, steps[-1])
    config.evaluation.update(metric="accuracy", shots=(4, 16), steps=steps, headline_shots=16, headline_steps=headline)
    config.log_every = 100
    config.checkpoint_every = 400
    config.validate_every = 200
    return config
