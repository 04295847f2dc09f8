"""Statistics of data sets, and the accuracies of trivial baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks.examples import CHUNK, Examples
from nip.data.tasks.listops.language import OPERATORS, TOKENS, ZERO


@dataclass(frozen=True)
class Statistics:
    """Counts over one split of ListOps.

    Parameters
    ----------
    examples, tokens : int
        Number of examples and of tokens.
    length : dict of str to float
        ``min, mean, median, max`` of the number of tokens.
    depth : dict of int to int
        Examples by depth of the tree: the root is at depth 1, digits count.
    operators, roots : dict of str to int
        Counts of each operator, anywhere and at the root.
    arguments : dict of int to int
        Operators by their number of arguments.
    digits : dict of str to int
        Counts of each digit.
    labels : dict of int to int
        Examples by label.
    commonest_share : float
        Share of the most frequent label.
    """

    examples: int
    tokens: int
    length: dict[str, float]
    depth: dict[int, int]
    operators: dict[str, int]
    roots: dict[str, int]
    arguments: dict[int, int]
    digits: dict[str, int]
    labels: dict[int, int]
    commonest_share: float


def counts(examples: Examples) -> dict[str, Any]:
    """Count a split of any task.

    Returns
    -------
    dict
        ``examples``, ``tokens``, ``length`` (``min, mean, median, max``; of a pair the longer sequence) and ``labels``
        (examples by label).
    """
    labels = np.bincount(examples.labels, minlength=examples.task.n_classes)
    return {
        "examples": len(examples),
        "tokens": int(examples.tokens.size),
        "length": _length(examples),
        "labels": {label: int(count) for label, count in enumerate(labels)},
    }


def _length(examples: Examples) -> dict[str, float]:
    lengths = examples.lengths
    return {
        "min": float(lengths.min()),
        "mean": float(lengths.mean()),
        "median": float(np.median(lengths)),
        "max": float(lengths.max()),
    }


def statistics(examples: Examples) -> Statistics:
    """Count lengths, depths, operators, arguments and labels of a split of ListOps."""
    _require_listops(examples)
    from nip.data.tasks.listops import kernels

    depths, arguments, tokens = kernels.shapes(examples.tokens, examples.offsets)
    roots = np.bincount(_roots(examples), minlength=len(TOKENS))
    labels = np.bincount(examples.labels, minlength=examples.task.n_classes)
    return Statistics(
        examples=len(examples),
        tokens=int(examples.tokens.size),
        length=_length(examples),
        depth=_counted(np.bincount(depths)),
        operators={TOKENS[operator]: int(tokens[operator]) for operator in OPERATORS},
        roots={TOKENS[operator]: int(roots[operator]) for operator in OPERATORS},
        arguments=_counted(arguments),
        digits={TOKENS[i]: int(tokens[i]) for i in range(ZERO, ZERO + 10)},
        labels={label: int(count) for label, count in enumerate(labels)},
        commonest_share=float(labels.max() / len(examples)),
    )


def baselines(train: Examples, test: Examples) -> dict[str, float]:
    """Accuracies of trivial baselines on `test`, which a model that has learned anything exceeds.

    Returns
    -------
    dict of str to float
        ``commonest_label``: always the most frequent label of `train`. For ListOps also ``root_operator``: the most
        frequent label of `train` among examples with the same first token, the root's operator. If tokens have labels,
        ``commonest_label`` refers to these.

    Notes
    -----
    For ListOps in the official setting they are about 0.17 and 0.36.
    """
    n_classes = train.task.n_classes
    if train.targets is not None and test.targets is not None:
        of_train, of_test = (_labels_of_tokens(targets, n_classes) for targets in (train.targets, test.targets))
        return {"commonest_label": float(of_test[of_train.argmax()] / of_test.sum())}
    commonest = np.bincount(train.labels, minlength=n_classes).argmax()
    accuracies = {"commonest_label": float((test.labels == commonest).mean())}
    if train.task.name == "listops":
        by_root = np.zeros((train.task.vocab_size, n_classes), dtype=np.int64)
        np.add.at(by_root, (_roots(train), train.labels), 1)
        predicted = np.where(by_root.any(axis=1), by_root.argmax(axis=1), commonest)  # (vocab_size,)
        accuracies["root_operator"] = float((predicted[_roots(test)] == test.labels).mean())
    return accuracies


def _labels_of_tokens(targets: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
    portions = (targets[i : i + CHUNK] for i in range(0, targets.size, CHUNK))  # bincount makes a wider copy
    counted = sum(np.bincount(portion, minlength=n_classes + 1) for portion in portions)
    return np.asarray(counted, np.int64)[1:]


def _roots(examples: Examples) -> NDArray[np.integer]:
    return examples.tokens[examples.offsets[:-1]]


def _counted(counts: NDArray[np.integer]) -> dict[int, int]:
    return {value: int(count) for value, count in enumerate(counts) if count}


def _require_listops(examples: Examples) -> None:
    if examples.task.name != "listops" or examples.foreign:
        given = "token ids of unknown meaning" if examples.foreign else f"a split of {examples.task.name}"
        raise ValueError(f"Statistics are only for ListOps expressions. Got {given} instead.")
