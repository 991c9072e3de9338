"""Linear-Gaussian users under drift: the truth is known, so every table shows regret against the Bayes optimum.

Command:  python train.py --config=configs/synthetic.py --workdir=runs/synthetic && python eval.py --workdir=runs/synthetic
Minutes:  under 1 on 2 cores.
"""

from metapers import experiment


def get_config():
    config = experiment.config_for("linear_gaussian", "linear")
    config.name = "synthetic, recurring drift"
    config.seeds = 2
    config.data.update(drift="recurring", stages=4, users_per_stage=250, examples=40, support=16, query=24)
    config.update(steps=400, users=32, chunk=100)
    config.learner.update(inner_steps=5, inner_rate=0.1, rates="log", shrink=1.0)
    config.optimizer.param.rate = 1e-2
    config.optimizer.personal.rate = 1e-2
    config.optimizer.inner.rate = 1e-2
    config.schedule = "cosine"
    config.continual.update(penalty=("anchor",), anchor_strength=1e-3, capacity=512, replayed=96, draws=16)
    config.evaluation.update(shots=(1, 2, 4, 8, 16), steps=(0, 1, 2, 5), headline_shots=16, headline_steps=5)
    config.log_every = 100
    config.checkpoint_every = 200
    config.validate_every = 200
    return config
