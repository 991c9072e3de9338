"""A version in the hands of a notebook: the numbers it gives are the numbers of the records."""

import functools
import warnings

import jax
import numpy as np
import pytest

from metapers import base, held_out, serving, spec
from metapers.members import registry
from metapers.run import input_schema, load
from metapers.scoring import records
from metapers.spec import building
from metapers.spec.inner_loops import CAUTIOUS
from metapers.tasks import user_hash

pytestmark = pytest.mark.xdist_group("small run")
loaded = functools.cache(serving.load)  # what is loaded once is compiled once


@pytest.fixture(scope="module")
def judged(small_run):
    return records.read_file(small_run / "records" / "test.parquet").to_pylist()


def support_and_query(stream, cohort, user, shots=4, horizon=4):
    first, last = cohort.offsets[user : user + 2]
    start = int(held_out.query_starts(np.array([last - first]), horizon)[0])
    rows = np.arange(first, last)
    take = min(shots, start)
    return rows[:take], rows[start:]


@pytest.mark.parametrize(
    ("arm", "version", "seed"), [("continual", -1, 0), ("fine_tune", 1, 1), ("joint_model", -1, 1)]
)
def test_adapted_predictions_have_the_errors_of_the_records(small_run, judged, arm, version, seed):
    served = loaded(small_run, arm=arm, version=version, seed=seed)
    stream = served.stream()
    cohort = stream.held_out("test", None)
    for user in range(3):
        support, query = support_and_query(stream, cohort, user)
        path = served.adapt(cohort.inputs[support], cohort.targets[support])
        for steps in (0, 2):
            personal = jax.tree.map(lambda leaf, steps=steps: leaf[steps], path)
            outputs = np.asarray(served.predict(cohort.inputs[query], personal))
            rmse = np.sqrt(np.mean(np.square(outputs - cohort.targets[query])))
            row = only(
                judged,
                arm=arm,
                version=2 if version == -1 else version,
                period=-1,
                seed=seed,
                shots=4,
                steps=steps,
                metric="rmse",
                start="fresh",
                user=user_hash(stream.users[cohort.users[user]]),
            )
            assert row["n_support"] == len(support) and row["n_query"] == len(query)
            np.testing.assert_allclose(rmse, row["value"], rtol=1e-10)


def test_a_user_who_diverges_is_served_the_start_with_a_warning(small_run):
    served = loaded(small_run)
    width = served.lineage["sizes"]["width"]
    with pytest.warns(RuntimeWarning, match="after 1 of 2 inner steps: the start in their place") as told:
        path = served.adapt(np.full((3, width), 1e200), np.ones(3))
    assert told[0].filename == __file__
    for leaf, start in zip(jax.tree.leaves(path), jax.tree.leaves(served.params.personal), strict=True):
        np.testing.assert_array_equal(leaf, np.broadcast_to(start, leaf.shape))
    with pytest.warns(RuntimeWarning, match="by the last inner step: the start in its place"):
        last = served.adapt(np.full((3, width), 1e200), np.ones(3), step=-1)
    for leaf, start in zip(jax.tree.leaves(last), jax.tree.leaves(served.params.personal), strict=True):
        np.testing.assert_array_equal(leaf, start)


@pytest.mark.parametrize("step", [-1, 0, 1, 2, -3])
def test_one_entry_is_that_of_the_path(small_run, step):
    served = loaded(small_run)
    width = served.lineage["sizes"]["width"]
    support = np.random.default_rng(0).normal(size=(3, width)), np.ones(3)
    path, one = served.adapt(*support), served.adapt(*support, step=step)
    for leaf, whole in zip(jax.tree.leaves(one), jax.tree.leaves(path), strict=True):
        np.testing.assert_allclose(leaf, whole[step], rtol=1e-12)
    assert not np.allclose(jax.tree.leaves(path)[0][0], jax.tree.leaves(path)[0][2])


@pytest.mark.parametrize("step", [0, -3])
def test_the_start_never_diverged_however_its_entry_is_named(small_run, step):
    served = loaded(small_run)
    one = served.adapt(np.full((3, served.lineage["sizes"]["width"]), 1.7e308), np.ones(3), step=step)  # no warning
    for leaf, start in zip(jax.tree.leaves(one), jax.tree.leaves(served.params.personal), strict=True):
        np.testing.assert_array_equal(leaf, start)


@pytest.mark.parametrize("step", [3, -4])
def test_an_entry_that_the_path_does_not_have_is_refused(small_run, step):
    served = loaded(small_run)
    with pytest.raises(ValueError, match=f"step must be between -3 and 2, got {step}"):
        served.adapt(np.zeros((3, served.lineage["sizes"]["width"])), np.ones(3), step=step)


