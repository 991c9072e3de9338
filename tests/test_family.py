"""The tables of method × stream: rows, baselines and what is missing, from recorded figures alone."""

import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import family, family_table
from benchmarks.family_rows import STREAMS
from metapers import spec, workdir
from metapers.command.arguments import file_config
from metapers.evaluation import study
from metapers.evaluation.published import PUBLISHED
from metapers.spec.inner_loops import TUNING_RATES, inner_rate

ROOT = Path(__file__).resolve().parents[1]


def interval(mean):
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def figures():
    own = {
        "command": "benchmarks/family.py --data=FOLDER --only=wisdm:maml",
        "machine": "Linux, 2 cores",
        "metric": "accuracy",
        "shots": 16,
        "steps": 5,
        "seeds": [0, 1],
        "folds": [0, 1],
        "users": 13,
        "adapted": interval(0.9),
        "baselines": {
            "unadapted": interval(0.7),
            "joint_model": interval(0.7),
            "joint_model_fine_tuned": interval(0.8),
            "class_prior": interval(0.3),
            "user_frequency": interval(0.4),
        },
        "hurt": 0.125,
        "transductive": False,
        "seconds": {"train": 60.0, "evaluate": 30.0, "compile": 5.0},
    }
    return {"wisdm:maml": own, "omniglot:maml": own | {"baselines": {"unadapted": interval(0.2)}, "transductive": True}}


def test_the_table_has_a_line_for_each_kept_row_and_names_what_is_missing():
    text = family_table.table(figures())
    (line,) = [one for one in text.splitlines() if "`wisdm.py:maml`" in one]
    cells = ["16", "**90.00**", "89.00 – 91.00", "70.00", "12.5%", "80.00", "user_frequency 40.00", "", "1.5"]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == cells
    assert "98.7 ± 0.4" in text and "`omniglot.py:maml`*, seeds 2" in text
    assert "Not run yet: fomaml, " in text and "shakespeare" not in text


def test_a_row_says_how_many_users_diverged_beside_those_who_are_worse():
    found = figures()
    found["wisdm:maml"]["diverged"] = 3
    assert "| 12.5%, 3 diverged |" in family_table.table(found)
    found["wisdm:maml"]["diverged"] = 0
    assert family_table.table(found) == family_table.table(figures()) and "diverged" not in family_table.table(found)


def test_the_grid_has_methods_by_streams_and_the_baselines():
    lines = family_table.grid(figures()).splitlines()
    assert lines[0] == "| method | omniglot | wisdm | published |"
    assert lines[2] == "| maml | 90.0 ± 1.0 | 90.0 ± 1.0 | omniglot 98.7 ± 0.4 |"
    assert lines[3] == "| *joint, fine-tuned* |  | 80.0 ± 1.0 | |"
    assert lines[4] == "| *best trivial* |  | 40.0 ± 1.0 | |"


def test_an_error_is_no_percentage_and_its_best_baseline_is_the_lowest():
    own = figures()["wisdm:maml"]
    trivial = {"global_mean": interval(3.5), "user_mean": interval(3.0)}
    row = own | {"metric": "mse", "shots": 5, "adapted": interval(0.5)}
    row["baselines"] = {"unadapted": interval(3.1)} | trivial
    text = family_table.table({"sinusoid:maml-5": row})
    (line,) = [one for one in text.splitlines() if "`sinusoid.py:maml-5`" in one]
    cells = ["5", "**0.500**", "0.490 – 0.510", "3.100", "12.5%", "–", "user_mean 3.000", "1.13 ± 0.18", "1.5"]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == cells
    assert "| maml-5 | 0.50 ± 0.01 | sinusoid 1.13 ± 0.18 |" in family_table.grid({"sinusoid:maml-5": row})


def test_the_grid_holds_baselines_of_the_shots_of_the_config_against_its_rows():
    own = figures()["wisdm:maml"] | {"metric": "mse", "adapted": interval(0.5)}
    ten = own | {"baselines": {"joint_model_fine_tuned": interval(2.4), "global_mean": interval(3.4)}}
    five = own | {"baselines": {"joint_model_fine_tuned": interval(2.9), "global_mean": interval(3.5)}}
    lines = family_table.grid({"sinusoid:maml-5": five, "sinusoid:maml": ten}).splitlines()
    assert lines[-2:] == ["| *joint, fine-tuned* | 2.40 ± 0.01 | |", "| *best trivial* | 3.40 ± 0.01 | |"]


