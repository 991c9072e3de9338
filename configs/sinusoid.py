"""Sinusoid regression."""

from metapers import experiment


def get_config():
    config = experiment.config_for("sinusoid", "mlp")
    config.name = "sinusoid, 10 shots"
    config.seeds = 2
    config.strategies = ("naive",)
    config.update(steps=20_000, users=25, chunk=1000, schedule="cosine")
    config.data.update(support=10, query=10, users=600)
    config.learner.update(inner_steps=1, inner_rate=0.01, adapts="all")
    config.optimizer.param.rate = 1e-3
    config.optimizer.personal.rate = 1e-3
    config.continual.update(penalty=(), memory="none")
    config.evaluation.update(metric="mse", shots=(10,), steps=(0, 1, 2, 5), headline_shots=10, headline_steps=1)
    config.log_every = 1000
    config.checkpoint_every = 5000
    config.validate_every = 5000
    return config