@pytest.mark.parametrize("step", [-1, 1])
def test_adapted_and_answered_at_once_is_adapted_and_then_answered(small_run, step):
    served = loaded(small_run)
    width = served.lineage["sizes"]["width"]
    support, query = (np.random.default_rng(0).normal(size=(3, width)), np.ones(3)), np.eye(width)[:2]
    start = jax.tree.map(lambda leaf: leaf + 0.1, served.params.personal)
    for more in ({}, {"start": start}):
        then = served.predict(query, served.adapt(*support, step=step, **more))
        np.testing.assert_allclose(served.adapt_and_predict(*support, query, step=step, **more), then, rtol=1e-12)
    assert not np.allclose(then, served.predict(query, served.adapt(*support, step=step)))
    word = {-1: "the last inner step", 1: "inner step 1"}[step]
    with pytest.warns(RuntimeWarning, match=f"by {word}: the start in its place") as told:
        lost = served.adapt_and_predict(np.full((3, width), 1e200), np.ones(3), query, step=step)
    assert told[0].filename == __file__
    np.testing.assert_allclose(lost, served.predict(query), rtol=1e-12)
    assert isinstance(lost, np.ndarray)
    with pytest.raises(ValueError, match="inputs must hold >= 1 example to adapt to, got 0: predict"):
        served.adapt_and_predict(np.zeros((0, width)), np.zeros(0), query)
    with pytest.raises(ValueError, match="step must be an entry of the path, -1 for the last, got None"):
        served.adapt_and_predict(*support, query, step=None)


def test_one_user_takes_a_program_or_two_and_no_operation_beside_them(small_run, caplog):
    served = loaded(small_run)
    width = served.lineage["sizes"]["width"]
    support, query = (np.zeros((3, width)), np.ones(3)), np.zeros((2, width))
    jax.clear_caches()  # so that every operation compiles, and is told
    with jax.log_compiles():
        served.predict(query, served.adapt(*support, step=-1))
        served.adapt_and_predict(*support, query)
    told = [record.getMessage().split()[1] for record in caplog.records if record.getMessage().startswith("Compiling")]
    assert told == ["jit(_path)", "jit(<lambda>)", "jit(_outputs)"]


@pytest.mark.parametrize("more", [-3, 3])
def test_the_steps_of_the_headline_are_served_whatever_training_took(more, small_run, monkeypatch):
    config = load.opened(small_run)
    evaluated = config.inner.steps + more
    other = spec.merged(config, {"evaluation.headline_steps": evaluated})
    monkeypatch.setattr("metapers.serving.served.opened", lambda folder, plugins: other)
    served = serving.load(small_run)
    width = served.lineage["sizes"]["width"]
    path = served.adapt(np.zeros((3, width)), np.ones(3))
    assert {len(leaf) for leaf in jax.tree.leaves(path)} == {evaluated + 1}


def test_a_joint_run_is_served_at_the_chosen_rate_and_before_at_that_of_its_records(small_run, monkeypatch):
    config = load.opened(small_run)
    joint = spec.merged(config, {"learner": "joint", "gate": "cross_validated"})
    monkeypatch.setattr("metapers.serving.served.opened", lambda folder, plugins: joint)
    rates_of = lambda: jax.tree.leaves(serving.load(small_run, arm="fine_tune").params.inner)
    monkeypatch.setattr("metapers.serving.served.tuned", lambda folder: {"fine_tune": 0.25, "joint_model": 0.5})
    assert (rates := rates_of()) and all((leaf == 0.25).all() for leaf in rates)
    monkeypatch.setattr("metapers.serving.served.tuned", lambda folder: {})
    with pytest.warns(RuntimeWarning, match="'fine_tune' was trained without an inner loop, and no rate"):
        assert (rates := rates_of()) and all((leaf == joint.inner.rates.rate).all() for leaf in rates)
    assert joint.inner.rates.rate != CAUTIOUS
    monkeypatch.setattr(
        "metapers.serving.served.tuning_grid", lambda config: ()
    )  # nothing to choose, and so nothing to tell
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates_of()


def only(rows, **where):
    found = [row for row in rows if all(row[key] == value for key, value in where.items())]
    assert len(found) == 1, (len(found), where)
    return found[0]


def test_the_bank_has_the_rows_of_training_users_alone(small_run):
    served = loaded(small_run, "continual", 2)
    stream, stamps = served.stream(), served.bank["period"]
    training = np.zeros(len(stamps), bool)
    training[stream.training(2).users] = True
    assert (stamps[training] == 2).all() and (stamps[~training] == -1).all() and 0 < training.sum() < len(stamps)


