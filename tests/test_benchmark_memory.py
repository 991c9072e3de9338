"""The memory table: all ways to differentiate give one gradient, and the page says what each of them held."""

import numpy as np
import pytest

from benchmarks import memory, memory_step

pytestmark = pytest.mark.benchmarks

TINY = {"width": 8, "layers": 1, "length": 4, "users": 3, "sequences": 1, "inner-steps": 2, "rank": 2}


@pytest.fixture(scope="module")
def plain():
    return memory_step.measure(TINY, "plain", 0, 1)


@pytest.mark.parametrize(("how", "blocks"), [("remat", 0), ("mixed", 0), ("plain", 2), ("mixed", 1)])
def test_every_way_gives_the_gradient_of_plain_reverse_mode(plain, how, blocks):
    told, gradient = memory_step.measure(TINY, how, blocks, 1)
    largest = max(float(np.max(np.abs(leaf))) for leaf in plain[1])
    for a, b in zip(gradient, plain[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10 * largest, rtol=0)
    assert told["loss"] == pytest.approx(plain[0]["loss"], rel=1e-12) and told["temp_mb"] > 0


def test_the_gradient_is_of_all_parameters_and_second_order(plain):
    told, gradient = plain
    assert told["parameters"] == sum(leaf.size for leaf in gradient) > told["personal"] > 0
    assert all(np.any(leaf) for leaf in gradient)  # nothing is at zero that should move


def test_sizes_are_the_defaults_unless_told():
    parser = memory.arguments
    given = parser(["--width", "64", "--small"])
    assert memory.asked(given) == ["--width", "64"]
    with pytest.raises(SystemExit):
        parser(["--blocks", "0"])


def test_the_page_shows_what_has_run(tmp_path):
    run = {
        "temp_mb": 50.0,
        "step_mb": 60.0,
        "peak_rss_mb": 500.0,
        "seconds": 2.0,
        "compile_s": 3.0,
        "parameters": 1000,
        "personal": 10,
    }
    rows = [
        {"name": "plain reverse", "runs": [run | {"temp_mb": 100.0}], "difference_64": 0.0, "difference_32": 0.0},
        {"name": "mixed mode", "runs": [run], "difference_64": 1e-16, "difference_32": 2e-6},
        {"name": memory.name_of("remat", 1), "runs": [], "failed": {"32": "exit status 1, and said: no memory"}},
    ]
    machine = {"revision": "abc", "date": "2026-01-01", "processor": "P", "cores": 2, "device": "cpu"}
    page = memory.report({"machine": machine | {"packages": {"jax": "0"}}, "command": "c", "rows": rows})
    assert "1,000 parameters, 10 of them personal" in page
    assert "| mixed mode | 50 | 2.00 | 60 | 500 | 2 | 3 | 1.0e-16 | 2.0e-06 |" in page
    assert "| rematerialised steps, blocks of 1 | – | – | – | – | – | – | – | – |" in page
    assert page.endswith("- rematerialised steps, blocks of 1, float32: exit status 1, and said: no memory\n")


def test_the_largest_difference_is_over_the_largest_entry(tmp_path):
    a, b = str(tmp_path / "a.npz"), str(tmp_path / "b.npz")
    np.savez(a, **{"0": np.array([1.0, -4.0]), "1": np.array([2.0])})
    np.savez(b, **{"0": np.array([1.0, -4.0]), "1": np.array([2.5])})
    assert memory.apart(a, b) == 0.125
