"""Config files of metapers 0.1 are translated; what cannot be is named with its line."""

import pytest

from metapers import spec
from metapers.command.arguments import Words
from metapers.command.migrate_config import MIGRATE_CONFIG
from metapers.command.process import Call
from metapers.spec import migrate, tree

NO_EFFECT = {  # options that nothing read in the default config: left out, and named
    "learner.inner_optimizer": "inner gradient",
    "learner.inner_clip": "inner gradient",
    "learner.minibatch": "inner gradient",
    "learner.strength": "inner gradient",
    "learner.cg_steps": "inner gradient",
    "learner.folds": "gate none",
    "learner.least_move": "gate none",
    "learner.margin": "gate none",
    "learner.anneal": "learner maml",
    "learner.second_from": "learner maml",
    "learner.clip": "aggregator mean",
    "warmup": "schedule constant",
    **{f"continual.ewc_{key}": "penalties ('anchor',)" for key in ("strength", "decay", "draws", "exact")},
}

SMALL = '''"""Ours: --config=ours.py --config.learner.inner_steps=3 --config.steps=50 --config.strategies=naive,static

also --config.learner.keep=if_it_helps, or --config.continual.penalty="('ewc',)" --config.clip_norm=0.0.
"""

from metapers import experiment

RATE = 0.2  # é: bytes are not characters


def get_config():
    config = experiment.config_for("linear_gaussian", "linear")
    config.name = "ours, é"
    config.seeds = 2
    config.strategies = ("naive",)
    config.data.stages = 4
    config.data.update(drift="sudden", full=1.0, from_start=0.5)
    config.update(steps=60, users=8, schedule="cosine", warmup=5)  # short
    config.learner.inner_steps = 3
    config.learner.update(
        inner_rate=RATE,
        rates="log",
        keep="if_it_moves",
        least_move=0.1,
    )
    config.learner.root = 0.0
    config.learner.shrink = config.learner.pull = 0.5
    config.learner.update(aggregator="clipped", clip=1.0, adapts="all")
    if config.learner.inner == "written":
        config.learner.shrink = 1.0
    for group in ("param", "personal"):
        config.optimizer[group].rate = 3e-3
    config.optimizer.table.name = "frozen"
    config.continual.update(penalty=("anchor",), anchor_strength=1e-3, capacity=256, replayed=16, draws=8)
    config.evaluation.headline_steps = 5
    config.validate_every = config.steps // 2
    return config
'''


def config_of(text):
    space = {}
    exec(compile(text, "ours.py", "exec"), space)
    return space["get_config"]()


def test_a_small_file_runs_and_says_the_same():
    text, left = migrate.migrated(SMALL)
    config = spec.check(config_of(text))
    old = {
        **{
            "strategies": ("naive",),
            "data.stages": 4,
            "seeds": 2,
            "data.drift": "sudden",
            "data.full": 1.0,
            "data.from_start": 0.5,
            "steps": 60,
            "users": 8,
        },
        **{"schedule": "cosine", "warmup": 5, "learner.inner_steps": 3, "learner.inner_rate": 0.2},
        **{"learner.rates": "log", "learner.keep": "if_it_moves", "learner.least_move": 0.1},
        **{"learner.aggregator": "clipped", "learner.clip": 1.0, "learner.adapts": "all"},
        **{"learner.shrink": 0.5, "learner.pull": 0.5},
        **{"optimizer.param.rate": 3e-3, "optimizer.personal.rate": 3e-3, "optimizer.table.name": "frozen"},
        **{"continual.penalty": ("anchor",), "continual.anchor_strength": 1e-3, "continual.capacity": 256},
        **{"continual.replayed": 16, "continual.draws": 8, "validate_every": 30, "name": "ours, é"},
    }
    assert dict(tree.leaves(config)) == dict(tree.leaves(spec.from_plain(migrate.migrated_values(old))))
    assert left == []
    assert "--config.inner.steps=3 --config.outer_steps=50 --config.arms=fine_tune,frozen" in text
    assert "--config.gate=cross_validated, or --config.penalties=ewc --config.clip_norm=None." in text
    assert "  # short\n" in text and "# é: bytes are not characters" in text
    assert "experiment" not in text and "written" not in text
    assert migrate.migrated(text)[0] == text  # nothing is old in it


@pytest.mark.parametrize("old", NO_EFFECT)
def test_an_option_without_effect_is_left_out_and_named(old):
    text, left = migrate.migrated(f"x = 1\nconfig.{old} = 7\n")
    assert (text, left) == ("x = 1\npass\n", [f"line 2: {old} has no effect with {NO_EFFECT[old]}, so it is left out"])