def test_a_row_says_what_its_command_changed_and_a_stream_where_users_differ():
    kept = figures()
    other = kept["wisdm:maml"] | {"users": 7, "folds": [3]}
    other["command"] = (
        "x --only=wisdm:anil --config.outer_steps=90 --config.devices=1 --config.log_every=5 '--config.a=(1, 2)'"
    )
    text = family_table.table(kept | {"wisdm:anil": other})
    assert (
        "| `wisdm.py:anil`, seeds 2, `outer_steps=90`, `a=(1, 2)` |" in text and "| `wisdm.py:maml`, seeds 2 |" in text
    )
    wisdm = text[text.index("### Activities") :]
    assert "13 test users of folds 0, 1 (maml); 7 test users (anil); final version." in wisdm
    assert "13 test users of folds 0, 1; final version; a star: transductive" in text  # of Omniglot alone


def test_a_head_without_a_start_shows_none_and_the_joint_row_is_the_joint_line():
    own = figures()["wisdm:maml"]
    bare = own | {"baselines": {"unadapted": interval(0.2), "class_prior": interval(0.3)}}
    kept = {"wisdm:ridge": bare, "wisdm:joint": bare | {"adapted": interval(0.79)}}
    (line,) = [one for one in family_table.table(kept).splitlines() if "`wisdm.py:ridge`" in one]
    assert [cell.strip() for cell in line.split("|")[5:8]] == ["–", "–", "–"]
    lines = family_table.grid(kept).splitlines()
    assert "| *joint, fine-tuned* | 79.0 ± 1.0 | |" in lines and not any(one.startswith("| joint |") for one in lines)
    known = ("maml-5", "transformer-film", "gradient", "bayes", "neighbours")
    assert all(family_table.has_start(method) for method in known)
    assert not any(family_table.has_start(method) for method in ("prototypes", "ridge", "ridge-20way"))


def test_stars_are_shown_with_the_digits_in_which_rows_differ():
    own = figures()["wisdm:maml"]
    shown = {metric: family_table.shown(own | {"metric": metric}, 0.89781) for metric in ("accuracy", "rmse", "mse")}
    assert shown == {"accuracy": "89.78", "rmse": "0.8978", "mse": "0.898"}


@pytest.fixture
def kept_in(tmp_path, monkeypatch):
    """The benchmark with its figures and pages in a folder of the test, and rows that cost nothing."""
    for name, path in (("KEPT", "family.json"), ("TABLE", "results.md"), ("ROOT", "")):
        monkeypatch.setattr(family, name, tmp_path / path)
    for page in ("results.md", "README.md"):
        (tmp_path / page).write_text(f"before {family.MARKS[0]} {family.MARKS[1]} after")
    monkeypatch.setattr(sys, "argv", ["family.py", f"--workdir={tmp_path / 'runs'}"])
    return tmp_path


def test_rows_added_by_another_process_meanwhile_are_kept(kept_in, monkeypatch):
    made = figures()["wisdm:maml"]

    def row(name, method, data, out, overrides):
        family.KEPT.write_text(json.dumps({"wisdm:anil": made}))
        return made

    monkeypatch.setattr(family, "row", row)
    sys.argv += [f"--data={kept_in}", "--only=wisdm:maml"]
    assert family.main() == 0
    assert set(json.loads(family.KEPT.read_text())) == {"wisdm:anil", "wisdm:maml"}
    for page in ("results.md", "README.md"):
        text = (kept_in / page).read_text()
        assert text.startswith("before ") and text.endswith(" after") and "anil" in text and "maml" in text


def summary():
    return {
        "headline": {
            "metric": "mse",
            "shots": 5,
            "steps": 1,
            "adapted": interval(0.5),
            "baselines": {"unadapted": interval(3.1)},
        },
        "seeds": [0, 1],
        "folds": [0],
        "users": {"test": 600},
        "shares": {"start": {"worse": interval(0.0)}},
        "diverged": {"headline": 2, "anywhere": 5},
        "transductive": False,
        "seconds": {"train": 1.0, "evaluate": 1.0},
    }


