"""Counts worked by hand, and those of the official rule against a slow sampler in plain Python."""

import dataclasses
import random

import numpy as np
import pytest
from scipy import stats

from nip.data import TASKS, Examples, Rule, baselines, encode, evaluate, generate
from nip.data.tasks.statistics import statistics


def examples(*texts, labels=None):
    tokens = [encode(text) for text in texts]
    labels = [evaluate(each) for each in tokens] if labels is None else labels
    offsets = np.cumsum([0, *map(len, tokens)])
    return Examples(TASKS["listops"], "train", np.concatenate(tokens), offsets, np.array(labels))


def test_counts_worked_by_hand():
    counted = statistics(examples("[MAX 1 [MIN 3 4 5 ] ]", "[MAX 3 0 ]", "[SM 9 9 [MED 1 2 ] [MED [SM 1 0 ] 2 ] ]"))
    assert counted.examples == 3
    assert counted.tokens == 8 + 4 + 15
    assert counted.length == {"min": 4, "mean": 9, "median": 8, "max": 15}
    assert counted.depth == {2: 1, 3: 1, 4: 1}
    assert counted.operators == {"[MIN": 1, "[MAX": 2, "[MED": 2, "[SM": 2}
    assert counted.roots == {"[MIN": 0, "[MAX": 2, "[MED": 0, "[SM": 1}
    assert counted.arguments == {2: 5, 3: 1, 4: 1}
    assert counted.digits == {"0": 2, "1": 3, "2": 2, "3": 2, "4": 1, "5": 1, "6": 0, "7": 0, "8": 0, "9": 2}
    assert counted.labels == {0: 1, 1: 0, 2: 0, 3: 2, 4: 0, 5: 0, 6: 0, 7: 0, 8: 0, 9: 0}
    assert counted.commonest_share == pytest.approx(2 / 3)


def test_baselines_worked_by_hand():
    train = examples("[MAX 1 9 ]", "[MAX 9 2 ]", "[MAX 1 1 ]", "[MIN 0 2 ]", "[MIN 3 0 ]", "[MIN 0 0 ]", "[SM 4 4 ]")
    # commonest of train: 0; by root: MAX 9, MIN 0, SM 8; MED was never seen, so 0
    nines = ["[MAX 9 9 ]", "[MAX 9 0 ]", "[MAX 8 9 ]", "[MAX 7 9 ]"]
    test = examples(*nines, "[MAX 0 0 ]", "[MIN 0 1 ]", "[SM 4 4 ]", "[MED 0 0 ]")
    assert baselines(train, test) == {"commonest_label": pytest.approx(3 / 8), "root_operator": pytest.approx(7 / 8)}


def test_tasks_without_operators_have_the_first_baseline_only():
    text = dataclasses.replace(TASKS["listops"], name="text")
    train = Examples(text, "train", np.arange(1, 4), np.arange(4), np.array([1, 1, 0]))
    assert baselines(train, train) == {"commonest_label": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="Got a split of text"):
        statistics(train)


def slowly(n):
    """The official rule, word for word: (root, label, length, numbers of arguments) of `n` trees."""
    source = random.Random(0)

    def node(depth):
        if depth == 10 or source.random() > 0.25:
            return source.randrange(10), 1, []
        children = [node(depth + 1) for _ in range(source.randint(2, 10))]
        values = [value for value, _, _ in children]
        operator = source.choice(["[MIN", "[MAX", "[MED", "[SM"])
        roots.append(operator)  # children come first: the last one is the root's
        value = {"[MIN": min, "[MAX": max, "[MED": lambda v: int(np.median(v)), "[SM": lambda v: sum(v) % 10}[operator]
        numbers = [len(children), *(number for child in children for number in child[2])]
        return value(values), 2 + sum(length for _, length, _ in children), numbers

    made = []
    while len(made) < n:
        roots = []
        label, length, numbers = node(1)
        if 500 < length < 2000:
            made.append((roots[-1], label, length, numbers))
    return made


@pytest.fixture(scope="module")
def official():
    return generate(Rule(), (30000, 5000, 15000), seed=9)


def test_labels_roots_and_arguments_are_those_of_the_rule(official):
    counted = statistics(official["train"])
    slow = slowly(1000)
    labels = np.bincount([label for _, label, _, _ in slow], minlength=10)
    assert stats.chi2_contingency([labels, list(counted.labels.values())]).pvalue > 1e-3
    roots = [sum(root == operator for root, *_ in slow) for operator in counted.roots]
    assert stats.chi2_contingency([roots, list(counted.roots.values())]).pvalue > 1e-3
    # numbers of arguments within one tree depend on each other, so the means are compared and not the counts
    means = [np.mean(numbers) for *_, numbers in slow]
    mean = sum(n * times for n, times in counted.arguments.items()) / sum(counted.arguments.values())
    assert abs(np.mean(means) - mean) < 0.03
    assert abs(np.mean([length for _, _, length, _ in slow]) - counted.length["mean"]) < 55


def test_operators_and_digits_are_uniform(official):
    counted = statistics(official["train"])
    assert stats.chisquare(list(counted.operators.values())).pvalue > 1e-3
    assert stats.chisquare(list(counted.roots.values())).pvalue > 1e-3
    assert stats.chisquare(list(counted.digits.values())).pvalue > 1e-3
    assert set(counted.arguments) == set(range(2, 11))
    assert max(counted.depth) <= 10


def test_the_baselines_of_the_official_set(official):
    found = baselines(official["train"], official["test"])
    assert found["commonest_label"] == pytest.approx(0.17, abs=0.01)
    assert found["root_operator"] == pytest.approx(0.36, abs=0.015)
