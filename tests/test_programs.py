"""What training and a search compile: one program for each structure, whatever values the state carries."""

import contextlib
import functools

import jax
import numpy as np
import pytest
from jax._src import monitoring

from metapers import placement, samplers, spec, workdir
from metapers.run import ahead, bank_rows, loop, search, setup, training
from metapers.run.training import train
from metapers.scoring import scorer as scoring
from metapers.spec.building import learner as build_learner
from tests import runs
from tests.contracts import world

pytestmark = pytest.mark.xdist_group("programs")
quick = functools.partial(runs.quick, penalties={"anchor": {"strength": 0.01}})


class Watch:
    """Counts what a run traces, compiles and calls, period by period."""

    def __init__(self, monkeypatch):
        self.programs: list[loop.Program] = []
        self.traces: list[int] = []  # of the outer step of each program
        self.calls = 0
        self.by_period: dict[tuple[str, int], int] = {}
        build, run_period, put = loop.program, training.one_period, bank_rows._put
        monkeypatch.setattr(loop, "program", lambda *given, **options: self.watched(build, *given, **options))
        monkeypatch.setattr(bank_rows, "_put", self.counted(put))

        def one_period(run, name, now, before):
            begun = self.calls
            kept = run_period(run, name, now, before)
            self.by_period[name, now] = self.calls - begun
            return kept

        monkeypatch.setattr(training, "one_period", one_period)

    def counted(self, function):
        def call(*arguments):
            self.calls += 1
            return function(*arguments)

        if hasattr(function, "lower"):
            call.lower = function.lower
        return call

    def watched(self, build, learner, *given, **options):
        place = len(self.programs)

        def update(*arguments):
            self.traces[place] += 1
            return learner.update(*arguments)

        compiled = build(learner._replace(update=update), *given, **options)
        self.programs.append(compiled)
        self.traces.append(0)
        names = ("init", "chunk", "consolidate")
        return compiled._replace(**{name: self.counted(getattr(compiled, name)) for name in names})

    def compiled(self, name):
        return [getattr(one, name)._cache_size() for one in self.programs]


@contextlib.contextmanager
def xla_compiles():
    """The names of the functions that XLA compiles meanwhile, in any thread."""
    names = []

    def listen(event, _, **about):
        if event.endswith("backend_compile_duration"):
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    monitoring.unregister_event_duration_listener(listen)