def finished_at_once(monkeypatch):
    """The commands of a study end at once; (config, folder, overrides) of each run that is trained."""
    called = []

    def run(command, **options):
        assert command[:3] == [sys.executable, "-m", "metapers"] and options == {"cwd": family.ROOT, "check": True}
        if command[3] == "train":
            config, folder, *overrides = command[4:]
            folder = Path(folder.removeprefix("--workdir="))
            called.append((config.removeprefix("--config="), folder, tuple(overrides)))
            folder.mkdir(parents=True, exist_ok=True)
        else:
            (folder,) = (Path(word.removeprefix("--workdir=")) for word in command[4:])
            workdir.write_json(folder / "summary.json", summary())

    monkeypatch.setattr(study, "subprocess", SimpleNamespace(run=run))
    return called


def test_a_row_is_made_by_its_config_and_tells_a_command_without_paths_of_the_machine(kept_in, monkeypatch):
    called = finished_at_once(monkeypatch)
    sys.argv += ["--only=sinusoid:maml-5", "--config.outer_steps=7"]  # a stream that needs no data
    assert family.main() == 0
    assert called == [("configs/sinusoid.py:maml-5", called[0][1], ("--config.outer_steps=7",))]
    assert called[0][1].name == "sinusoid-maml-5-0"
    (kept,) = json.loads(family.KEPT.read_text()).values()
    assert (
        kept["command"] == "benchmarks/family.py --only=sinusoid:maml-5 --config.outer_steps=7" and kept["users"] == 600
    )
    assert kept["diverged"] == 2
    assert str(kept_in) not in family.KEPT.read_text()


def test_a_row_from_features_makes_them_first_and_says_so_with_their_minutes(kept_in, monkeypatch):
    called = finished_at_once(monkeypatch)
    sys.argv += [f"--data={kept_in}", "--only=omniglot:ridge,omniglot:maml"]
    assert family.main() == 0
    (first, features, _), (second, _, given), (third, _, plain) = called
    methods = [path.partition(":")[2] for path in (first, second, third)]
    assert methods == ["prototypes", "ridge", "maml"]
    assert f"--config.start_from={features}/arms/fine_tune/versions/0" in given
    assert not any("start_from" in one for one in plain)
    ridge, maml = (
        family_table.line("omniglot", *pair) for pair in zip(methods[1:], json.loads(family.KEPT.read_text()).values())
    )
    assert "from features" in ridge and "from features" not in maml
    assert family.KEPT.read_text().count('"features"') == 1 and str(kept_in) not in family.KEPT.read_text()


def test_every_omniglot_row_that_its_config_does_not_train_from_drawn_parameters_gets_features():
    stream = STREAMS["omniglot"]
    assert set(stream.methods) - set(stream.features) == {
        *("maml", "maml-20way-drawn", "fomaml-20way-drawn"),
        *("maml-paper", "fomaml-paper", "maml-20way-paper", "fomaml-20way-paper"),
        *("prototypes", "prototypes-support", "prototypes-pool", "prototypes-pool-short"),
    }


@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("reptile-support", "support"),
        ("maml_plus_plus-20way-pool-means", "pool"),
        ("meta_sgd-pool-short-means", "pool-short"),
    ],
)
def test_a_row_begins_with_features_that_were_learned_in_its_own_form(method, form, kept_in, monkeypatch):
    called = finished_at_once(monkeypatch)
    sys.argv += [f"--data={kept_in}", f"--only=omniglot:{method}"]
    there = workdir.open_workdir(kept_in / "runs" / f"omniglot-prototypes-{form}-0")
    workdir.write_json(there / "machine.json", {"kind": "GPU", "platform": "gpu", "count": 1})
    assert family.main() == 0
    assert family.known()[f"omniglot:{method}"]["machine"] == f"features on 1 x GPU; {family.machine(None)}"
    (donor, features, _), (_, _, given) = called
    assert donor.endswith(f":prototypes-{form}") and features.name == f"omniglot-prototypes-{form}-0"
    assert f"--config.start_from={features}/arms/fine_tune/versions/0" in given


def test_features_have_the_data_and_the_seeds_of_the_row_that_begins_with_them(kept_in, monkeypatch):
    called = finished_at_once(monkeypatch)
    common = ["--config.data.smooth=False", "--config.seeds=5", "--config.user_block=None", "--config.chunk=500"]
    sys.argv += [f"--data={kept_in}", "--only=omniglot:ridge", *common, "--config.outer_steps=7"]
    assert family.main() == 0
    (_, _, donor), (_, _, given) = called
    (row,) = family.known().values()
    assert (
        family_table.changed(row) == ", `data.smooth=False`, `seeds=5`, `outer_steps=7`"
    )  # the others change no number
    assert donor[-4:] == (*common,) and given[-5:] == (*common, "--config.outer_steps=7")


