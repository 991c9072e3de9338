"""Shakespeare's roles: the next character of what 715 speakers say; adapting to a role's voice is the task.

Command:  python train.py --config=configs/shakespeare.py:lora --config.data.path=FOLDER --workdir=runs/shakespeare
          python eval.py --workdir=runs/shakespeare
          after the colon a method of metapers.experiment.METHODS that a GRU has a form of (anil, biases, film, lora,
          joint, maml, ...), with "-if_it_helps" behind it as in configs/writers.py. FOLDER holds shakespeare_train.h5
          and shakespeare_test.h5; needs the extra `shakespeare`.
Minutes:  see docs/results.md.
Expect:   docs/results.md; first 8 windows of 40 characters as support, all later ones as query.
"""

from metapers import experiment

# Inner rates other than 0.1: the best of two on validation roles (benchmarks/results/family_sweep.md).
RATES = {"biases": 1.0, "reptile": 1e-3}


def get_config(method="lora"):
    name, (method, _, keep) = method, method.partition("-")
    config = experiment.method_config("shakespeare", "gru", method)
    config.name = f"next character by role: {name}"
    config.learner.keep = keep or "always"
    if keep == "if_it_helps":
        config.learner.margin = 1.0  # on validation roles 0 leaves more of them hurt for the same mean
    config.strategies = ("naive",)
    config.bank = False
    config.data.update(length=40, support=8, query=8, full=1.0, from_start=0.5, min_examples=4)
    config.model.update(embed=16, hidden=96)
    config.seeds = 5
    config.update(steps=300, users=16, chunk=50, schedule="cosine", clip_norm=1.0)
    config.learner.update(inner_steps=3, inner_rate=RATES.get(method, 0.1))
    config.learner.block = 4  # what stays in the cache is faster
    for group in ("param", "personal"):
        config.optimizer[group].rate = 3e-3
    if method == "maml_plus_plus":
        config.learner.anneal = config.steps // 5
    config.continual.update(penalty=(), memory="none")
    config.evaluation.update(metric="accuracy", shots=(2, 8), steps=(0, 1, 3, 5), headline_shots=8, headline_steps=3)
    config.log_every = 100
    config.checkpoint_every = 300
    config.validate_every = 300
    return config