def test_a_kind_of_learner_compiles_once_for_the_whole_stream_and_a_period_is_few_dispatches(monkeypatch, tmp_path):
    watch = Watch(monkeypatch)
    config = quick(arms=("frozen", "fine_tune", "cumulative", "continual"), data__periods=3)
    config = spec.merged(config, {"bank": False, "evaluation.steps": (0,), "evaluation.headline_steps": 0})
    config = spec.merged(config, {"inner.first_order": True})  # the least to compile
    with xla_compiles() as names:
        train(config, tmp_path, compile_ahead=True)
    # frozen, fine_tune and cumulative are one program; continual, with penalty and memory, and joint_model are others
    assert len(watch.programs) == 3 and watch.traces == [1, 1, 1]
    assert watch.compiled("chunk") == watch.compiled("init") == [1, 1, 1]
    assert max(watch.compiled("consolidate")) == 1
    consolidations = sum(watch.compiled("consolidate"))
    assert {"jit(mapped)"} == set(names) & {"jit(mapped)", "jit(split)"}  # of chunks and consolidations
    assert names.count("jit(mapped)") == 3 + consolidations  # neither the thread's nor the run's twice
    made = spec.arms(spec.check(config))
    trained = {key: calls for key, calls in watch.by_period.items() if key[0] != "frozen" or key[1] == 0}
    assert len(trained) == 1 + 3 + 3 + 3 + 3
    for (name, now), calls in trained.items():
        chunks = -(-made[name].steps(now) // config.chunk)
        assert chunks <= calls <= chunks + 5, (name, now, calls, chunks)


def test_a_search_over_values_that_the_state_carries_compiles_one_outer_step(monkeypatch, tmp_path):
    watch = Watch(monkeypatch)
    values = {"penalties.anchor.strength": (0.1, 10.0), "optimizer.param.rate": (0.01, 0.02)}
    values |= {"inner.rates.rate": (0.05, 0.1)}
    specs = [f"{key}={','.join(map(str, each))}" for key, each in values.items()]
    search.run(quick(inner__rates="log_meta_sgd", inner__first_order=True, outer_steps=4), specs, tmp_path)
    rows = workdir.read_json(tmp_path / workdir.SWEEP)["rows"]
    assert len(rows) == 8 and len({row["rank_by"] for row in rows}) == 8  # each value reached its combination
    # the others are those of the states with which the combinations begin: they take no step
    assert sorted(watch.traces)[-2:] == [0, 1] and sorted(watch.compiled("chunk"))[-2:] == [0, 1]
    assert max(watch.compiled("init")) == max(watch.compiled("consolidate")) == 1


def lowered(**changes):
    """The outer step of a run as it is given to the compiler."""
    config = spec.check(quick(devices=1, **changes))
    made = setup.components(config)
    learner = build_learner(made.arms["continual"].config, made.model, None)
    sampler = samplers.with_replacement(made.stream.family, config.meta_batch)
    compiled, data = loop.program(learner, sampler, chunk=config.chunk), sampler.data((0, 0))
    first = jax.eval_shape(jax.vmap(made.model.init), scoring.roots(made))
    state = jax.eval_shape(compiled.init, first, data)  # values do not reach the compiler
    numbers = placement.place((np.int32(0), np.int32(config.outer_steps), np.int32(0)), None, by_seed=False)
    return compiled.chunk.lower(state, scoring.roots(made), data, *numbers).as_text()


def test_runs_that_differ_in_a_carried_value_are_the_same_program():
    one = lowered(penalties={"anchor": {"strength": 1.0}})
    assert lowered(penalties={"anchor": {"strength": 10.0}}) == one
    assert lowered(penalties={"ewc": {"strength": 1.0}}) != one


def learned(**changes):
    config = quick(inner__rates="log_meta_sgd", inner__first_order=True, outer_steps=4, **changes)
    return jax.tree.map(np.asarray, search.learned(setup.components(config), [config], "continual"))


def test_two_devices_are_one_device_and_seeds_are_single_seeds(monkeypatch):
    spread = learned(devices=2)  # the users of a step
    two = learned(seeds=2, devices=2)  # the seeds
    build, made = loop.program, {}

    def once(*given, chunk, **options):  # seeds are arguments of a program
        made[chunk] = made.get(chunk) or build(*given, chunk=chunk, **options)
        return made[chunk]

    monkeypatch.setattr(loop, "program", once)
    singles = [learned(devices=1, seed=seed) for seed in range(2)]
    assert world.distance(spread, singles[0]) < 1e-10
    for seed, alone in enumerate(singles):
        assert world.distance(jax.tree.map(lambda leaf, seed=seed: leaf[seed : seed + 1], two), alone) < 1e-10


def test_what_a_thread_compiles_changes_nothing_and_what_fails_there_is_met_in_training(tmp_path, monkeypatch):
    config = quick(arms=("fine_tune",), data__periods=1)
    train(config, tmp_path / "plain")
    train(config, tmp_path / "ahead", compile_ahead=True)

    def fails(run, name):
        raise ValueError("not in the thread")

    monkeypatch.setattr(ahead, "_steps", fails)
    monkeypatch.setattr(ahead, "_scores", fails)
    train(config, tmp_path / "fails", compile_ahead=True)
    plain = runs.numbers(tmp_path / "plain")
    assert plain and not runs.same_bits(plain, runs.numbers(tmp_path / "ahead"))
    assert not runs.same_bits(plain, runs.numbers(tmp_path / "fails"))