def test_a_row_says_on_which_accelerator_it_was_trained(tmp_path):
    here = family.machine(None)
    assert family.machine(tmp_path) == here and here.endswith(" cores")
    (tmp_path / "machine.json").write_text(json.dumps({"kind": "cpu", "platform": "cpu", "count": 2}))
    assert family.machine(tmp_path) == here
    (tmp_path / "machine.json").write_text(json.dumps({"kind": "NVIDIA H100", "platform": "gpu", "count": 1}))
    assert family.machine(tmp_path) == f"1 x NVIDIA H100; host at evaluation: {here}"
    (tmp_path / "row").mkdir()
    late = family.kept(summary(), "", 60.0, family.machine(tmp_path / "row", tmp_path))
    assert late["machine"] == f"features on 1 x NVIDIA H100; {here}"
    assert ", from features on 1 x NVIDIA H100 |" in family_table.line("omniglot", "maml", late)
    row = family.kept(summary(), "", 0.0, family.machine(tmp_path, tmp_path))
    assert row["machine"] == family.machine(tmp_path)
    assert ", on 1 x NVIDIA H100 |" in family_table.line("omniglot", "maml", row)
    assert ", on " not in family_table.line("omniglot", "maml", row | {"machine": here})


def test_data_must_be_given_where_a_chosen_row_reads_files(kept_in, capsys):
    sys.argv += ["--only=sinusoid:maml,wisdm:maml"]
    with pytest.raises(SystemExit):
        family.main()
    assert "--data is missing" in capsys.readouterr().err


@pytest.mark.parametrize("name", STREAMS)
def test_every_row_is_a_method_that_its_config_takes(name):
    for method in STREAMS[name].methods:
        made = file_config(f"{ROOT / 'configs' / name}.py:{method}")
        parts = method.split("-")
        assert {*parts} & {*spec.METHODS, "gradient"}  # the last is MovieLens' own
        assert made.data.name == {"ratings": "movielens"}.get(name, name)
        assert (inner_rate(made) or 0.0) <= max(TUNING_RATES)  # fine-tuning the joint model may go as far
        shots = [int(part) for part in parts if part.isdigit()]
        assert not shots or shots == [made.evaluation.headline_shots]
        assert name != "sinusoid" or (made.data.support, made.data.query) == (made.evaluation.headline_shots,) * 2
        assert name != "sinusoid" or made.model.hidden == (40, 40)  # the papers' network under every method
        if "maml_plus_plus" in parts:
            assert made.learner.name == "maml_plus_plus" and 0 < made.learner.msl_anneal_steps < made.outer_steps
        if "msl_lslr" in parts:
            assert made.learner.name == "multi_step" and 0 < made.learner.msl_anneal_steps < made.outer_steps
        if {"maml_plus_plus", "msl_lslr", "lslr"} & {*parts}:
            assert made.inner.rates.name == "lslr"
        if {"reptile", "reptile_adam"} & {*parts}:
            assert made.learner.name == "reptile"
            assert made.optimizer.param.name == ("sgd" if "reptile" in parts else "adam")
        assert ("cross_validated" in parts) == (made.gate.name == "cross_validated")


def test_every_published_figure_is_of_a_row_and_names_its_paper():
    assert all(method in STREAMS[stream].methods for stream, method in PUBLISHED)
    assert all("arXiv:" in one.source for one in PUBLISHED.values())


def test_the_pages_show_the_kept_figures():
    if not family.KEPT.exists():
        pytest.skip("no figures of the family are kept")
    kept = json.loads(family.KEPT.read_text())
    for path, made in ((family.TABLE, family_table.table), (ROOT / "README.md", family_table.grid)):
        shown = re.search(f"{family.MARKS[0]}\n(.*?)\n{family.MARKS[1]}", path.read_text(), re.DOTALL)
        assert shown and shown.group(1) == made(kept)


@pytest.mark.parametrize("key", family.known())
def test_a_kept_row_is_of_the_config_that_its_command_names(key):
    row, (stream, _, method) = family.known()[key], key.partition(":")
    config = file_config(f"{ROOT / 'configs' / stream}.py:{method}")
    given = dict(part.partition("=")[::2] for part in shlex.split(row["command"]))
    assert len(row["seeds"]) == int(given.get("--config.seeds", config.seeds))
    chosen = config.evaluation
    assert (row["shots"], row["steps"]) == (chosen.headline_shots, chosen.headline_steps)
    assert row["metric"] == chosen.metric
