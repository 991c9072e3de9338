"""WISDM: six activities of 36 people from a phone in the pocket; adapting to how one person moves is the task.

Command:  python train.py --config=configs/wisdm.py:maml --config.data.path=FOLDER --workdir=runs/wisdm
          python eval.py --workdir=runs/wisdm
          after the colon a method of metapers.experiment.METHODS. FOLDER holds WISDM_ar_v1.1_transformed.arff.
Minutes:  see docs/results.md.
Expect:   docs/results.md; first 16 examples of a person as support, all later ones as query. 36 people are few:
          a fold has about seven test users, and intervals are wide.
Sweep:    benchmarks/validation_sweep.py --config=configs/wisdm.py:METHOD --set data.path=FOLDER --rates …, on the
          validation users of all folds (two seeds), chose each method's inner rate (LoRA's: those of folds 0 and 1):
          benchmarks/results/family_sweep.md.
"""

from metapers import experiment

RATES = {"reptile": 0.03, "anil": 1.0, "biases": 1.0, "film": 1.0, "cavia": 3.0, "imaml": 0.02, "lora": 1.0}


def get_config(method="maml"):
    config = experiment.method_config("wisdm", "mlp", method)
    config.name = f"activities by person: {method}"
    config.strategies = ("naive",)
    config.bank = False
    config.seeds = 5
    config.data.update(support=16, query=32, full=1.0, from_start=0.5)
    config.model.hidden = (64, 64)
    config.update(steps=600, users=8, chunk=100, schedule="cosine", clip_norm=1.0)
    config.learner.update(inner_steps=5, inner_rate=RATES.get(method, 0.1))
    for group in ("param", "personal"):
        config.optimizer[group].rate = 2e-3
    if method == "maml_plus_plus":
        config.learner.anneal = config.steps // 5
    config.continual.update(penalty=(), memory="none")
    steps = (0, 1) if config.learner.inner == "written" else (0, 1, 5, 10)
    headline = min(5, steps[-1])
    if method == "lora":  # a user's gradient is clipped: without, some users diverge at every rate that is good
        config.learner.update(inner="optimized", inner_optimizer="sgd", inner_clip=1.0)
    config.evaluation.update(metric="accuracy", shots=(4, 16), steps=steps, headline_shots=16, headline_steps=headline)
    config.log_every = 200
    config.checkpoint_every = 600
    config.validate_every = 200
    return config
