"""WISDM: six activities of 36 people from a phone in the pocket; the task is to adapt to how a person moves.

Command:  python train.py --config=configs/wisdm.py:maml --config.data.path=FOLDER --workdir=runs/wisdm
          python eval.py --workdir=runs/wisdm
          after the colon a method of metapers.spec.METHODS. FOLDER holds WISDM_ar_v1.1_transformed.arff.
Minutes:  see docs/results.md.
Expect:   docs/results.md; first 16 examples of a person as support, all later ones as query. 36 people are few:
          a fold has about seven test users, and intervals are wide.
Sweep:    benchmarks/validation_sweep.py --config=configs/wisdm.py:METHOD --set data.path=FOLDER --rates …, on the
          validation users of all folds (two seeds), chose each method's inner rate (LoRA's: those of folds 0 and 1):
          benchmarks/results/family_sweep.md.
"""

from metapers import spec

RATES = {"reptile_adam": 0.03, "anil": 1.0, "biases": 1.0, "film": 1.0, "cavia": 3.0, "imaml": 0.02, "lora": 1.0}


def get_config(method="maml"):
    config = spec.method_config("wisdm", "mlp", method)
    config.name = f"activities by person: {method}"
    spec.choose(config, "arms", ("fine_tune",))
    config.bank = False
    config.seeds = 5
    config.data.update(support=16, query=32, p_full_support=1.0, p_from_first=0.5)
    config.model.hidden = (64, 64)
    config.update(outer_steps=600, meta_batch=8, chunk=100, clip_norm=1.0)
    if method == "lora":  # a user's gradient is clipped; without, some users diverge at every rate that is good
        spec.choose(config, "inner", "optimized", optimizer="sgd", clip_norm=1.0)
    config.inner.steps = 5
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
    steps = (0, 1) if config.inner.name == "closed_form" else (0, 1, 5, 10)
    headline = min(5, steps[-1])
    config.evaluation.update(metric="accuracy", shots=(4, 16), steps=steps, headline_shots=16, headline_steps=headline)
    config.log_every = 200
    config.checkpoint_every = 600
    config.validate_every = 200
    return config
