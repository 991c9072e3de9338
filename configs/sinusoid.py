"""Sinusoid regression (Finn et al. 2017): amplitude and phase differ by user; one inner step on 10 points.

Command:  python train.py --config=configs/sinusoid.py --workdir=runs/sinusoid && python eval.py --workdir=runs/sinusoid
Minutes:  about 2 on 2 cores.

Expected: 600 test users, two seeds, MSE after one step on 10 examples 0.44 [0.41, 0.48] (0.49 on validation users;
3.1 before adapting; the network without an inner loop, fine-tuned, 2.43). Published: 0.77 +- 0.11 after 70,000
iterations at a constant rate; here 20,000 with a cosine. Steps were chosen on validation users: 0.94 after 3,000
(constant rate), 0.93 after 5,000, 0.49 after 20,000. An optimizer rate of 2e-3 made some users diverge on 5 examples.
"""

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
