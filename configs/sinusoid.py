"""Sinusoid regression (Finn et al. 2017): amplitude and phase differ by user; one inner step on 10 points.

Command:  python train.py --config=configs/sinusoid.py --workdir=runs/sinusoid && python eval.py --workdir=runs/sinusoid
          after a colon a method of metapers.spec.METHODS and the shots: sinusoid.py:meta_sgd-5 (docs/results.md)
Minutes:  about 4 on one core.

Expected: 600 test users, five seeds, MSE after one step on 10 examples 0.47 [0.43, 0.51]; 0.50 on validation users.
It is 3.1 before adaptation, and 2.55 for the network without an inner loop after fine-tuning. Published: 0.77 +- 0.11
after 70,000 iterations at a constant rate; here 20,000 with a cosine. The number of outer steps was chosen on
validation users: MSE 0.94 after 3,000 (constant rate), 0.93 after 5,000, 0.49 after 20,000. With an outer rate of 2e-3
some users diverged on 5 examples.
"""

from metapers import spec
from metapers.options import ConfigError

RATES = {"cavia": 1.0, "reptile_adam": 1e-3}  # of inner steps: of CAVIA's paper, of an inner Adam; else MAML's 0.01


def get_config(method="maml"):
    name, _, given = method.partition("-")
    if given and not (given.isdecimal() and int(given)):
        raise ConfigError("shots", given, "a whole number >= 1 after the dash")
    shots = int(given or 10)
    config = spec.method_config("sinusoid", "mlp", name)
    config.name = f"sinusoid, {shots} shots" + (f": {name}" if name != "maml" else "")
    config.seeds = 5
    config.model.hidden = (40, 40)
    spec.choose(config, "arms", ("fine_tune",))
    config.update(meta_batch=25, chunk=1000)
    config.data.update(support=shots, query=shots, users=600)
    config.inner.steps = 1
    for place in ("rates", "optimizer"):
        if place in config.inner:
            config.inner[place].rate = RATES.get(name, 0.01)
    # 3e-3 and 50,000: CAVIA's length in its paper, and the best rate on validation users (family_sweep.md)
    config.outer_steps, rate = (50_000, 3e-3) if name == "cavia" else (20_000, 1e-3)
    for group in ("param", "personal"):
        if config.optimizer[group].name == "adam":  # the method `reptile` has an outer step of its own
            config.optimizer[group].rate = rate
    spec.choose(config, "schedule", "cosine")
    spec.choose(config, "memory", "none")
    config.evaluation.update(metric="mse", shots=(shots,), headline_shots=shots, headline_steps=1)
    # rates that were learned for one step make some users diverge after several
    learned = "rates" in config.inner and config.inner.rates.name != "constant"
    one_step = learned or config.inner.name == "closed_form"
    config.evaluation.steps = (0, 1) if one_step else (0, 1, 2, 5)
    config.log_every = 1000
    config.checkpoint_every = 5000
    config.validate_every = 5000
    return config