def test_a_returning_user_starts_from_the_stored_row(small_run, judged):
    served = loaded(small_run, "continual", 2)
    stream = served.stream()
    cohort = stream.held_out("test", 2)
    user = int(np.flatnonzero(cohort.returning)[0])
    row = cohort.users[user]
    last = max(period for period in (0, 1) if row in stream.held_out("test", period).users)
    there = stream.held_out("test", last)
    seen, _ = support_and_query(stream, there, int(np.flatnonzero(there.users == row)[0]))
    path = loaded(small_run, "continual", last).adapt(there.inputs[seen], there.targets[seen])
    start = jax.tree.map(lambda leaf: leaf[2], path)  # what that period left of the user
    support, query = support_and_query(stream, cohort, user)
    path = served.adapt(cohort.inputs[support], cohort.targets[support], start=start)
    jax.tree.map(lambda leaf, first: np.testing.assert_array_equal(leaf[0], first), path, start)
    outputs = np.asarray(served.predict(cohort.inputs[query], jax.tree.map(lambda leaf: leaf[2], path)))
    value = only(
        judged,
        arm="continual",
        version=2,
        period=2,
        seed=0,
        shots=4,
        steps=2,
        metric="rmse",
        start="banked",
        user=user_hash(stream.users[row]),
    )["value"]
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(outputs - cohort.targets[query]))), value, rtol=1e-10)


def test_what_is_loaded_says_where_it_comes_from(small_run):
    served = loaded(small_run, "fine_tune", 0)
    assert served.lineage["arm"] == "fine_tune"
    assert [served.lineage[name] for name in ("version", "boundary", "seen_until")] == [0, 0, 0]
    assert jax.tree.leaves(served.params)[0].ndim == jax.tree.leaves(served.model.init(jax.random.key(0)))[0].ndim
    outputs = served.predict(np.zeros((3, served.lineage["sizes"]["width"])))
    assert outputs.shape == (3,)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"arm": "continul"}, ValueError, "did you mean 'continual'"),
        ({"seed": 2}, ValueError, "seed must be between 0 and 1, got 2"),
        ({"version": 5}, FileNotFoundError, r"number 5 is not among \[0, 1, 2\]"),
    ],
)
def test_what_is_not_there_is_named(small_run, given, error, message):
    with pytest.raises(error, match=message):
        serving.load(small_run, **given)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in .*config.json is missing"):
        loaded(tmp_path)


def test_no_queries_have_no_answers(small_run):
    served = loaded(small_run)
    width = served.lineage["sizes"]["width"]
    assert served.predict(np.zeros((0, width))).shape == (0,)
    assert served.adapt_and_predict(np.zeros((2, width)), np.ones(2), np.zeros((0, width))).shape == (0,)


def test_an_empty_or_ragged_support_is_refused(small_run):
    served = loaded(small_run)
    width = served.lineage["sizes"]["width"]
    with pytest.raises(ValueError, match="inputs must hold >= 1 example to adapt to, got 0: predict"):
        served.adapt(np.zeros((0, width)), np.zeros(0))
    with pytest.raises(ValueError, match="targets must hold 3 rows, as inputs do, got 2"):
        served.adapt(np.zeros((3, width)), np.zeros(2))


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        ([[0.0] * 12, [np.nan] * 12], [1.0, 1.0], r"inputs must be finite, got nan in row 1"),
        ([[0.0] * 12] * 2, [1.0, -np.inf], r"targets must be finite, got -inf in row 1"),
        ([[0.0] * 11] * 2, [1.0, 1.0], r"inputs must have rows of shape \(12,\), got \(11,\)"),
        ([[0.0] * 12] * 2, [[1.0], [1.0]], r"targets must have rows of shape \(\), got \(1,\)"),
        ([[0.0] * 12] * 2, 1.0, r"targets must hold a row for each example, got a single value"),
        ([[True] * 12] * 2, [1.0, 1.0], r"inputs must be float64, got bool"),
        ({"x": np.zeros((2, 12))}, [1.0, 1.0], r"inputs must hold the leaves \[''\], got \[\"\['x'\]\"\]"),
    ],
)
def test_examples_that_are_none_of_the_runs_are_refused(small_run, inputs, targets, message):
    served = loaded(small_run)
    given = [value if isinstance(value, dict) else np.asarray(value) for value in (inputs, targets)]
    whole = np.zeros((2, served.lineage["sizes"]["width"]))
    for call in (served.adapt, lambda *support: served.adapt_and_predict(*support, whole)):
        with pytest.raises(ValueError, match=f"^{message}"):
            call(*given)
    if message.startswith("inputs"):
        with pytest.raises(ValueError, match=f"^{message}"):
            served.predict(given[0])
        with pytest.raises(ValueError, match=f"^{message.replace('inputs', 'query', 1)}"):
            served.adapt_and_predict(whole, np.ones(2), given[0])


