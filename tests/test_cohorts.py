"""The worst decile in both directions, the signs of metrics, and what is refused."""

import numpy as np
import pytest

from metapers.scores.cohorts import sign, worst_decile


def test_worst_decile_takes_the_far_end_and_rounds_up():
    values = np.random.default_rng(0).permutation(np.arange(25.0))
    assert worst_decile(values) == 23.0  # 22, 23, 24
    assert worst_decile(values, larger_is_better=True) == 1.0
    assert worst_decile(np.array([3.0])) == 3.0


def test_signs():
    assert [sign(name) for name in ("rmse", "mae", "mse", "nll", "accuracy")] == [-1, -1, -1, -1, 1]
    with pytest.raises(ValueError, match="metric must be one of .* got 'speed'"):
        sign("speed")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: worst_decile(np.array([])), "values must be"),
        (lambda: worst_decile(np.array([np.nan])), "values must be finite, got nan"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
