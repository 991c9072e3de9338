"""Worst decile and hurt users: both directions, and what is refused."""

import numpy as np
import pytest

from metapers.scores.cohorts import fraction_hurt, hurt, sign, worst_decile


def test_worst_decile_takes_the_far_end_and_rounds_up():
    values = np.random.default_rng(0).permutation(np.arange(25.0))
    assert worst_decile(values) == 23.0  # 22, 23, 24
    assert worst_decile(values, larger_is_better=True) == 1.0
    assert worst_decile(np.array([3.0])) == 3.0


def test_hurt_is_beyond_the_tolerance_only():
    reference = np.ones(4)
    adapted = reference + np.array([-0.5, 0.0, 5e-7, 2e-6])
    assert hurt(adapted, reference).tolist() == [False, False, False, True]
    assert hurt(adapted, reference, larger_is_better=True).tolist() == [True, False, False, False]
    assert fraction_hurt(adapted, reference) == 0.25
    assert fraction_hurt(adapted, reference, tolerance=1e-7) == 0.5


def test_signs():
    assert [sign(name) for name in ("rmse", "mae", "mse", "nll", "accuracy")] == [-1, -1, -1, -1, 1]
    with pytest.raises(ValueError, match="metric must be one of .* got 'speed'"):
        sign("speed")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: worst_decile(np.array([])), "values must be"),
        (lambda: worst_decile(np.array([np.nan])), "values must be finite, got nan"),
        (lambda: hurt(np.ones(2), np.ones(3)), r"reference must have the shape of adapted \(2,\), got \(3,\)"),
        (lambda: hurt(np.ones(2), np.ones(2), tolerance=-1.0), "tolerance must be >= 0, got -1.0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
