"""Shakespeare's roles: the next character in the lines of 715 speakers; the task is to adapt to a role's language.

Command:  python train.py --config=configs/shakespeare.py:lora --config.data.path=FOLDER --workdir=runs/shakespeare
          python eval.py --workdir=runs/shakespeare
          after the colon a method of metapers.spec.METHODS that a GRU has a form of (anil, biases, film, lora, joint,
          maml, ...), with "-cross_validated" behind it as in configs/writers.py. FOLDER holds shakespeare_train.h5
          and shakespeare_test.h5; needs the extra `shakespeare`.
Minutes:  see docs/results.md.
Expect:   docs/results.md; first 8 windows of 40 characters as support, all later ones as query.
"""

from metapers import spec

# Inner rates other than 0.1: the best of two on validation roles (benchmarks/results/family_sweep.md).
RATES = {"biases": 1.0, "reptile_adam": 1e-3}


def get_config(method="lora"):
    name, (method, _, gate) = method, method.partition("-")
    config = spec.method_config("shakespeare", "gru", method)
    config.name = f"next character by role: {name}"
    spec.choose(config, "gate", gate or "none")
    if gate == "cross_validated":
        config.gate.margin = 1.0  # on validation roles 0 leaves more of them worse than unadapted, for the same mean
    spec.choose(config, "arms", ("fine_tune",))
    config.bank = False
    config.data.update(length=40, support=8, query=8, p_full_support=1.0, p_from_first=0.5, min_examples=4)
    config.model.update(embed=16, hidden=96)
    config.seeds = 5
    config.update(outer_steps=300, meta_batch=16, chunk=50, clip_norm=1.0)
    config.user_block = 4  # faster, as the values of so few users fit in the cache
    config.inner.steps = 3
    for place in ("rates", "optimizer"):
        if place in config.inner:
            config.inner[place].rate = RATES.get(method, 0.1)
    for group in ("param", "personal"):
        if config.optimizer[group].name == "adam":  # the method `reptile` has an outer step of its own
            config.optimizer[group].rate = 3e-3
    if "msl_anneal_steps" in config.learner:
        config.learner.msl_anneal_steps = config.outer_steps // 5
    spec.choose(config, "schedule", "cosine")
    spec.choose(config, "memory", "none")
    config.evaluation.update(metric="accuracy", shots=(2, 8), steps=(0, 1, 3, 5), headline_shots=8, headline_steps=3)
    config.log_every = 100
    config.checkpoint_every = 300
    config.validate_every = 300
    return config
