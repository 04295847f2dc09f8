"""Metrics against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.finetuning.glue.metrics import METRICS, measure
from nip.finetuning.glue.registry import TASKS

ANSWERS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(ANSWERS)
def test_classification_metrics(answers: list[tuple[int, int]]):
    predicted, labels = np.array(answers).T
    counted = {pair: answers.count(pair) for pair in ((0, 0), (0, 1), (1, 0), (1, 1))}
    tn, fn, fp, tp = (counted[pair] for pair in ((0, 0), (0, 1), (1, 0), (1, 1)))
    found = measure(["accuracy", "f1", "matthews_correlation", "combined_score"], predicted, labels)
    assert found["accuracy"] == pytest.approx((tp + tn) / len(answers))
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    assert found["matthews_correlation"] == pytest.approx((tp * tn - fp * fn) / math.sqrt(product) if product else 0.0)
    named = [found[name] for name in ("accuracy", "f1", "matthews_correlation")]
    assert found["combined_score"] == pytest.approx(sum(named) / 3)


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=30))
def test_regression_metrics(pairs: list[tuple[int, int]]):
    x, y = np.array(pairs, float).T

    def r(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(), b - b.mean()
        return 0.0 if not a.any() or not b.any() else float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))

    def ranks(a: np.ndarray) -> np.ndarray:
        return np.array([(a < value).sum() + ((a == value).sum() - 1) / 2 for value in a])

    found = measure(["pearson", "spearmanr", "combined_score"], x, y)
    assert found["pearson"] == pytest.approx(r(x, y), abs=1e-9)
    assert found["spearmanr"] == pytest.approx(r(ranks(x), ranks(y)), abs=1e-9)
    assert found["combined_score"] == pytest.approx((found["pearson"] + found["spearmanr"]) / 2)


def test_every_task_names_metrics_that_exist():
    for task in TASKS.values():
        assert task.metric == task.metrics[0] != "combined_score"
        assert set(task.metrics) <= {*METRICS, "combined_score"}