@pytest.mark.parametrize(
    ("source", "sizes", "bounds"),
    [
        ("movielens", {"items": 7, "genres": 3, "history": 0}, {"inputs": {"['item']": 8}, "targets": {}}),
        ("wisdm", {"classes": 6, "width": 43}, {"inputs": {}, "targets": {"": 6}}),
        ("shakespeare", {"vocabulary": 82, "length": 40}, {"inputs": {"": 82}, "targets": {"": 82}}),
        ("sinusoid", {"width": 1}, {"inputs": {}, "targets": {}}),
    ],
)
def test_integers_have_bounds_where_they_name_something(source, sizes, bounds):
    assert registry("source")[source].facts.below(sizes) == bounds


def test_what_the_runs_numbers_cannot_hold_is_refused():
    spec = {"": {"shape": [2], "dtype": "float32"}}
    with pytest.raises(ValueError, match="^inputs must be finite, got inf in row 1"):
        input_schema.read("inputs", np.array([[0.0, 1.0], [1e300, 0.0]]), spec)
    told, _ = input_schema.read("inputs", np.array([[0.0, 1.0]]), spec)
    assert told.dtype == np.float32
    wide = np.array([1, 2**32 + 3], np.uint64)
    with pytest.raises(ValueError, match=f"^targets must be >= 0 and < 5, got {2**32 + 3} in row 1"):
        input_schema.read("targets", wide, {"": {"shape": [], "dtype": "int32", "below": 5}})


@pytest.mark.parametrize(("item", "row"), [(8, 0), (-5, 1), (10**6, 2)])
def test_a_row_that_no_table_has_is_refused_and_whole_numbers_stand_for_floats(item, row):
    spec = {"['item']": {"shape": [], "dtype": "int32", "below": 8}, "['year']": {"shape": [], "dtype": "float32"}}
    items, years = np.array([0, 7, 3]), np.array([1, 2, 3])
    told, rows = input_schema.read("query", {"item": items, "year": years}, spec)
    assert rows == 3 and told["year"].dtype == np.float32 and told["item"].dtype.kind == "i"
    items[row] = item
    with pytest.raises(ValueError, match=rf"^query\['item'\] must be >= 0 and < 8, got {item} in row {row}$"):
        input_schema.read("query", {"item": items, "year": years}, spec)


def test_a_version_that_does_not_say_what_its_examples_look_like_is_served_all_the_same(small_run):
    served = loaded(small_run)
    older = served._replace(lineage={})
    support = np.random.default_rng(0).normal(size=(3, served.lineage["sizes"]["width"])), np.ones(3)
    for one, other in zip(*(jax.tree.leaves(which.adapt(*support)) for which in (served, older)), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="^targets must be finite, got nan in row 0"):
        older.adapt(support[0], np.full(3, np.nan))
    with pytest.raises(ValueError, match=r"^inputs must hold the same number of rows in every leaf, got \[2, 3\]"):
        older.predict({"a": np.zeros(2), "b": np.zeros(3)})


def test_supports_of_one_bucket_share_a_program_and_padding_is_hidden(small_run, caplog):
    served = loaded(small_run)
    rng, width = np.random.default_rng(0), served.lineage["sizes"]["width"]
    inputs, targets, query = rng.normal(size=(8, width)), rng.normal(size=8), rng.normal(size=(7, width))
    jax.clear_caches()
    with jax.log_compiles():
        answers = {n: served.adapt_and_predict(inputs[:n], targets[:n], query) for n in (5, 6, 7, 8)}
    told = [record.getMessage().split()[1] for record in caplog.records]
    assert told.count("jit(_outputs)") == 2  # of 6 and of 8 rows
    for n, answer in answers.items():
        batch = base.Batch(inputs[:n], targets[:n], np.ones(n, bool))
        adapted, _ = served.inner_loop.adapt(served.params, batch, None)
        expected = served.model.apply(adapted, query, np.ones(7, bool), None)
        assert answer.shape == (7,)
        np.testing.assert_allclose(answer, expected, rtol=1e-10)


def test_serving_reads_no_data(small_run, monkeypatch):
    monkeypatch.setattr(building, "stream", lambda config: pytest.fail("read the data"))
    assert serving.load(small_run).params.shared
