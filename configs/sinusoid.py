"""Sinusoid regression (Finn et al. 2017): amplitude and phase differ by user; one inner step on 10 points.

Command:  python train.py --config=configs/sinusoid.py --workdir=runs/sinusoid && python eval.py --workdir=runs/sinusoid
          after a colon a method of metapers.experiment.METHODS and the shots: sinusoid.py:meta_sgd-5 (docs/results.md)
Minutes:  about 4 on one core.

Expected: 600 test users, five seeds, MSE after one step on 10 examples 0.47 [0.43, 0.51] (0.50 on validation users;
3.1 before adapting; the network without an inner loop, fine-tuned, 2.55). Published: 0.77 +- 0.11 after 70,000
iterations at a constant rate; here 20,000 with a cosine. Steps were chosen on validation users: 0.94 after 3,000
(constant rate), 0.93 after 5,000, 0.49 after 20,000. An optimizer rate of 2e-3 made some users diverge on 5 examples.
"""

from metapers import experiment

RATES = {"cavia": 1.0, "reptile": 1e-3}  # of the inner step: CAVIA's own, an inner Adam's; else MAML's 0.01


def get_config(method="maml"):
    name, _, given = method.partition("-")
    if given and not (given.isdecimal() and int(given)):
        raise ValueError(f"shots must be a whole number >= 1 after the dash, got {given!r}")
    shots = int(given or 10)
    config = experiment.method_config("sinusoid", "mlp", name)
    config.name = f"sinusoid, {shots} shots" + (f": {name}" if name != "maml" else "")
    config.seeds = 5
    config.model.hidden = (40, 40)
    config.strategies = ("naive",)
    config.update(steps=20_000, users=25, chunk=1000, schedule="cosine")
    config.data.update(support=shots, query=shots, users=600)
    config.learner.update(inner_steps=1, inner_rate=RATES.get(name, 0.01))
    config.optimizer.param.rate = config.optimizer.personal.rate = 1e-3
    if name == "cavia":  # its paper's length; the rate is the best for validation users (family_sweep.md)
        config.steps = 50_000
        config.optimizer.param.rate = config.optimizer.personal.rate = 3e-3
    config.continual.update(penalty=(), memory="none")
    config.evaluation.update(metric="mse", shots=(shots,), headline_shots=shots, headline_steps=1)
    # rates learned for one step diverge after several on some users
    once = config.learner.inner == "written" or config.learner.rates != "fixed"
    config.evaluation.steps = (0, 1) if once else (0, 1, 2, 5)
    config.log_every = 1000
    config.checkpoint_every = 5000
    config.validate_every = 5000
    return config
