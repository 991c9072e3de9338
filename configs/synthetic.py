"""Linear-Gaussian users under drift."""

from metapers import experiment


def get_config():
    config = experiment.config_for("linear_gaussian", "linear")
    config.name = "synthetic users under drift"
    config.seeds = 2
    config.data.update(drift="recurring", stages=4, users_per_stage=400, examples=40, support=16, query=24)
    config.data.update(dim=4, spread=2.0, taste=0.3, noise=0.5, overlap=0.9)
    config.update(steps=600, users=32, chunk=200, clip_norm=1.0, schedule="cosine")
    config.learner.update(inner_steps=5, inner_rate=0.1, rates="log", shrink=4.0, pull=2.0)
    config.optimizer.param.rate = 3e-3
    config.optimizer.personal.rate = 3e-2
    config.optimizer.inner.rate = 3e-2
    config.continual.update(penalty=("anchor",), anchor_strength=1e-3, capacity=256, replayed=32, draws=8)
    config.evaluation.update(shots=(1, 2, 4, 8, 16), steps=(0, 1, 2, 5), headline_shots=16, headline_steps=5)
    config.log_every = 200
    config.checkpoint_every = 600
    config.validate_every = 200
    return config