@pytest.mark.parametrize(
    ("line", "new", "left"),
    [
        ("config.learner.rates = name", 'spec.choose(config, "inner.rates", name)', "of the values of learner.rates"),
        ("config.clip_norm = norm", "config.clip_norm = norm", "clip_norm has None in place of 0"),
        ("a = config.learner.block = 0", "a = config.user_block = 0", "user_block has None in place of 0"),
        ("config.continual.replayed = 0", "config.memory.replay_batch = 0", "continual.replayed 0 is no memory"),
        ("config.learner.update(own)", "config.learner.update(own)", "update() has keys that the text does not show"),
        ("config.learner.update(**own)", "config.learner.update(**own)", "update() has keys that the text does not"),
        ("config.learner[key] = 3", "config.learner[key] = 3", "the keys of the section 'learner' are in several"),
        ("own = config.continual", "own = config.continual", "the keys of the section 'continual' are in several"),
        (
            'own = {"inner_steps": 3}',
            'own = {"inner_steps": 3}',
            "'inner_steps' looks like the key learner.inner_steps",
        ),
        ('own = {"learner.clip": 3}', 'own = {"learner.clip": 3}', "learner.clip has no effect with aggregator mean"),
        ("kind = config.learner.inner", "kind = config.inner.name", "of the values of learner.inner 'written' is"),
        ("from metapers.experiment.config import one_of", None, "one_of of metapers.experiment.config is another"),
        ("experiment.train(config)", "spec.train(config)", "experiment.train is another, or missing"),
        ('config.optimizer[one].name = "frozen"', None, "'frozen' has no options"),
        ("config.continual.penalty = names", 'spec.choose(config, "penalties", names)', "the penalties are computed"),
    ],
)
def test_what_cannot_be_translated_is_named_with_its_line(line, new, left):
    text, found = migrate.migrated(f"import os\n\n{line}\n")
    assert text == f"import os\n\n{line if new is None else new}\n"
    assert len(found) == 1 and found[0].startswith(f"line 3: {left}")


@pytest.mark.parametrize(
    ("line", "new"),
    [
        ('own = {"learner.inner_steps": 3, "steps": 7}', 'own = {"inner.steps": 3, "steps": 7}'),
        ("a = config.learner.inner_steps + config.steps", "a = config.inner.steps + config.outer_steps"),
        ("a = config.model.get('norm')", "a = config.model.get('norm')"),
        ('if config.learner.keep != "always": pass', 'if config.gate.name != "none": pass'),
        ("if a: config.update(steps=3, schedule='cosine')", None),
        ('config["learner"]["inner_steps"] = 3', "config.inner.steps = 3"),
        ("import metapers; metapers.experiment.config_for(a, b)", "import metapers; metapers.spec.config_for(a, b)"),
        ("from metapers import experiment as e, store", "from metapers import spec as e, store"),
        (
            "from metapers.experiment import config_for",
            "from metapers import spec\nfrom metapers.spec import config_for",
        ),
        ('config.model.norm = "group"', 'spec.choose(config, "model.norm", "group")'),
        ('config.continual.memory = "none"', 'spec.choose(config, "memory", "none")'),
        ("config.continual.anchor_strength = a", 'spec.choose(config, "penalties", {"anchor": {"strength": a}})'),
        ("config.learner.block = 2 if a else 0", "config.user_block = 2 if a else None"),
        ("config.seeds = 3; config.update(seed=1)", "config.seeds = 3; config.update(seed=1)"),
    ],
)
def test_a_line_is_translated(line, new):
    made = 'c = config_for("writers", "conv4")\n'
    text, left = migrate.migrated(made + line)
    new = "if a: spec.choose(config, \"schedule\", 'cosine'); config.outer_steps = 3" if new is None else new
    assert text == made + new and left == []


def test_where_a_rate_belongs_depends_on_the_inner_loop():
    def of(line, *before):
        text, left = migrate.migrated("\n".join([*before, line]))
        return text.splitlines()[-1], left

    rate = "config.learner.inner_rate = 0.3"
    assert of(rate) == ("config.inner.rates.rate = 0.3", [])
    assert of(rate, 'config.learner.inner = "implicit"') == ("config.inner.optimizer.rate = 0.3", [])
    reptile = 'config = experiment.method_config("wisdm", "mlp", "reptile")'
    text, left = migrate.migrated(f"{reptile}\n{rate}")
    assert text.splitlines() == [
        reptile.replace("experiment", "spec").replace("reptile", "reptile_adam"),
        of(rate, reptile)[0],
    ]
    assert of(rate, reptile) == ("config.inner.optimizer.rate = 0.3", [])
    line, left = of(rate, 'config = experiment.method_config("wisdm", "mlp", method)')
    assert len(left) == 2 and "the method is computed" in left[0]
    assert "inner.rates.rate with inner gradient and inner.optimizer.rate with inner optimized or implicit" in left[1]
    line, left = of('config.learner.inner = "optimized"', "config.learner.inner_steps = 7")
    assert line == 'spec.choose(config, "inner", "optimized")'
    assert left == ["line 2: spec.choose resets inner.steps, which line 1 sets; move that line below"]


def test_the_command_prints_the_text_and_names_what_is_left(tmp_path, capsys):
    def printed(text):
        (tmp_path / "old.py").write_text(text)
        code = MIGRATE_CONFIG.body(Call(None, Words(None, [], []), [], [str(tmp_path / "old.py")], []))
        return code, *capsys.readouterr()

    assert printed(SMALL) == (0, migrate.migrated(SMALL)[0], "")
    code, out, err = printed("config.steps = 3\nconfig.learner.update(own)\n")
    assert (code, out) == (1, "config.outer_steps = 3\nconfig.learner.update(own)\n")
    assert err.startswith("by hand: line 2: update() has keys that the text does not show")
